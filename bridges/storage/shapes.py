"""What JSON from a file has to be made of, where a hand may have edited it: types, all the way down."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bridges.errors import is_number

_LARGEST_COUNT = 2**64


@dataclass(frozen=True)
class Kind:
    """What a value is.

    Attributes:
        expected: in words.
        fits: whether a value is one.
    """

    expected: str
    fits: Callable[[Any], bool]

    def or_null(self) -> Kind:
        """The same, or None."""
        return Kind(f"{self.expected} or null", lambda value: value is None or self.fits(value))


@dataclass(frozen=True)
class Each:
    """An object whose values, whatever their names, have one shape."""

    shape: Shape


@dataclass(frozen=True)
class Maybe:
    """Null, or of a shape."""

    shape: Shape


@dataclass(frozen=True)
class Optional:
    """A field of an object that may be missing."""

    shape: Shape


Shape = Kind | Each | Maybe | dict[str, Any] | list[Any] | tuple[Any, ...]
"""A kind; an object with at least these fields, each of its shape; a list of items of one shape; a list
of as many items as a tuple has, each of its shape."""


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST_COUNT


def _is_finite(value: Any) -> bool:
    return is_number(value) and abs(value) <= sys.float_info.max


TEXT = Kind("text", lambda value: isinstance(value, str))
COUNT = Kind("a whole number", _is_count)
NUMBER = Kind("a number", lambda value: isinstance(value, float) or _is_finite(value))
FINITE = Kind("a finite number", _is_finite)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
LIST = Kind("a list", lambda value: isinstance(value, list))


def misfit(value: object, shape: Shape, name: str = "") -> str:
    """What does not fit, ``tries[0].dev is 'high', expected an object``; empty if all does.

    Args:
        value: as `json.loads` gives it.
        shape: what is expected.
        name: of the value.
    """
    if isinstance(shape, Kind):
        return "" if shape.fits(value) else _said(name, value, shape.expected)
    if isinstance(shape, Maybe):
        wrong = "" if value is None else misfit(value, shape.shape, name)
        return f"{wrong} or null" if wrong == _said(name, value, _expected(shape.shape)) else wrong
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _said(name, value, LIST.expected)
        return next(
            filter(None, (misfit(item, shape[0], f"{name}[{k}]") for k, item in enumerate(value))), ""
        )
    if isinstance(shape, tuple):
        if not isinstance(value, list) or len(value) != len(shape):
            return _said(name, value, f"a list of {len(shape)}")
        parts = zip(value, shape, strict=True)
        return next(filter(None, (misfit(v, of, f"{name}[{k}]") for k, (v, of) in enumerate(parts))), "")
    if not isinstance(value, dict):
        return _said(name, value, OBJECT.expected)
    of_each = dict.fromkeys(value, shape.shape) if isinstance(shape, Each) else shape
    for key, of in of_each.items():
        optional, of = (True, of.shape) if isinstance(of, Optional) else (False, of)
        path = f"{name}.{key}" if name else key
        if key not in value:
            if optional:
                continue
            return f"{path} is missing, expected {_expected(of)}"
        if wrong := misfit(value[key], of, path):
            return wrong
    return ""


def _said(name: str, value: object, expected: str) -> str:
    return f"{name or 'it'} is {reprlib.repr(value)}, expected {expected}"


def _expected(shape: Shape) -> str:
    if isinstance(shape, Kind):
        return shape.expected
    if isinstance(shape, Maybe):
        return f"{_expected(shape.shape)} or null"
    return LIST.expected if isinstance(shape, (list, tuple)) else OBJECT.expected
