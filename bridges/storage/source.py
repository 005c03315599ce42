"""Which code made a result: a hash of the source of this project that a module's work can reach."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

_FLOORS = ("kernels", "bridges", "pets")


@functools.cache
def source_digest(root: str) -> str:
    """12 hex digits that change with the source of a module and all that it imports of this project."""
    digest = hashlib.sha256()
    for name, path in sorted(sources(root).items()):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


@functools.cache
def sources(root: str) -> dict[str, Path]:
    """The files of a module and of all modules of this project that it may import, by their names.

    Imports inside functions count, and so do modules that are named in a string, as those are that
    `kernels.dispatch` chooses from. What is imported for type checkers only does not.
    """
    found: dict[str, Path] = {}
    waiting = [root]
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if path is None or name in found:
            continue
        found[name] = path
        waiting += [name.rpartition(".")[0], *_imported(ast.parse(path.read_bytes()))]
    return found


def _file(name: str) -> Path | None:
    """Of a module of this project; None for other names.

    `kernels` is a namespace: where it has a file, that is of another package which shares the name.
    """
    if name == "kernels" or name.partition(".")[0] not in _FLOORS:
        return None
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:  # its parent is no package: `from module import name`
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def _imported(node: ast.AST) -> Iterator[str]:
    """Names that may be modules, wherever they stand; imports here are absolute."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield str(node.module)
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        if "." in node.value and all(part.isidentifier() for part in node.value.split(".")):
            yield node.value
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        for other in node.orelse:
            yield from _imported(other)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _imported(child)
