"""A document as Markdown, its pictures as files beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pets.study.report.document import Block, Cell, Document, Paragraph, Pictures, Points, Table

_SPECIAL = re.compile(r"([\\`*_\[\]|~])")


def render_markdown(document: Document, names: Sequence[str]) -> str:
    """The text.

    Args:
        document: what it says; every text is escaped.
        names: where the file of each of ``document.pictures`` is, seen from the text's folder.
    """
    left = iter(names)
    parts = [f"# {escaped(document.title)}", escaped(document.lead), escaped(document.note)]
    for section in document.sections:
        parts.append(f"## {escaped(section.title)}")
        for block in section.blocks:
            parts += _block(block, left)
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", text)


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


def _cell(cell: Cell) -> str:
    text = f"**{escaped(cell.text)}**" if cell.strong else escaped(cell.text)
    return f"{text}<br>{escaped(cell.note)}" if cell.note else text


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
