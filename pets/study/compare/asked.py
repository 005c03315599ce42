"""The cells that a comparison's last command asked for: a report names those that were not run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from bridges.errors import BadInput
from bridges.storage.files import write_text
from bridges.storage.shapes import COUNT, TEXT, Shape, misfit
from pets.study.cells.rows import ANEW, Key
from pets.study.compare.table import read_json

ASKED_FILE = "asked.json"
_SHAPE: Shape = {"cells": [(TEXT, COUNT.or_null(), TEXT, TEXT, COUNT)]}


def write_asked(folder: Path, cells: Iterable[Key]) -> None:
    """Keep the cells of a command, in the place of those of the one before."""
    lines = ",\n".join(json.dumps(key) for key in cells)
    write_text(folder / ASKED_FILE, f'{{"cells": [\n{lines}\n]}}\n')


def read_asked(folder: Path) -> list[Key]:
    """The cells of the last command; none where that is not known.

    Raises:
        BadInput: if the file cannot be read, is broken, or holds something else.
    """
    path = folder / ASKED_FILE
    if not path.exists():
        return []
    record = read_json(path)
    if wrong := misfit(record, _SHAPE):
        raise BadInput(f"{path} holds no cells: {ANEW} ({wrong})")
    return [(task, shots, pet, arm, seed) for task, shots, pet, arm, seed in record["cells"]]
