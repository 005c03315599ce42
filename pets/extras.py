"""What optional parts need, in words that work wherever this was installed from."""

from __future__ import annotations

import re
from importlib import metadata

from bridges.errors import BadInput

_NAMES = {"report": ("matplotlib", "pillow", "jinja2"), "ray": ("ray",)}
"""Of the extras: for a copy of the packages, where nothing says which versions are asked for."""


def missing(what: str, extra: str) -> BadInput:
    """The error where an optional package is not installed.

    Args:
        what: the sentence's start, such as "pictures need matplotlib, which is not installed".
        extra: of this distribution, "report" or "ray"; all of it that is not there is named at once.
    """
    asked = _asked(extra)
    absent = [package for package in asked if not _is_there(re.split(r"[^\w.-]", package)[0])]
    return BadInput(f"{what}: pip install {' '.join(map(repr, absent or asked))}")


def _asked(extra: str) -> list[str]:
    """An extra's packages with the versions that pyproject.toml asks for."""
    try:
        lines = metadata.requires("bridge-pets") or []
    except metadata.PackageNotFoundError:
        lines = []
    of_extra = re.compile(rf"([^;\s]+)\s*;.*\bextra\s*==\s*['\"]{extra}['\"]")
    return [match[1] for line in lines if (match := of_extra.match(line))] or list(_NAMES[extra])


def _is_there(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
