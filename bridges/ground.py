"""The floor below, where another package has its name too.

Hugging Face's package `kernels` is a regular one: before a source tree on the path it hides the modules
of ours, which a plain installation lays into the same folder.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path


def reach() -> None:
    """Make the modules of `kernels` beside this package importable; mostly they are already."""
    spec = find_spec("kernels")
    ours = str(Path(__file__).parents[1] / "kernels")
    if (
        spec is not None
        and spec.origin is not None
        and ours not in (spec.submodule_search_locations or ())
    ):
        path = import_module("kernels").__path__
        if ours not in path:
            path.append(ours)
