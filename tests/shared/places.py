"""Where things are in this checkout, for tests and for the scripts that they start."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = Path(__file__).resolve().parent


def script_environment(**more: str) -> dict[str, str]:
    """Of a test file that is started as a script: it imports what the test does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, SHARED))), **more}
