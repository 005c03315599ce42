"""One module imported as soon as another one has been, whoever imports that, and when."""

from __future__ import annotations

import importlib.abc
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType

from bridges.errors import one_line


def import_after(name: str, then: str) -> None:
    """Import the module ``then`` once ``name`` is imported: now, if it is, else right after that.

    Where ``name`` is never imported nothing happens. What goes wrong later is a warning: it must not
    take down the import of somebody else's module.
    """
    if name in sys.modules:
        __import__(then)
    elif After(name, then) not in sys.meta_path:
        sys.meta_path.insert(0, After(name, then))


@dataclass(frozen=True)
class After(importlib.abc.MetaPathFinder):
    """Finds a module where the others find it, and sees the end of its import; then it is gone."""

    name: str
    then: str

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = (
                find(fullname, path, target) if find and finder is not self else None
            )
            if spec is not None:
                # Asking for the spec is no import: the finder stays until the module is run.
                if spec.loader is not None:
                    spec.loader = _Watched(spec.loader, self)
                return spec
        return None


class _Watched(importlib.abc.Loader):
    """A loader that tells the end; the module is given the loader itself."""

    def __init__(self, loader: importlib.abc.Loader, after: After) -> None:
        self._loader, self._after = loader, after

    def __getattr__(self, name: str) -> object:  # for who asks a spec for its source or its resources
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        spec.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        if self._after in sys.meta_path:
            sys.meta_path.remove(self._after)
        try:
            # Not `import_module`: it takes two threads that wait for each other's imports for an error.
            __import__(self._after.then)
        except Exception as error:
            message = f"{self._after.then} could not follow the import of {self._after.name}: {error}"
            warnings.warn(one_line(message), stacklevel=2)
