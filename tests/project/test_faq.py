"""Errors that the page of questions quotes without running into them are words of the code."""

from __future__ import annotations

import ast
import re

from places import REPOSITORY

LONG = 60  # characters of what is a message, and no name or option
PLACEHOLDERS = r"REASON|COUNT|NAMES"


def said_in_the_code() -> str:
    """Every text of the three floors, with a mark where a formatted one has a value."""
    texts = []
    for floor in ("bridges", "kernels", "pets"):
        for path in sorted((REPOSITORY / floor).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [p.value if isinstance(p, ast.Constant) else "\0" for p in node.values]
                    texts.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return "\n".join(texts)


def test_what_is_quoted_is_said() -> None:
    page = (REPOSITORY / "docs" / "faq.md").read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    quoted = [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", prose)]
    messages = [text for text in quoted if len(text) > LONG and ": " in text]
    said = said_in_the_code()
    assert len(messages) >= 4
    for message in messages:
        for part in re.split(rf"(?:{PLACEHOLDERS})|: (?=the model ignores)", message):
            assert part.strip(" ():") in said, part
