"""The code blocks of a page, in their order, and the page with other outputs.

What a block is, its fence and what stands before it say:

    `name.py`            on a line of its own before it: a file, written into the page's folder
    ```python            run in the page's one session, whatever is printed
    ```text              right behind a block of Python: what that printed
    ```console           commands after "$ ", each with its output below it; or none with one
    <!-- needs NAME -->  before it: run only where the module NAME can be imported
    <!-- needs hub -->   before a console: its scripts have a hub, that of the test
    <!-- hurry A -> B -->  anywhere: a test runs the page with B in the place of A
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<kind>\w+)[^\n]*\n(?P<body>.*?)^(?P=indent)```[ ]*$", re.MULTILINE | re.DOTALL
)
_NAME = re.compile(r"(?:^|\n) *`([\w./-]*\w\.\w+)`\s*$")
_NEEDS = re.compile(r"<!-- needs ([\w.]+) -->\s*$")
_HURRY = re.compile(r"<!-- hurry (.+?) -> (.*?) -->")
_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
FILES = ("python", "toml", "json", "yaml", "text", "csv")


@dataclass(frozen=True)
class Block:
    """One of them. ``kind`` is the fence's, or "file", or "output" of the Python before it."""

    kind: str
    body: str
    line: int
    name: str = ""
    needs: str = ""
    span: tuple[int, int] = (0, 0)
    indent: str = ""

    @property
    def commands(self) -> list[tuple[str, str]]:
        """Of a console: each command with its output on the page."""
        return _COMMAND.findall(self.body) if self.kind == "console" else []

    @property
    def shows_outputs(self) -> bool:
        """Whether the page says what any of its commands prints."""
        return any(said for _, said in self.commands)


def blocks(page: str) -> list[Block]:
    """All of them; bodies without the indent of a list or a tab that they stand in."""
    found: list[Block] = []
    end = 0
    for match in _FENCE.finditer(page):
        before, indent = page[end : match.start()], match["indent"]
        body = re.sub(rf"^{indent}", "", match["body"], flags=re.MULTILINE)
        line = page[: match.start()].count("\n") + 1
        block = Block(match["kind"], body, line, span=match.span("body"), indent=indent)
        if (name := _NAME.search(before)) and block.kind in FILES:
            block = replace(block, kind="file", name=name[1])
        elif block.kind == "text" and not before.strip() and found and found[-1].kind == "python":
            block = replace(block, kind="output")
        if needs := _NEEDS.search(before):
            block = replace(block, needs=needs[1])
        found.append(block)
        end = match.end()
    return found


def commands(page: str) -> list[tuple[str, str]]:
    """Each command of the page with its output there, in order."""
    return [pair for block in blocks(page) for pair in block.commands]


def hurried(page: str) -> str:
    """The page as a test runs it.

    Raises:
        ValueError: for a text to be replaced that the page does not have.
    """
    pairs = _HURRY.findall(page)
    page = _HURRY.sub("", page)
    for old, new in pairs:
        if old not in page:
            raise ValueError(f"the page has no {old!r} to be replaced by {new!r}")
        page = page.replace(old, new)
    return page


def written_anew(page: str, outputs: Iterator[str]) -> str:
    """The page with other outputs, those of its commands and of its Python that shows one."""
    parts, end = [], 0
    for block in blocks(page):
        if block.kind == "console":
            body = "".join(f"$ {command}\n{next(outputs)}" for command, _ in block.commands)
        elif block.kind == "output":
            body = next(outputs)
        else:
            continue
        indented = re.sub(r"^(?=.)", block.indent, body, flags=re.MULTILINE)
        parts += [page[end : block.span[0]], indented]
        end = block.span[1]
    return "".join([*parts, page[end:]])
