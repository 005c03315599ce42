"""Bridges by their names."""

from __future__ import annotations

from typing import Any

from bridges.errors import BadInput
from bridges.processes.base import Cost, catalogue
from bridges.registry import Info


def available(pattern: str = "*") -> list[str]:
    """The names of the bridges, other costs and controls that `get` takes, sorted.

    Args:
        pattern: shell-style, of the names that are wanted: ``"*o*"``.

    Examples:
        >>> bridges.available("s*")
        ['sde', 'smooth', 'student']
    """
    return catalogue.available(pattern)


def get(name: str, **parameters: Any) -> Cost:
    """A bridge, another cost or a control by its name, for `RunningCost.for_model`.

    Args:
        name: of those `available`.
        **parameters: arguments of its class, which `info` shows with their defaults.

    Raises:
        BadInput: for an unknown name, an unknown parameter or a value out of range.

    Examples:
        >>> bridges.get("ou", theta=2.0).variance(torch.tensor([0.5])).item()
        0.1903...
    """
    return catalogue.get(name, **parameters)


def info(name: str) -> Info[Cost]:
    """What is known of a bridge: its class, first line, formula, and parameters with their defaults.

    Raises:
        BadInput: for an unknown name.

    Examples:
        >>> dict(bridges.info("brownian").defaults)
        {'sigma': 1.0, 'likelihood': 'marginal', 'learn': ''}
    """
    return catalogue.info(name)


def parse(text: str) -> Cost:
    """A bridge in one word, as commands take it: ``"brownian"``, ``"ou:theta=2,sigma=0.5"``.

    A value is read as its parameter's default is: as a text, a whole number or a number; several in
    brackets are a list, ``sigma=[0.5,1]``. A text with commas of its own stands in parentheses,
    ``sde:target=(ou:theta=2,sigma=0.5),steps=12``.

    Raises:
        BadInput: as `get`, and for a text that is not ``name:key=value,...``.
    """
    return catalogue.parse(text)


def made(bridge: Any) -> Cost:
    """The bridge of a text, or a bridge itself.

    Raises:
        BadInput: as `parse`, and for a class, or anything else.
    """
    if isinstance(bridge, Cost):
        return bridge
    if isinstance(bridge, type) and issubclass(bridge, Cost):
        name = bridge.registered_name
        told = f", or its name, {name!r}" if name else ""
        raise BadInput(
            f"bridge is the class {bridge.__name__}: expected one that is made, "
            f"{bridge.__name__}(...){told}"
        )
    return catalogue.parse(bridge)
