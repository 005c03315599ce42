"""A document as one HTML page that asks for nothing outside, or as Markdown with pictures beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from pets import extras
from pets.inside.images import Image
from pets.inside.markup import escaped, inline, page
from pets.study.report.document import (
    Block,
    Document,
    Entry,
    Paragraph,
    Picture,
    Pictures,
    Points,
    Table,
)

_TEMPLATE = "page.html.jinja"


@dataclass(frozen=True)
class _Drawing:
    anchor: str
    markup: str


def require() -> None:
    """Refuse early where the page could not be made.

    Raises:
        BadInput: if Jinja is not installed.
    """
    if find_spec("jinja2") is None:
        raise extras.missing("reports need jinja2, which is not installed", "report")


def render_page(document: Document, images: Sequence[Image]) -> str:
    """The page.

    Args:
        document: what it says; every text is escaped.
        images: one for each of ``document.pictures``, in order.
    """
    require()
    drawings = {}
    for number, (picture, image) in enumerate(zip(document.pictures, images, strict=True), 1):
        anchor = f"picture-{number}"
        drawings[id(picture)] = _Drawing(anchor, inline(image, f"p{number}-", anchor))

    def drawing(picture: Picture) -> _Drawing:
        return drawings[id(picture)]

    return page("pets.study.report", _TEMPLATE, document=document, drawing=drawing)


def render_markdown(document: Document, names: Sequence[str]) -> str:
    """The text.

    Args:
        document: what it says; every text is escaped.
        names: where the file of each of ``document.pictures`` is, seen from the text's folder.
    """
    left = iter(names)
    parts = [f"# {escaped(document.title)}"]
    parts += [escaped(text) for a in document.answers for text in (a.first, a.more) if text]
    parts.append(escaped(document.note))
    for block in document.top:
        parts += _block(block, left)
    for section in document.sections:
        parts.append(f"## {escaped(section.title)}")
        for block in section.blocks:
            parts += _block(block, left)
    return "\n\n".join(parts) + "\n"


def _block(block: Block, names: Iterable[str]) -> list[str]:
    match block:
        case Paragraph(text):
            return [escaped(text)]
        case Points(items):
            return ["\n".join(f"- {escaped(item)}" for item in items)]
        case Table():
            return _table(block)
        case Pictures(pictures):
            return [
                part
                for picture, name in zip(pictures, names, strict=False)
                for part in (
                    f"### {escaped(picture.title)}",
                    f"![{escaped(picture.title)}]({name})",
                    escaped(picture.caption),
                )
            ]


def _table(table: Table) -> list[str]:
    named = any(group.name for group in table.groups)
    columns = [*([""] if named else []), *map(escaped, table.columns)]
    first = 1 if named else 0
    rules = ["---"] * first + [
        "---" if k in table.of_text else "---:" for k in range(len(table.columns))
    ]
    lines = [_line(columns), _line(rules)]
    for group in table.groups:
        for row in group.rows:
            lines.append(_line([*([escaped(group.name)] if named else []), *map(_cell, row)]))
    return [escaped(table.caption), "\n".join(lines)]


def _cell(cell: Entry) -> str:
    text = f"**{escaped(cell.text)}**" if cell.strong else escaped(cell.text)
    return f"{text}<br>{escaped(cell.note)}" if cell.note else text


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
