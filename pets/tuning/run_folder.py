"""Run folders: one run each, whole or resumable, never overwritten."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bridges.errors import BadInput
from bridges.storage.checkpoint import Snapshot
from bridges.storage.files import check_same, write_text
from bridges.storage.ownership import LOCK_FILE, check_ours, check_replaceable, claimed
from bridges.storage.shapes import COUNT, FINITE, NUMBER, OBJECT, TEXT, Each, Maybe, Shape, misfit
from bridges.storage.workplace import leftovers
from pets.tuning.adapter_card import CARD_FILE

CONFIG_FILE = "run.json"
RESULT_FILE = "result.json"
TIMING_FILE = "timing.json"
STATE_FILE = "state.safetensors"
PET_FOLDER = "pet"
_FILES = (CONFIG_FILE, RESULT_FILE, TIMING_FILE, STATE_FILE)
_OURS = (*_FILES, PET_FOLDER)
_PET_FILES = ("adapter_config.json", "adapter_model.safetensors", CARD_FILE)

LOOK: Shape = {
    "step": COUNT,
    "loss": FINITE.or_null(),
    "running_cost": NUMBER.or_null(),
    "dev": Each(NUMBER),
    "dev_loss": FINITE,
}
"""One entry of the curves: a look at the selection split."""
_RESULT: Shape = {
    "task": TEXT,
    "metric": TEXT,
    "pet": TEXT,
    "bridge": Maybe(OBJECT),
    "settings": OBJECT,
    "versions": OBJECT,
    "reported": Maybe(Each(NUMBER)),
    "dev": Each(NUMBER),
    "dev_loss": FINITE,
    "best_step": COUNT,
    "examples": Each(COUNT),
    "truncated": Each(COUNT),
    "trainable_parameters": COUNT,
    "curves": [LOOK],
}


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
        else:
            check_ours(self.path, (CONFIG_FILE,), "no run")
        if not (self.path / RESULT_FILE).exists():
            check_ours(self.pet, _PET_FILES, "no PET of a run")
            for name in _OURS:
                check_replaceable(self.path / name, True, "file")
        self.identity = identity
        self.snapshot = Snapshot(self.path / STATE_FILE, identity)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """The folder for this process alone; what killed ones left in it is cleaned.

        Raises:
            BadInput: if another process has it.
        """
        with claimed(self.path, "another run", _OURS, alone=False):
            yield

    def start(self) -> None:
        """Make the folder and say in it what the run is made of; until then nothing is written."""
        write_text(self.path / CONFIG_FILE, json.dumps(self.identity, indent=2) + "\n")

    @property
    def result(self) -> dict[str, Any] | None:
        """The finished run's result, or None.

        Raises:
            BadInput: if it cannot be read, or is not what a run writes.
        """
        path = self.path / RESULT_FILE
        if not path.exists():
            return None
        result = _read(path)
        if wrong := misfit(result, _RESULT) or ("" if result["curves"] else "curves is empty"):
            raise BadInput(f"{path} is no result of a run ({wrong}): delete it to run anew")
        return result

    @property
    def pet(self) -> Path:
        """Where the tuned PET is."""
        return self.path / PET_FOLDER

    def tidy(self) -> None:
        """Remove what a kill right after the result was written leaves in a finished run."""
        unneeded = [self.snapshot.path, self.path / LOCK_FILE]
        if any(path.exists() for path in unneeded) or leftovers(self.path, older=_OURS):
            with contextlib.suppress(BadInput), self.claimed():
                self.snapshot.remove()

    def finish(self, result: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Write the result line; the state of the unfinished run goes."""
        write_text(self.path / TIMING_FILE, json.dumps(timing) + "\n")
        write_text(self.path / RESULT_FILE, json.dumps(result) + "\n")
        self.snapshot.remove()


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if wrong := misfit(content, OBJECT):
            raise ValueError(wrong)
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    return dict(content)
