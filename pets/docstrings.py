"""English text that is on every machine: the docstrings of the Python standard library.

`corpus` is the text a tiny language model is pretrained on, `areas` a few-shot task made of it: which
area of the library does this docstring belong to? Nothing is imported, only parsed.
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
# Only what CPython 3.10 to 3.14 all have; a module that was renamed is listed under both names.
AREAS: dict[str, tuple[str, ...]] = {
    "network": (
        "asyncio", "ftplib", "http", "imaplib", "ipaddress", "poplib", "smtplib", "socket",
        "socketserver", "ssl", "urllib", "wsgiref", "xmlrpc",
    ),
    "file": (
        "_compression", "_pyio", "bz2", "filecmp", "fileinput", "fnmatch", "genericpath", "glob",
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
_MIN_TEXTS = 2000  # a full library has about 6000; fewer means that most of its source is missing
_MIN_WORDS = 3  # "Ditto." teaches nothing
_TASK_WORDS = 8  # shorter docstrings ("Return a copy.") could come from any area
_POOL = 60  # texts of every area in either pool, at the least


def corpus() -> list[str]:
    """Return the docstrings of the standard library of the running Python, in a fixed order.

    Every text is one whole docstring with its white space collapsed; test suites, texts of one or two
    words and exact duplicates are left out. The reported pool of `areas` is left out as well.

    Raises:
        BadInput: The source of the standard library is missing or mostly missing.
    """
    return [text for _, text in _docstrings()]


def areas() -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    raise NotImplementedError


@cache
def _docstrings() -> tuple[tuple[str, str], ...]:
    """Return (path of the module relative to the library, text) of all docstrings, without duplicates."""
    root = Path(sysconfig.get_path("stdlib"))
    found: dict[str, str] = {}
    unreadable = 0
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    for path in paths:
        if _SKIPPED.intersection(path.split("/")):
            continue
        try:
            tree = ast.parse((root / path).read_bytes())
        except (OSError, SyntaxError, ValueError):
            unreadable += 1
            continue
        for text in _texts(tree):
            found.setdefault(text, path)
    if unreadable:
        logger.warning("%d files of the standard library in %s are unreadable", unreadable, root)
    return tuple((path, text) for text, path in found.items())


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = " ".join((ast.get_docstring(node, clean=False) or "").split())
            if len(text.split()) >= _MIN_WORDS:
                yield text
