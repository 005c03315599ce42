"""Classes by name: registered by a subclass statement, looked up, described, built from a text.

A kind of thing has one `Registry`: bridges, PETs, regularizers, tasks. A class becomes known by naming
itself, ``class Late(GaussianBridge, name="late")``, where its base class hands the name on. Packages
that are installed beside this one offer theirs through an entry-point group: the entry point's target
is imported, and the subclass statement inside it does the rest.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from importlib import import_module
from importlib.metadata import entry_points
from threading import RLock
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from bridges.errors import BadInput, one_line, shown, unknown
from bridges.written import literal, number_like, pairs

T = TypeVar("T")

_NO_DEFAULT = inspect.Parameter.empty
_NESTED = 8  # of a kind in another's text, each a parameter of the one before


@dataclass(frozen=True)
class Info(Generic[T]):
    """What is known of a registered class.

    Attributes:
        name: the name `Registry.get` takes.
        cls: the class.
        description: first line of its docstring.
        formula: of a bridge its mean factor and variance, in plain text; else what the class says.
        defaults: constructor arguments with their defaults (`inspect.Parameter.empty`: required).
        purpose: what it is for, where the class itself says so: a subclass is for something else.
    """

    name: str
    cls: type[T]
    description: str
    formula: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    purpose: str = ""


def constructor_defaults(cls: type) -> dict[str, Any]:
    """The constructor's arguments with their defaults, those it hands on as ``**options`` included."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    defaults: dict[str, Any] = {}
    for base in cls.__mro__:
        if base is object or base.__module__.partition(".")[0] == "torch":
            break  # nn.Module takes anything, and means nothing by it
        constructor = vars(base).get("__init__")
        if constructor is None:
            continue
        _, *arguments = inspect.signature(constructor).parameters.values()
        for p in arguments:
            if p.kind not in variadic:
                defaults.setdefault(p.name, p.default)
        if not any(p.kind == inspect.Parameter.VAR_KEYWORD for p in arguments):
            break
    return defaults


class Registry(Generic[T]):
    """The classes of one kind, by name.

    Args:
        kind: what one is called in messages, such as "bridge".
        group: the entry points of other packages.
        home: the package whose import registers this project's own; imported at the first look-up.
        example: a text that `parse` takes.
        defaults: of a class's parameters, where they are not its constructor's arguments.
        by_default: read a text's values as the parameter's default is, else as what they look like.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        home: str,
        example: str,
        *,
        defaults: Callable[[type[T]], Mapping[str, Any]] = constructor_defaults,
        by_default: bool = True,
    ) -> None:
        self.kind, self.group, self.home, self.example = kind, group, home, example
        self._defaults, self._by_default = defaults, by_default
        self._classes: dict[str, type[T]] = {}
        self._loaded, self._loading = False, RLock()
        self._failed: list[str] = []

    def register(self, name: str, cls: type[T]) -> None:
        """Make ``cls`` known as ``name``; called by the subclass statement.

        Raises:
            BadInput: if the name is taken by another class or is not a plain word.
        """
        plain = isinstance(name, str) and name and all(c.isalnum() or c in "-_" for c in name)
        if not plain or name != name.lower():
            raise BadInput(
                f"{self.kind} name {shown(name)}: use lower-case letters, digits, '-' and '_'"
            )
        known = self._classes.get(name)
        # A notebook cell that is run again defines the same class anew; that is no clash.
        rerun = known is not None and known.__module__ == cls.__module__ == "__main__"
        if known is not None and not (rerun and known.__qualname__ == cls.__qualname__):
            raise BadInput(
                f"{self.kind} name {name!r} is taken by {known.__module__}.{known.__qualname__}; "
                f"{cls.__module__}.{cls.__qualname__} needs another name"
            )
        self._classes[name] = cls

    def available(self, pattern: str = "*") -> list[str]:
        """Registered names that match a shell-style pattern, sorted."""
        self._load()
        return sorted(name for name in self._classes if fnmatch(name, pattern))

    def info(self, name: str) -> Info[T]:
        """The record of a registered class.

        Raises:
            BadInput: if the name is unknown. It is a `ValueError`.
        """
        self._load()
        if not isinstance(name, str) or name not in self._classes:
            raise self.unknown(self.kind, name, self._classes)
        cls = self._classes[name]
        return Info(
            name=name,
            cls=cls,
            description=(inspect.getdoc(cls) or "").partition("\n")[0],
            formula=getattr(cls, "formula", ""),
            defaults=self.parameters(cls),
            purpose=vars(cls).get("purpose", ""),
        )

    def unknown(self, kind: str, name: object, known: Collection[str]) -> BadInput:
        """The error for a name that is none of those known, with what others' packages failed to add.

        Args:
            kind: what the name is of.
            name: that was asked for.
            known: this registry's names, or more.
        """
        failed = "".join(f"; {message}" for message in self._failed)
        own = f"One of your own has to be imported first, or be in an installed package{failed}"
        return BadInput(f"{unknown(kind, name, known)}. {own}")

    def parameters(self, cls: type[T]) -> Mapping[str, Any]:
        """Those of a class, registered or not, with their defaults."""
        return MappingProxyType(dict(self._defaults(cls)))

    def get(self, name: str, **parameters: Any) -> T:
        """Build one by name: ``get("ou", theta=1.0)``.

        Raises:
            BadInput: for an unknown name, an unknown parameter or a value out of range. It is a
                `ValueError`.
        """
        record = self.info(name)
        takes = f"it takes {', '.join(record.defaults) or 'none'}"
        unknown = sorted(set(parameters) - set(record.defaults))
        if unknown:
            raise BadInput(
                f"{self.kind} {name!r} has no parameter {', '.join(map(shown, unknown))}; {takes}"
            )
        required = {k for k, default in record.defaults.items() if default is inspect.Parameter.empty}
        missing = sorted(required - set(parameters))
        if missing:
            raise BadInput(f"{self.kind} {name!r} needs {', '.join(map(repr, missing))}; {takes}")
        return record.cls(**parameters)

    def parse(self, text: str) -> T:
        """Build one from one word: ``"brownian"``, ``"ou:theta=2,sigma=0.5"``, ``"sde:target=ou"``.

        A value is read as its parameter's default is: as a text, a whole number or a number; several in
        brackets are a list, ``sigma=[0.5,1]``. A text with commas of its own stands in parentheses,
        ``sde:target=(ou:theta=2,sigma=0.5),steps=12``.

        Raises:
            BadInput: as `get`, and for a text that is not ``name:key=value,...``.
        """
        name, parameters = self.split(text)
        return self.get(name, **parameters)

    def split(
        self, text: str, *, info: Callable[[str], Info[T]] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """The name and the parameters of a text, as `parse` hands them to `get`.

        Args:
            text: ``name:key=value,...``.
            info: what is known of a name, where there are more than those registered.

        Raises:
            BadInput: for an unknown name, and for a text that is not ``name:key=value,...``.
        """
        if not isinstance(text, str) or text.count(":") > _NESTED:
            raise BadInput(f"{self.kind} {shown(text)}: expected a text like {self.example}")
        name, _, rest = text.partition(":")
        defaults = (info or self.info)(name).defaults
        parameters: dict[str, Any] = {}
        for key, value, item in pairs(rest):
            default = defaults.get(key, 0.0)
            try:
                if value is None:
                    raise ValueError(item)
                # What has no default to be like, an unknown parameter too, is read as it looks.
                alike = self._by_default and defaults.get(key, _NO_DEFAULT) is not _NO_DEFAULT
                parameters[key] = number_like(value, default) if alike else literal(value)
            except ValueError as error:
                form = "number" if isinstance(default, float) and self._by_default else "value"
                raise BadInput(
                    f"{self.kind} {shown(text)}: {shown(item)} is not key={form}, as in {self.example}"
                ) from error
        return name, parameters

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Names that are registered in the block are forgotten after it: for tests of a new class."""
        self._load()
        before = dict(self._classes)
        try:
            yield
        finally:
            self._classes = before

    def _load(self) -> None:
        """Load this project's own and what other packages offer, once; a warning names what fails."""
        with self._loading:
            if self._loaded:
                return
            self._loaded = True  # what is imported here may look names up
            try:
                import_module(self.home)
                self._failed = failed = [one_line(said) for said in self._load_entry_points()]
            except BaseException:
                self._loaded = False
                raise
        for message in failed:  # once all are loaded: a warning may be an error here
            warnings.warn(message, stacklevel=4)

    def _load_entry_points(self) -> list[str]:
        failed = []
        try:
            points = tuple(entry_points(group=self.group))
        except Exception as error:  # the metadata of some installed package is broken
            return [f"the entry points of the installed packages cannot be read: {_said(error)}"]
        for point in points:
            try:
                point.load()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # sys.exit too: no plug-in may take the others down
                origin = point.dist.name if point.dist else "unknown package"
                failed.append(
                    f"entry point {point.name!r} of {origin} ({point.value}) failed to load: "
                    f"{_said(error)}"
                )
        return failed


def _said(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # a plug-in's own exception may be broken as well
        text = ""
    return text if isinstance(error, Exception) and text else f"{type(error).__name__} {text}".strip()
