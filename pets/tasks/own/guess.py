"""What the columns of a table may mean, by their names and cells, where nobody has said it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bridges.errors import BadInput, listed, shown
from pets.tasks.base import CHOICE, CLASSES, GENERATION
from pets.tasks.own.labels import is_number
from pets.tasks.own.settings import NEEDS, OwnSettings
from pets.tasks.own.tables import Table
from pets.tasks.templates import ANSWER, Template

LABEL = ("label", "labels", "class", "target", "gold_label", "category", "sentiment", "topic", "intent")
CHOICES = ("choices", "options", "endings", "candidates", "alternatives")
RIGHT = ("answer", "answerkey", "answer_key", "label", "gold", "correct", "correct_answer", "target")
ANSWERS = ("answer", "answers", "output", "response", "completion", "summary", "target", "reference")
COUNTS = ("id", "idx", "index", "guid", "uid", "unnamed 1", "row", "row_id", "qid")
"""Names of columns, in lower case, by what they tend to hold; the first one that is there counts."""

_CHOICE = re.compile(
    r"(choice|option|opt|ending|answer|alternative|candidate|sol)[ _-]?(\d+|[a-z])", re.I
)
_LETTERS = "ABCDEFGHIJ"  # columns that hold a choice each: choice1, choice2 or, from three on, A, B, C

_FEW = 20  # classes of a column that is not called a label
_SHORT = 3  # words of a class
_ROWS = 500  # that are looked at


@dataclass(frozen=True)
class Guess:
    """Settings that say what every column is, and what speaks against them.

    Attributes:
        settings: complete.
        doubts: why they may be wrong; none where the columns leave no doubt.
    """

    settings: OwnSettings
    doubts: tuple[str, ...] = ()


def guess(settings: OwnSettings, table: Table) -> Guess:
    """The settings with what they leave open filled in from a table of the task.

    Raises:
        BadInput: the table has no columns to ask and to answer with.
    """
    asked = Template.parse(settings.template).fields if settings.template is not None else ()
    columns = _Columns(table, {*settings.choices, *settings.answers, *asked, settings.label})
    doubts: list[str] = []
    kind = settings.kind or _kind(settings, columns)
    if kind == CHOICE:
        choices = settings.choices or columns.offered(settings.label)
        if not choices:
            doubts.append(f"no column is called {' or '.join(CHOICES)}")
        label = settings.label or columns.one(RIGHT, doubts, "says which choice is right")
        settings = replace(settings, kind=kind, choices=choices, label=label)
        answer = "answer"
    elif kind == GENERATION:
        answers = settings.answers or (columns.one(ANSWERS, doubts, "has the answers"),)
        settings = replace(settings, kind=kind, answers=answers)
        answer = "answer"
    else:
        label = settings.label or columns.one(LABEL, doubts, "has the labels", columns.few())
        if label in map(str, columns.cells.get(label, ())):
            doubts.append(
                f"the label column is called {shown(label)} as labels in it are: the first row has to "
                "name the columns"
            )
        settings = replace(settings, kind=kind, label=label)
        answer = str(label)
    if settings.template is None:
        used = {*settings.choices, *settings.answers, settings.label}
        texts = [name for name in columns.texts() if name not in used]
        unfit = [name for name in texts if name in ANSWER or set(name) & set("{}:!")]
        if unfit:
            texts = [name for name in texts if name not in unfit]
            named = listed([shown(name, 40) for name in unfit])
            doubts.append(f"the columns {named} cannot stand in a template, so give them other names")
        if not texts:
            nested = [shown(name, 40) for name in columns.nested() if name not in used]
            what = f"; bring what is in {listed(nested)} into columns of its own" if nested else ""
            raise BadInput(
                f"{table.where}: no column with texts is left to ask with; the columns are "
                f"{listed([shown(name, 40) for name in table.names])}{what}"
            )
        if len(texts) > 2:
            doubts.append(f"there are texts in {listed(texts)}, and hardly all of them ask something")
        lines = [f"{{{name}}}" for name in texts]
        settings = replace(settings, template="\n".join([*lines, f"{_plain(answer)}: {{answer}}"]))
    return Guess(settings, tuple(doubts))


def completed(settings: OwnSettings, table: Table) -> OwnSettings:
    """The same, where the columns leave no doubt.

    Raises:
        BadInput: they do.
    """
    found = guess(settings, table)
    if found.doubts:
        raise BadInput(
            f"{table.where}: what its columns mean is not plain: {'; '.join(found.doubts)}. Let "
            "`bridge-pets task new FILE` write a task file, and correct that"
        )
    return found.settings


def is_complete(settings: OwnSettings) -> bool:
    """Whether nothing is left to be guessed."""
    said = settings.kind is not None and all(getattr(settings, name) for name in NEEDS[settings.kind])
    return said and settings.template is not None


def _kind(settings: OwnSettings, columns: _Columns) -> str:
    free = not (settings.answers or settings.words)
    if settings.choices or (free and columns.offered(settings.label)):
        return CHOICE
    if settings.answers:
        return GENERATION
    if settings.label or settings.words or columns.first(LABEL, columns.few()) or columns.few():
        return CLASSES
    return GENERATION if columns.first(ANSWERS) else CLASSES


class _Columns:
    """The columns of a table that are not taken yet, with the first cells of each."""

    def __init__(self, table: Table, taken: Collection[str | None]) -> None:
        free = [name for name in table.names if name not in taken]
        self.names = [name for name in free if name.lower() not in COUNTS] or free
        first = replace(table, data=table.data.select(range(min(_ROWS, len(table.data)))))
        self.cells: dict[str, Sequence[Any]] = {}
        for name in self.names:
            try:
                self.cells[name] = [cell for cell in first.column(name) if cell not in (None, "")]
            except Exception:  # dates, or what needs a decoder, images say: neither asked nor answered
                self.cells[name] = []

    def first(self, wanted: Sequence[str], among: Sequence[str] | None = None) -> tuple[str, ...]:
        """The column with the first of these names, if any."""
        known = {name.lower(): name for name in (self.names if among is None else among)}
        return tuple(known[name] for name in wanted if name in known)[:1]

    def one(
        self,
        wanted: Sequence[str],
        doubts: list[str],
        what: str,
        among: Sequence[str] | None = None,
    ) -> str:
        """The column with one of these names, else the only candidate, else, in doubt, the last one."""
        found = self.first(wanted, among) or self.first(wanted)
        if found:
            return found[0]
        rest = [*(self.names if among is None else among)]
        if len(rest) == 1 and among is not None:
            return rest[0]
        between = listed([shown(name, 40) for name in rest or self.names])
        as_cells = [name for name in self.names if name in map(str, self.cells[name])]
        row = "; the first row looks like the others, and has to name the columns" if as_cells else ""
        doubts.append(f"no name says which column {what}: it may be one of {between}{row}")
        return (rest or self.names or [""])[-1]

    def offered(self, label: str | None) -> tuple[str, ...]:
        """The column with lists of choices, or those with a choice each, one of which a label tells."""
        if found := self.first(CHOICES):
            return found
        letters = [name for name in self.names if name.upper() in _LETTERS and len(name) == 1]
        if len(letters) < 3 or "".join(letters).upper() != _LETTERS[: len(letters)]:
            letters = []
        each = [name for name in self.names if _CHOICE.fullmatch(name)] or letters
        rest = [name for name in self.names if name not in each]
        right = self.first(RIGHT, rest) if label is None else (label,)
        if len(each) < 2 or not right or not self._tells(right[0], each):
            return ()
        return tuple(each)

    def _tells(self, label: str, choices: Sequence[str]) -> bool:
        """Whether all cells of a label column say one of some choices, as `among_choices` reads it."""
        places = {*map(str, range(len(choices))), *_LETTERS[: len(choices)], "-1"}
        texts = {str(cell).strip() for name in choices for cell in self.cells[name]}
        said = {str(cell).strip() for cell in self.cells.get(label, ())}
        return not said - {"-1"} - texts or not {one.upper() for one in said} - places

    def nested(self) -> list[str]:
        """Columns whose cells hold lists or objects."""
        return [n for n, cells in self.cells.items() if any(isinstance(c, (list, dict)) for c in cells)]

    def few(self) -> list[str]:
        """Columns with the few values, each met again, that classes have."""
        found = []
        for name, cells in self.cells.items():
            plain = all(
                isinstance(c, (str, int, float)) and len(str(c).split()) <= _SHORT for c in cells
            )
            if plain and cells and 2 <= len(set(cells)) <= min(_FEW, len(cells) // 2):
                found.append(name)
        return found

    def texts(self) -> list[str]:
        """Columns that hold texts, and not only numbers."""
        return [
            name
            for name, cells in self.cells.items()
            if cells and all(isinstance(c, str) for c in cells) and not all(map(is_number, cells))
        ]


def _plain(text: str) -> str:
    """A text as a template has it."""
    return text.replace("{", "{{").replace("}", "}}")


def described(settings: OwnSettings) -> str:
    """What the columns are, in words."""
    told: Mapping[str, Any] = {
        "kind": settings.kind,
        "label": settings.label,
        "choices": ", ".join(settings.choices),
        "answers": ", ".join(settings.answers),
        "template": shown(settings.template),
    }
    return ", ".join(f"{what}: {value}" for what, value in told.items() if value)
