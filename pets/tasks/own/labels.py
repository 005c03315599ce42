"""The classes of a label column: their values, order, names and words."""

from __future__ import annotations

import difflib
import logging
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridges.errors import BadInput, listed, shown
from pets.tasks.base import Label, check_words
from pets.tasks.own.tables import Table

MISSING, NONE = "", "-1"
"""A label that is not there, and the one that means that there is none, unless it is a class."""
MOST_CLASSES = 100

_WHOLE = re.compile(r"[+-]?\d{1,18}(\.0*)?")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelColumn:
    """A label column of one table: each row's label, written in one way.

    Attributes:
        name: of the column.
        values: `MISSING`, or what is there: "3" for 3, 3.0 and "3", "true" for True, a class's name.
        named: the names of the classes in their order, where the column has them.
    """

    name: str
    values: tuple[str, ...]
    named: tuple[str, ...] | None

    @classmethod
    def of(cls, table: Table, name: str) -> LabelColumn:
        """The column of a table.

        Raises:
            BadInput: there is none, or a cell holds no label.
        """
        named = table.classes(name) if name in table.names else None
        cells = table.column(name)
        return cls(name, tuple(_written(table, name, k, c, named) for k, c in enumerate(cells)), named)


def _written(table: Table, name: str, index: int, cell: Any, named: Sequence[str] | None) -> str:
    if named is not None and isinstance(cell, int):
        return named[cell] if 0 <= cell < len(named) else NONE  # what ClassLabel allows is -1
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return MISSING
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, (int, float, str)):
        return plain_number(str(cell).strip())
    raise BadInput(
        f"{table.row(index)}: column {shown(name)} holds {shown(cell)}, expected a label: a number, a "
        "text, true or false"
    )


def plain_number(text: str) -> str:
    """A whole number in its one writing, "3" for "3.0" and "03"; any other text as it is."""
    return str(int(float(text))) if _WHOLE.fullmatch(text) and abs(float(text)) < 2**53 else text


def classes(
    where: str, column: LabelColumn, words: Mapping[str, str] | None, count: int | None = None
) -> list[Label]:
    """The classes of a train set in their order, with the words that stand for them.

    The order is that of the column's own names, of numbers by value, else of the alphabet.

    Args:
        where: what messages call the table.
        column: of the train set.
        words: by class; where there is none a class's name is its word. None: they come later.
        count: how many come later; -1 is a class where they are as many as with it, of -1, 0 and 1 say.

    Raises:
        BadInput: these are no classes, or one has no word.
    """
    found = set(column.values) - {MISSING}
    told = NONE in (words or ()) or (column.named is None and count == len(found))
    if NONE in found and _is_none(found - {NONE}, column.named) and not told:
        found.discard(NONE)
    names = [n for n in column.named if n in found] if column.named else _ordered(found)
    if column.named and len(names) < len(column.named):
        without = listed([shown(n, 40) for n in column.named if n not in found])
        _log.warning("%s: no rows have the labels %s, which are no classes then", where, without)
    _check_number(where, column, names)
    _tell_of_lookalikes(where, column, names)
    if words is None:
        return [Label(name, name) for name in names]
    own = _words(where, column.name, names, words)
    labels = [Label(name, word) for name, word in zip(names, own, strict=True)]
    check_words(f"{where}, column {shown(column.name)}", labels)
    return labels


def _is_none(others: set[str], named: Sequence[str] | None) -> bool:
    return named is not None or all(value.isdigit() for value in others)


def _ordered(found: set[str]) -> list[str]:
    if all(is_number(value) and math.isfinite(float(value)) for value in found):
        return sorted(found, key=lambda value: (float(value), value))
    return sorted(found)


def _tell_of_lookalikes(where: str, column: LabelColumn, names: Sequence[str]) -> None:
    """Warn of classes that differ in case, spaces or a full stop alone, one of which may be a slip."""
    alike: dict[str, list[str]] = {}
    for name in names if column.named is None else ():
        plain = unicodedata.normalize("NFKC", name).casefold().replace("_", " ")
        alike.setdefault(" ".join(plain.split()).rstrip(" .,;:"), []).append(name)
    for plain, several in alike.items():
        if plain and len(several) > 1:
            told = [f"{shown(name, 40)} ({column.values.count(name)} rows)" for name in several]
            _log.warning(
                "%s, column %s: %s are classes of their own; if they are one, write them alike",
                where,
                shown(column.name),
                listed(told),
            )


def _check_number(where: str, column: LabelColumn, names: Sequence[str]) -> None:
    what = f"{where}, column {shown(column.name)}"
    advice = "for texts as answers write kind = 'generation' and answers = the column into a task file"
    if len(names) > 2 and all(map(is_number, names)) and not all(map(_WHOLE.fullmatch, names)):
        raise BadInput(
            f"{what} holds numbers such as {listed(names, 3)}, which are no classes: put them into "
            "classes first, low and high say"
        )
    if len(names) > MOST_CLASSES:
        raise BadInput(
            f"{what} has {len(names)} different labels, such as {listed(names, 3)}; expected at most "
            f"{MOST_CLASSES} classes: name the label column in a task file; {advice}"
        )
    if len(names) < 2:
        there = f"only the label {shown(names[0])}" if names else "no labels"
        minus = "; -1 is read as 'no label' unless words have it" if NONE in column.values else ""
        raise BadInput(f"{what} has {there}, expected at least 2 classes{minus}")


def is_number(text: str) -> bool:
    """Whether a text is written as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _words(where: str, column: str, names: Sequence[str], words: Mapping[str, str]) -> list[str]:
    order = listed([shown(name, 40) for name in names], MOST_CLASSES)
    for name in words:
        if name not in names:
            near = difflib.get_close_matches(name[:100], names, n=1, cutoff=0.0)[0]
            raise BadInput(
                f"words name the class {shown(name)}, but the classes of {where}, column "
                f"{shown(column)}, are {order}; nearest is {shown(near)}"
            )
    for name in names:
        if name not in words and (not any(map(str.isalpha, name)) or "," in name):
            raise BadInput(
                f"{where}, column {shown(column)}: the class {shown(name)} is no word that a model "
                f"could answer with; give one for each of the classes {order}, in this order: "
                "--label-words WORD WORD ..., or [words] in a task file"
            )
    return [words.get(name, name.replace("_", " ").strip()) for name in names]
