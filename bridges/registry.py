"""Names for bridges: registration by subclass, look-up, and what is known of each.

A class becomes known by naming itself, ``class Late(GaussianBridge, name="late")``. Packages that are
installed beside this one offer theirs through the entry-point group ``bridges``: the entry point's
target is imported, and the subclass statement inside it does the rest.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import nn

from bridges.errors import BadInput, unknown

if TYPE_CHECKING:
    from bridges.base import Bridge

ENTRY_POINT_GROUP = "bridges"


@dataclass(frozen=True)
class BridgeInfo:
    """What is known of a registered bridge.

    Attributes:
        name: the name `get` takes.
        cls: the class.
        description: first line of its docstring.
        formula: mean factor and variance, in plain text.
        defaults: constructor arguments with their defaults (`inspect.Parameter.empty`: required).
    """

    name: str
    cls: type[Bridge]
    description: str
    formula: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)


_REGISTRY: dict[str, type[Bridge]] = {}
_entry_points_loaded = False


def register(name: str, cls: type[Bridge]) -> None:
    """Make ``cls`` known as ``name``; called by the subclass statement.

    Raises:
        BadInput: if the name is taken by another class or is not a plain word.
    """
    if not name or not all(c.isalnum() or c in "-_" for c in name) or name != name.lower():
        raise BadInput(f"bridge name {name!r}: use lower-case letters, digits, '-' and '_'")
    known = _REGISTRY.get(name)
    # A notebook cell that is run again defines the same class anew; that is no clash.
    rerun = known is not None and known.__module__ == cls.__module__ == "__main__"
    if known is not None and not (rerun and known.__qualname__ == cls.__qualname__):
        raise BadInput(
            f"bridge name {name!r} is taken by {known.__module__}.{known.__qualname__}; "
            f"{cls.__module__}.{cls.__qualname__} needs another name"
        )
    _REGISTRY[name] = cls


def _load_entry_points() -> None:
    global _entry_points_loaded
    if _entry_points_loaded:
        return
    _entry_points_loaded = True
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            point.load()
        except Exception as error:  # a broken plug-in must not take the others down
            origin = point.dist.name if point.dist else "unknown package"
            warnings.warn(
                f"entry point {point.name!r} of {origin} ({point.value}) failed to load: {error}",
                stacklevel=3,
            )


def available(pattern: str = "*") -> list[str]:
    """Registered names that match a shell-style pattern, sorted."""
    _load_entry_points()
    return sorted(name for name in _REGISTRY if fnmatch(name, pattern))


def _lookup(name: str) -> type[Bridge]:
    _load_entry_points()
    if name not in _REGISTRY:
        raise unknown("bridge", name, _REGISTRY)
    return _REGISTRY[name]


def constructor_defaults(cls: type[Bridge]) -> dict[str, Any]:
    """The constructor's arguments with their defaults, those it hands on as ``**options`` included."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found: dict[str, Any] = {}
    for base in cls.__mro__[: cls.__mro__.index(nn.Module)]:
        if "__init__" not in vars(base):
            continue
        _, *arguments = inspect.signature(vars(base)["__init__"]).parameters.values()
        for p in arguments:
            if p.kind not in variadic:
                found.setdefault(p.name, p.default)
        if not any(p.kind == inspect.Parameter.VAR_KEYWORD for p in arguments):
            break
    return found


def info(name: str) -> BridgeInfo:
    """The record of a registered bridge.

    Raises:
        BadInput: if the name is unknown.
    """
    cls = _lookup(name)
    doc = inspect.getdoc(cls) or ""
    return BridgeInfo(
        name=name,
        cls=cls,
        description=doc.partition("\n")[0],
        formula=cls.formula,
        defaults=MappingProxyType(constructor_defaults(cls)),
    )


def get(name: str, **parameters: Any) -> Bridge:
    """Build a bridge by name: ``get("ou", theta=1.0)``.

    Raises:
        BadInput: for an unknown name, an unknown parameter or a value out of range. It is a
            `ValueError`.
    """
    record = info(name)
    unknown = sorted(set(parameters) - set(record.defaults))
    if unknown:
        raise BadInput(
            f"bridge {name!r} has no parameter {', '.join(map(repr, unknown))}; "
            f"it takes {', '.join(record.defaults) or 'none'}"
        )
    return record.cls(**parameters)


def parse(text: str) -> Bridge:
    """Build a bridge from one word: ``"brownian"``, ``"ou:theta=2,sigma=0.5"``, ``"sde:target=ou"``.

    A value is read as its parameter's default is: as a text, a whole number or a number.

    Raises:
        BadInput: as `get`, and for a text that is not ``name:key=value,...``.
    """
    name, _, rest = text.partition(":")
    defaults = constructor_defaults(_lookup(name))
    parameters: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        default = defaults.get(key.strip(), 0.0)
        read = type(default) if isinstance(default, (str, int)) else float
        try:
            parameters[key.strip()] = read(value.strip())
        except ValueError:
            equals = ""
        if not equals:
            raise BadInput(f"bridge {text!r}: {item!r} is not key=number, as in ou:theta=2,sigma=1")
    return get(name, **parameters)
