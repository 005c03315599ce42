"""English text that is on every machine: the docstrings of the Python standard library.

`corpus` is the text a tiny language model is pretrained on, `areas` a few-shot task of the same
source: which area of the library does this docstring belong to? Nothing is imported, only parsed.
"""

from __future__ import annotations

import ast
import logging
import sysconfig
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path

from bridges.errors import BadInput

logger = logging.getLogger(__name__)

# Area -> its top-level modules. The name of the area is the word that stands for it in the prompt.
# Only what CPython 3.10 to 3.14 have; the parts of a package that moved are listed in both places.
AREAS: dict[str, tuple[str, ...]] = {
    "network": (
        "ftplib", "http", "imaplib", "ipaddress", "poplib", "smtplib", "socket", "socketserver",
        "ssl", "urllib", "wsgiref", "xmlrpc",
    ),
    "file": (
        "_compression", "bz2", "compression", "filecmp", "fileinput", "genericpath", "glob",
        "gzip", "lzma", "ntpath", "os", "pathlib", "posixpath", "shutil", "stat", "tarfile",
        "tempfile", "zipfile",
    ),
    "number": (
        "_pydecimal", "_pylong", "colorsys", "fractions", "numbers", "random", "statistics",
    ),
    "test": ("bdb", "doctest", "pdb", "trace", "traceback", "tracemalloc", "unittest"),
}  # fmt: skip

_SKIPPED = {
    "dist-packages", "ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tests",
    "tkinter", "turtledemo",
}  # fmt: skip
_CORPUS_WORDS = 3  # "Ditto." teaches nothing
_CORPUS_TEXTS = 2000  # a full library has about 6000; fewer: most of its source is missing
_TASK_WORDS = 8  # shorter docstrings ("Return a copy.") could come from any area
_POOL = 60  # texts of every area in the reported pool; the train pool has no fewer


def corpus() -> list[str]:
    """Return text to pretrain on: one docstring of the standard library each, in a fixed order.

    White space is collapsed; test suites, texts of one or two words, exact duplicates and the
    reported pool of `areas` are left out.

    Raises:
        BadInput: The source of the standard library is missing or mostly missing.
    """
    reported = {text for text, _ in areas()[1]}
    return [text for _, text in _docstrings() if text not in reported]


def areas() -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Return the train pool and the reported pool of the task: (text, place of its area in AREAS).

    The pools share no module, hence no text. The reported one has 60 texts of every area, the
    train pool at least 60. What goes where depends on nothing but the names and the texts.

    Raises:
        BadInput: The source of the standard library is missing or mostly missing.
    """
    train: list[tuple[str, int]] = []
    reported: list[tuple[str, int]] = []
    for label, (area, modules) in enumerate(AREAS.items()):
        files: dict[str, list[str]] = {}
        for path, text in _docstrings():
            if _top(path) in modules and len(text.split()) >= _TASK_WORDS:
                files.setdefault(path, []).append(text)
        left = sum(map(len, files.values()))
        aside: list[str] = []
        for path in sorted(files, key=_digest):
            if len(aside) < _POOL <= left - len(files[path]):
                left -= len(files[path])
                aside += files.pop(path)
        if len(aside) < _POOL:
            raise BadInput(
                f"too few docstrings for the area {area!r} in {_root()}: {left + len(aside)}, and "
                f"two sets of modules with {_POOL} each are needed; install the full standard "
                "library (on Debian: libpython3-stdlib)"
            )
        reported += [(text, label) for text in sorted(aside, key=_digest)[:_POOL]]
        train += [(text, label) for texts in files.values() for text in texts]
    return train, reported


def _digest(text: str) -> bytes:
    """Return a key that sorts as if at random, the same on every machine."""
    return sha256(text.encode()).digest()


def _root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _top(path: str) -> str:
    """Return the top-level module of a path relative to the library."""
    return path.split("/")[0].removesuffix(".py")


def _docstrings() -> tuple[tuple[str, str], ...]:
    return _read(_root())


@cache
def _read(root: Path) -> tuple[tuple[str, str], ...]:
    """Return (path of the file relative to `root`, docstring), without duplicates, by path."""
    found: dict[str, str] = {}
    unreadable = 0
    for path in sorted(file.relative_to(root).as_posix() for file in root.rglob("*.py")):
        if not _SKIPPED.isdisjoint(path.split("/")):
            continue
        try:
            tree = ast.parse((root / path).read_bytes())
        except (OSError, SyntaxError, ValueError):
            unreadable += 1
            continue
        for text in _texts(tree):
            found.setdefault(text, path)
    if unreadable:
        logger.warning("skipped %d unreadable files of the library in %s", unreadable, root)
    if len(found) < _CORPUS_TEXTS:
        raise BadInput(
            f"only {len(found)} docstrings in the standard library in {root}; its .py files are "
            "missing (a zipped or compiled-only Python?), use a Python installed with its source"
        )
    return tuple((path, text) for text, path in found.items())


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = " ".join((ast.get_docstring(node, clean=False) or "").split())
            if len(text.split()) >= _CORPUS_WORDS:
                yield text
