"""Run folders: one run each, whole or resumable, never overwritten."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridges.errors import BadInput
from bridges.storage import Snapshot, check_same, write_text

CONFIG_FILE = "run.json"
RESULT_FILE = "result.json"
TIMING_FILE = "timing.json"
STATE_FILE = "state.safetensors"
PET_FOLDER = "pet"


class RunFolder:
    """A folder that holds one run.

    ``run.json`` says what the run is made of; while it lasts ``state.safetensors`` holds how far it
    has come; at its end there is ``result.json``, a single JSON line. Times are kept apart in
    ``timing.json``, so that equal runs have equal results, byte for byte.

    Args:
        folder: new, empty, or one of the same run.
        identity: everything the result depends on, JSON-able.

    Raises:
        BadInput: if the folder holds another run, or anything else.
    """

    def __init__(self, folder: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
        self.path = Path(folder)
        identity = json.loads(json.dumps(identity))
        config = self.path / CONFIG_FILE
        if config.exists():
            check_same(f"{self.path} holds another run", _read(config), identity)
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise BadInput(f"{self.path} exists and holds no run: choose another folder")
        self.identity = identity
        self.snapshot = Snapshot(self.path / STATE_FILE, identity)

    def start(self) -> None:
        """Make the folder and say in it what the run is made of; until then nothing is written."""
        write_text(self.path / CONFIG_FILE, json.dumps(self.identity, indent=2) + "\n")

    @property
    def result(self) -> dict[str, Any] | None:
        """The finished run's result, or None."""
        path = self.path / RESULT_FILE
        return _read(path) if path.exists() else None

    @property
    def pet(self) -> Path:
        """Where the tuned PET is."""
        return self.path / PET_FOLDER

    def finish(self, result: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Write the result line; the state of the unfinished run goes."""
        write_text(self.path / TIMING_FILE, json.dumps(timing) + "\n")
        write_text(self.path / RESULT_FILE, json.dumps(result) + "\n")
        self.snapshot.remove()


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
