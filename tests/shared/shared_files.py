"""The shared data and models that some tests read; they are no part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from places import REPOSITORY

_DEFAULT = REPOSITORY.parent / "shared"


def shared(*parts: str) -> Path:
    """A path under BRIDGE_PETS_SHARED, or under `shared` beside the repository."""
    return Path(os.environ.get("BRIDGE_PETS_SHARED", _DEFAULT)).joinpath(*parts)


def needs_shared(*parts: str) -> pytest.MarkDecorator:
    """Skip a test where that shared path is absent."""
    path = shared(*parts)
    return pytest.mark.skipif(not path.exists(), reason=f"{path} is absent")
