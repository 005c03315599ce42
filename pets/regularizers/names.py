"""Regularizers by their names."""

from __future__ import annotations

from typing import Any

from bridges.registry import Info
from pets.regularizers.base import Objective, catalogue


def available(pattern: str = "*") -> list[str]:
    """The names of the regularizers that `get` takes, sorted.

    Args:
        pattern: shell-style, of the names that are wanted: ``"r*"``.
    """
    return catalogue.available(pattern)


def get(name: str, **parameters: Any) -> Objective:
    """A regularizer by its name, for `pets.regularize`: ``get("r-drop", weight=1.0)``.

    Args:
        name: of those `available`.
        **parameters: ``weight``, its strength, and further arguments of its class, which `info` shows.

    Raises:
        BadInput: for an unknown name, an unknown parameter or a value out of range.
    """
    return catalogue.get(name, **parameters)


def info(name: str) -> Info[Objective]:
    """What is known of a regularizer: its class, first line, and parameters with their defaults.

    Raises:
        BadInput: for an unknown name.
    """
    return catalogue.info(name)


def parse(text: str) -> Objective:
    """A regularizer in one word, as commands take it: ``"r-drop:weight=1"``.

    Raises:
        BadInput: as `get`, and for a text that is not ``name:key=value,...``.
    """
    return catalogue.parse(text)
