"""From the rows of a table to examples; what is no example is counted by the reason."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bridges.errors import BadInput, listed, shown
from pets.tasks.base import Example
from pets.tasks.own.labels import MISSING, NONE, LabelColumn, plain_number
from pets.tasks.own.table_files import so_are
from pets.tasks.own.tables import Table

_log = logging.getLogger(__name__)

Answer = Callable[[int], dict[str, Any] | str]
"""Of a row: what an example has beside its texts, or, in words, why it is none."""


def examples(
    table: Table, fields: Sequence[str], answer: Answer
) -> tuple[tuple[Example, ...], Counter[str]]:
    """The examples of a table, and how many rows are none, by the reason.

    Surrounding whitespace of a text is removed; nothing else is changed.

    Args:
        fields: the columns that a template names.
        answer: of a row, see `in_classes`, `among_choices` and `in_words`.

    Raises:
        BadInput: a column is missing, or a cell is no text; the message names the row.
    """
    columns = {n: [cell_text(table, n, k, c) for k, c in enumerate(table.column(n))] for n in fields}
    found: list[Example] = []
    left_out: Counter[str] = Counter()
    for index in range(len(table.data)):
        texts = tuple((name, columns[name][index]) for name in fields)
        empty = next((f"{name} empty" for name, text in texts if not text), None)
        answered = empty or answer(index)
        if isinstance(answered, str):
            left_out[answered] += 1
            continue
        read = [text for _, text in texts] + list(answered.get("choices", ()))
        found.append(Example(" ".join(read), fields=texts, **answered))
    return tuple(found), left_out


def in_classes(table: Table, column: LabelColumn, names: Sequence[str]) -> Answer:
    """The class of a row; ``names`` are the classes in their order."""
    place = {name: k for k, name in enumerate(names)}

    def answer(index: int) -> dict[str, Any] | str:
        value = column.values[index]
        if value in place:
            return {"label": place[value]}
        if value in (MISSING, NONE):
            return f"{column.name} {value or 'missing'}"
        known = place.keys() | {MISSING, NONE}
        others = [k for k, v in enumerate(column.values) if v not in known and k != index]
        raise BadInput(
            f"{table.row(index)}: label {shown(value)} is not one of the train set's classes, "
            f"{listed([shown(name, 40) for name in names])}"
            + so_are([k + table.first_row for k in others])
        )

    return answer


def in_words(table: Table, columns: Sequence[str]) -> Answer:
    """The accepted answers of a row: texts, lists of texts, or ``{"text": [...]}``, of each column."""
    cells = {name: table.column(name) for name in columns}

    def answer(index: int) -> dict[str, Any] | str:
        texts = [t for name in columns for t in _texts(table, name, index, cells[name][index])]
        accepted = tuple(dict.fromkeys(text for text in texts if text))
        return {"label": 0, "answers": accepted} if accepted else f"{' and '.join(columns)} missing"

    return answer


def among_choices(table: Table, choices: Sequence[str], label: str) -> Answer:
    """The choices of a row, a list in one column or one in each of several, and which one is right.

    That is said by the place from 0 on, by a letter, by its own text, or by the name that it has in
    ``{"text": [...], "label": [...]}``; in one way in the whole column. A text that is written exactly
    so comes before one that is the same number. Where several ways fit it is the name or the text, but a
    number beside choices that are texts is a place; where they do not agree a warning says so.

    Raises:
        BadInput: a row has another number of choices than the first one, or no right one.
    """
    cells = [table.column(name) for name in choices]
    right = LabelColumn.of(table, label)
    columns = list(zip(choices, cells, strict=True))
    offered = [
        tuple(text for name, column in columns for text in _texts(table, name, k, column[k]))
        for k in range(len(table.data))
    ]
    _check_counts(table, choices, offered)
    places = _places(table, choices, cells, offered, right)

    def answer(index: int) -> dict[str, Any] | str:
        if not all(offered[index]):
            return f"{' and '.join(choices)} empty"
        if places[index] is None:
            return f"{label} {right.values[index] or 'missing'}"
        return {"label": places[index], "choices": offered[index]}

    return answer


def _check_counts(table: Table, choices: Sequence[str], offered: Sequence[tuple[str, ...]]) -> None:
    count = len(offered[0])
    for index, texts in enumerate(offered):
        if len(texts) != count or count < 2:
            expected = f"{count} as in the first row" if count > 1 else "at least 2"
            raise BadInput(
                f"{table.row(index)}: {len(texts)} choices in {listed(choices)}, expected {expected}: a "
                "task has the same number everywhere"
            )


def _places(
    table: Table,
    choices: Sequence[str],
    cells: Sequence[Sequence[Any]],
    offered: Sequence[tuple[str, ...]],
    right: LabelColumn,
) -> list[int | None]:
    """The index of each row's right choice; None where it is missing or -1."""
    raw = table.column(right.name)
    exact = (
        right.values if right.named else [cell_text(table, right.name, k, c) for k, c in enumerate(raw)]
    )

    def by_name(index: int, value: str) -> int | None:
        cell = cells[0][index]
        names = [str(name) for name in (cell.get("label") or ())] if isinstance(cell, Mapping) else []
        return names.index(value) if value in names else None

    def by_text(index: int, value: str) -> int | None:
        for texts, text in (
            (offered[index], exact[index]),
            (tuple(map(plain_number, offered[index])), value),
        ):
            if text in texts:
                return texts.index(text)
        return None

    def by_place(index: int, value: str) -> int | None:
        return int(value) if value.isdecimal() and int(value) < len(offered[index]) else None

    def by_letter(index: int, value: str) -> int | None:
        place = ord(value.upper()) - ord("A") if len(value) == 1 else -1
        return place if 0 <= place < len(offered[index]) else None

    ways = {"name": by_name, "text": by_text, "place from 0 on": by_place, "letter": by_letter}
    if _holds_numbers(raw) and right.named is None and not any(map(_holds_numbers, cells)):
        ways = {"place from 0 on": by_place, **ways}
    rows = [
        k
        for k, value in enumerate(right.values)
        if value != MISSING and (value != NONE or by_text(k, value) is not None)
    ]
    fits = {name: [way(k, right.values[k]) for k in rows] for name, way in ways.items()}
    best = min(fits, key=lambda name: fits[name].count(None))
    if None in fits[best]:
        index = rows[fits[best].index(None)]
        raise BadInput(
            f"{table.row(index)}: column {shown(right.name)} says {shown(right.values[index])}, which "
            f"is none of the {len(offered[index])} choices in {listed(choices)}: expected its text, its "
            "place from 0 on, or a letter from A on, in one way in the whole column"
        )
    for name, fit in fits.items():
        if best != "name" and None not in fit and fit != fits[best]:
            index = rows[[one != other for one, other in zip(fit, fits[best], strict=True)].index(True)]
            _log.warning(
                "%s: column %s says %s, which is read as the %s of the right choice, not as its %s: if "
                "that is not meant, say it otherwise in the whole column",
                table.row(index),
                shown(right.name),
                shown(exact[index]),
                best,
                name,
            )
    known: dict[int, int | None] = dict(zip(rows, fits[best], strict=True))
    return [known.get(k) for k in range(len(offered))]


def _holds_numbers(cells: Sequence[Any]) -> bool:
    """Whether a column's cells, or what is in their lists, are numbers and no texts."""
    texts = [cell.get("text") if isinstance(cell, Mapping) else cell for cell in cells]
    inner = [part for cell in texts for part in (cell if isinstance(cell, (list, tuple)) else [cell])]
    return any(isinstance(part, (int, float)) and not isinstance(part, bool) for part in inner)


def _texts(table: Table, name: str, index: int, cell: Any) -> list[str]:
    """The texts of a cell that may hold several."""
    if isinstance(cell, Mapping) and isinstance(cell.get("text"), (list, tuple)):
        cell = cell["text"]
    if isinstance(cell, (list, tuple)):
        return [cell_text(table, name, index, part) for part in cell]
    return [cell_text(table, name, index, cell)]


def cell_text(table: Table, name: str, index: int, cell: Any) -> str:
    """A cell as text; "" where there is nothing.

    Raises:
        BadInput: it is nested, or no text nor number.
    """
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, (str, int, float)):
        return str(cell).strip()
    nested = {"list": "a list", "dict": "an object"}
    kind = nested.get(type(cell).__name__, f"a {type(cell).__name__}")
    raise BadInput(
        f"{table.row(index)}: column {shown(name)} holds {kind}, {shown(cell, 60)}; expected a text: "
        "name another column, or write the text into one of its own"
    )
