"""Which code made a result: a hash of the folders of this project that such work is done in."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

FIT = ("kernels", "bridges")
"""What a fit is made by."""
_SHOWS = "testing"  # a folder of tests for whoever subclasses: it makes no result
_ROOT = Path(__file__).parents[2]


@functools.cache
def source_digest(*folders: str) -> str:
    """12 hex digits that change with the source in the folders.

    Args:
        folders: seen from the root of the packages, such as ``"pets/tuning"``, with all that is in them;
            a folder is named where it makes results, and not where it only shows them.
    """
    digest = hashlib.sha256()
    for name, path in sorted(sources(*folders).items()):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def sources(*folders: str) -> dict[str, Path]:
    """The Python files in the folders, by name as seen from the root: ``"pets/tasks/glue.py"``.

    `kernels` is a namespace: where another package shares the folder, its files count too.
    """
    found = {}
    for folder in folders:
        for path in (_ROOT / folder).rglob("*.py"):
            name = path.relative_to(_ROOT)
            if _SHOWS not in name.parts:
                found[name.as_posix()] = path
    return found
