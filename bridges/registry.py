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

from bridges.errors import BadInput, check_name, one_line, shown

if TYPE_CHECKING:
    from bridges.processes.base import Bridge

ENTRY_POINT_GROUP = "bridges"
_NESTED = 8  # bridges in a bridge's text, each a parameter of the one before


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
    plain = isinstance(name, str) and name and all(c.isalnum() or c in "-_" for c in name)
    if not plain or name != name.lower():
        raise BadInput(f"bridge name {shown(name)}: use lower-case letters, digits, '-' and '_'")
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
    """Load what other packages offer, once; what fails is left out, and a warning names it."""
    global _entry_points_loaded
    if _entry_points_loaded:
        return
    _entry_points_loaded = True
    failed = []
    try:
        points = tuple(entry_points(group=ENTRY_POINT_GROUP))
    except Exception as error:  # the metadata of some installed package is broken
        points = ()
        failed.append(f"the entry points of the installed packages cannot be read: {_said(error)}")
    for point in points:
        try:
            point.load()
        except KeyboardInterrupt:
            _entry_points_loaded = False
            raise
        except BaseException as error:  # sys.exit and the like too: no plug-in may take the others down
            origin = point.dist.name if point.dist else "unknown package"
            failed.append(
                f"entry point {point.name!r} of {origin} ({point.value}) failed to load: {_said(error)}"
            )
    for message in failed:  # once all are loaded: a warning may be an error here
        warnings.warn(one_line(message), stacklevel=4)


def _said(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # a plug-in's own exception may be broken as well
        text = ""
    return text if isinstance(error, Exception) and text else f"{type(error).__name__} {text}".strip()


def available(pattern: str = "*") -> list[str]:
    """Registered names that match a shell-style pattern, sorted."""
    _load_entry_points()
    return sorted(name for name in _REGISTRY if fnmatch(name, pattern))


def _lookup(name: str) -> type[Bridge]:
    _load_entry_points()
    return _REGISTRY[check_name("bridge", name, _REGISTRY)]


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
    takes = f"it takes {', '.join(record.defaults) or 'none'}"
    unknown = sorted(set(parameters) - set(record.defaults))
    if unknown:
        raise BadInput(f"bridge {name!r} has no parameter {', '.join(map(shown, unknown))}; {takes}")
    required = {k for k, default in record.defaults.items() if default is inspect.Parameter.empty}
    missing = sorted(required - set(parameters))
    if missing:
        raise BadInput(f"bridge {name!r} needs {', '.join(map(repr, missing))}; {takes}")
    return record.cls(**parameters)


def parse(text: str) -> Bridge:
    """Build a bridge from one word: ``"brownian"``, ``"ou:theta=2,sigma=0.5"``, ``"sde:target=ou"``.

    A value is read as its parameter's default is: as a text, a whole number or a number.

    Raises:
        BadInput: as `get`, and for a text that is not ``name:key=value,...``.
    """
    if not isinstance(text, str) or text.count(":") > _NESTED:
        raise BadInput(f"bridge {shown(text)}: expected a text like ou:theta=2 or sde:target=ou:theta=2")
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
            raise BadInput(
                f"bridge {shown(text)}: {shown(item)} is not key=number, as in ou:theta=2,sigma=1"
            )
    return get(name, **parameters)
