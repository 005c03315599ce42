"""The version of this distribution, for all its packages: ``bridges.__version__``, ``pets.__version__``.

It stands in pyproject.toml alone. `kernels` itself is a namespace portion, which has no attributes.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

_NAME = "bridge-pets"


def _found() -> str:
    """Of the source tree that this file is in, where it is in one, else of what is installed."""
    try:
        text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        text = ""
    said = re.search(rf'^name = "{_NAME}"\nversion = "([^"]+)"', text, re.MULTILINE)
    if said:
        return said[1]
    try:
        return metadata.version(_NAME)
    except metadata.PackageNotFoundError:  # its packages were copied somewhere
        return "unknown"


__version__ = _found()
