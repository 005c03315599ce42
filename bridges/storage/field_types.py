"""Whether a record read from a file is made of what its fields say."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from bridges.errors import LARGEST, is_number, shown

_LARGEST = 2**63
_UNIONS = (typing.Union, types.UnionType)


def misfit(record: Any) -> str:
    """What field of a dataclass is of another type than it says, and how; empty if none is.

    Knows texts, truth values, numbers, which are to be finite and of a size to compute with, tuples,
    mappings, literals, unions and other dataclasses: what JSON can hold.
    """
    hints = typing.get_type_hints(type(record))
    for field in dataclasses.fields(record):
        value, hint = getattr(record, field.name), hints[field.name]
        if not _fits(value, hint):
            return f"{field.name} is {shown(value)}, expected {_written(hint)}"
    return ""


def _written(hint: Any) -> str:
    return str(hint) if typing.get_args(hint) else str(getattr(hint, "__name__", hint))


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is float:
        return is_number(value) and abs(value) <= LARGEST
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST
    if origin in _UNIONS:
        return any(_fits(value, one) for one in inner)
    if origin is typing.Literal:
        return isinstance(value, str) and value in inner
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        of_each = inner[:1] * len(value) if inner[1:] == (Ellipsis,) else inner
        return len(value) == len(of_each) and all(map(_fits, value, of_each))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key, item = inner
        return isinstance(value, Mapping) and all(
            _fits(k, key) and _fits(v, item) for k, v in value.items()
        )
    if dataclasses.is_dataclass(hint):
        return type(value) is hint and not misfit(value)
    return hint is Any or isinstance(value, origin or hint)
