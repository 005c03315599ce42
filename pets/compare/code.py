"""Which code made a result: a hash of the source that a cell's numbers depend on."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

import bridges
import pets
from kernels import dispatch

# Of `pets`, what only shows results, or makes the demo's.
_SHOWS = {
    "cli.py",
    "cli_input.py",
    "commands",
    "demo.py",
    "docstrings.py",
    "plots.py",
    "report",
    "statistics.py",
    "comparison.py",
    "tiny_lm.py",
    "zoo.py",
}
_OF_COMPARE = {"arms.py", "cell.py", "grid.py"}


@functools.cache
def source_digest() -> str:
    """12 hex digits that change with the source of `kernels`, `bridges` and what tunes in `pets`."""
    digest = hashlib.sha256()
    for path, name in sorted(_sources(), key=lambda pair: pair[1]):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _sources() -> Iterator[tuple[Path, str]]:
    # By a file: `kernels` is a namespace, which other packages may have a part in.
    for package in map(Path, (dispatch.__file__, bridges.__file__, pets.__file__)):
        for path in package.parent.rglob("*.py"):
            inside = path.relative_to(package.parent).as_posix()
            first, _, rest = inside.partition("/")
            name = f"{package.parent.name}/{inside}"
            if package.parent.name == "pets" and (
                first in _SHOWS or (first == "compare" and rest not in _OF_COMPARE)
            ):
                continue
            yield path, name
