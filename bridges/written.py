"""How parameters are written in one word: ``key=value,key=[1,2],key=(a:b=1,c=2)``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_CLOSES = {"[": "]", "(": ")"}
_WORDS = {"true": True, "false": False, "none": None}


def pairs(text: str) -> Iterator[tuple[str, str | None, str]]:
    """The keys and values of a text, each with its piece of the text; None where there is no value.

    Commas inside brackets and parentheses separate nothing.
    """
    for item in _pieces(text):
        key, equals, value = item.partition("=")
        yield key.strip(), value.strip() if equals else None, item


def number_like(value: str, default: Any) -> Any:
    """A value read as a default is: a text, a whole number or a number; as a literal beside others.

    In a list beside a whole number, how many parts say, are numbers of any kind: one of each part.

    Raises:
        ValueError: if it cannot be read so.
    """
    if value.startswith("[") and value.endswith("]"):
        whole = isinstance(default, int) and not isinstance(default, bool)
        return [_number(x) if whole else number_like(x, default) for x in _items(value)]
    if isinstance(default, str):
        return _bare(value)
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        return type(default)(value)
    if default is None or isinstance(default, bool):
        return literal(value)
    return float(value)


def literal(value: str) -> Any:
    """A value as what it looks like: a number, true, false, none, a list in brackets, else a text.

    Raises:
        ValueError: if there is nothing.
    """
    if not value:
        raise ValueError("no value")
    if value.startswith("[") and value.endswith("]"):
        return [literal(item) for item in _items(value)]
    if value.lower() in _WORDS:
        return _WORDS[value.lower()]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return _bare(value)


def _number(value: str) -> int | float:
    try:
        return int(value)
    except ValueError:
        return float(value)


def _items(value: str) -> list[str]:
    """Of a list in brackets."""
    return [item.strip() for item in _pieces(value[1:-1])]


def _bare(value: str) -> str:
    return value[1:-1] if value.startswith("(") and value.endswith(")") else value


def _pieces(text: str) -> Iterator[str]:
    """A text between its commas, those in brackets left alone; empty pieces are none."""
    waiting: list[str] = []
    piece = ""
    for character in text:
        if character in _CLOSES:
            waiting.append(_CLOSES[character])
        elif waiting and character == waiting[-1]:
            waiting.pop()
        if character == "," and not waiting:
            if piece:
                yield piece
            piece = ""
        else:
            piece += character
    if piece:
        yield piece
