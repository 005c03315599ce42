"""What a report says, before it is HTML or Markdown: sections of paragraphs, lists, tables, pictures.

All texts are plain: whoever renders them escapes them. The functions write names and numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

MINUS = "\u2212"


@dataclass(frozen=True)
class Entry:
    """One entry of a table.

    Attributes:
        text: what it shows.
        strong: whether it stands out: for what is significant, and nothing else.
        note: a second, smaller line.
    """

    text: str
    strong: bool = False
    note: str = ""


@dataclass(frozen=True)
class RowGroup:
    """Rows of a table under a heading of their own; the first entry of a row is its name."""

    name: str
    rows: Sequence[Sequence[Entry]]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what it shows and how to read it.
        columns: headings; the first is that of the rows' names.
        groups: the rows.
        of_text: columns whose entries are words, not numbers.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    groups: Sequence[RowGroup]
    of_text: frozenset[int] = frozenset({0})


@dataclass(frozen=True)
class Paragraph:
    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    kind: ClassVar[str] = "points"
    items: Sequence[str]


@dataclass(frozen=True)
class Picture:
    """One figure of the report.

    Attributes:
        title: above the figure.
        caption: under it: what is seen and how to read it, in computed facts.
        figure: a matplotlib Figure.
    """

    title: str
    caption: str
    figure: Any


@dataclass(frozen=True)
class Pictures:
    kind: ClassVar[str] = "pictures"
    pictures: Sequence[Picture]


Block: TypeAlias = Paragraph | Points | Table | Pictures


@dataclass(frozen=True)
class Answer:
    """What a report begins with.

    Attributes:
        first: the sentence that someone in a hurry reads.
        more: what has to be known of it; may be empty.
    """

    first: str
    more: str = ""


@dataclass(frozen=True)
class Section:
    """A heading and what is under it, folded away on the page.

    Attributes:
        anchor: the same in every report, for links.
        title: the heading, which says what is in it.
        blocks: what is under it.
    """

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A whole report.

    Attributes:
        title: its heading.
        answers: the first lines.
        note: what they rest on.
        top: what is seen at once: the table of arms, and its picture where there is one.
        sections: all else, in order.
    """

    title: str
    answers: Sequence[Answer]
    note: str
    top: Sequence[Block] = ()
    sections: Sequence[Section] = field(default_factory=tuple)

    @property
    def pictures(self) -> list[Picture]:
        blocks = [*self.top, *(block for section in self.sections for block in section.blocks)]
        return [p for block in blocks if isinstance(block, Pictures) for p in block.pictures]


def setting_name(task: str, shots: int | None) -> str:
    """``sst2, 16 shots``."""
    if shots is None:
        return f"{task}, full train set"
    return f"{task}, {plural(shots, 'shot')}"


def plural(count: int, word: str) -> str:
    """``1 cell``, ``2 cells``."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def number(value: float) -> str:
    """Three decimals; a dash where there is none."""
    return "-" if math.isnan(value) else _zero(f"{value:.3f}").replace("-", MINUS)


def signed(value: float) -> str:
    """A difference: three decimals with its sign."""
    return "-" if math.isnan(value) else _zero(f"{value:+.3f}").replace("-", MINUS)


def _zero(text: str) -> str:
    """What rounds to zero has no sign."""
    return text if float(text) else text.lstrip("+-")


def interval(low: float, high: float) -> str:
    """``[-0.010, +0.030]``; a dash where there is none."""
    return "-" if math.isnan(low) or math.isnan(high) else f"[{signed(low)}, {signed(high)}]"


def p_value(value: float) -> str:
    """Three decimals, ``<0.001`` below, a dash where no test could be made."""
    if math.isnan(value):
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def size(count: float) -> str:
    """Bytes: ``512 B``, ``1.2 kB``, ``34.1 MB``."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
