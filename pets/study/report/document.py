"""What a report says, before it is HTML or Markdown: sections of paragraphs, lists, tables, pictures.

All texts are plain: whoever renders them escapes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from pets.study.report.figures import Picture


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it shows.
        strong: whether it stands out: for what is significant, and nothing else.
        note: a second, smaller line.
    """

    text: str
    strong: bool = False
    note: str = ""


@dataclass(frozen=True)
class Group:
    """Rows of a table under a heading of their own; the first cell of a row is its name."""

    name: str
    rows: Sequence[Sequence[Cell]]


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
    groups: Sequence[Group]
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
class Pictures:
    kind: ClassVar[str] = "pictures"
    pictures: Sequence[Picture]


Block: TypeAlias = Paragraph | Points | Table | Pictures


@dataclass(frozen=True)
class Section:
    """A heading and what is under it.

    Attributes:
        anchor: the same in every report, for links.
        title: the heading.
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
        lead: the first sentences.
        note: what they rest on.
        sections: in order.
    """

    title: str
    lead: str
    note: str
    sections: Sequence[Section] = field(default_factory=tuple)

    @property
    def pictures(self) -> list[Picture]:
        blocks = (block for section in self.sections for block in section.blocks)
        return [p for block in blocks if isinstance(block, Pictures) for p in block.pictures]
