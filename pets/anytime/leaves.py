"""Arguments and results of a module: what is in tuples, lists and dicts, by where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Path = tuple[str | int, ...]


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """All that is no tuple, list or dict, with its path."""
    for key, inner in _parts(value):
        yield from leaves(inner, (*path, key))
    if not isinstance(value, (tuple, list, dict)):
        yield path, value


def replaced(value: Any, new: Callable[[Path, Any], Any], path: Path = ()) -> Any:
    """The same structure with other leaves."""
    if not isinstance(value, (tuple, list, dict)):
        return new(path, value)
    made = {key: replaced(inner, new, (*path, key)) for key, inner in _parts(value)}
    if isinstance(value, dict):
        return made if type(value) is dict else type(value)(made)
    if hasattr(value, "_fields"):  # a named tuple
        return type(value)(*made.values())
    return type(value)(made.values())


def _parts(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, (tuple, list)):
        yield from enumerate(value)
