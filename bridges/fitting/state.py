"""Where the state of a fit is kept while it lasts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bridges.errors import BadInput
from bridges.storage.ownership import claimed

STATE_FILE = "fit-state.safetensors"

Folder = str | os.PathLike[str]


@contextmanager
def claimed_for_fits(folders: Sequence[Folder]) -> Iterator[None]:
    """The folders of fits, for this process alone."""
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(claimed(folder, "a fit", (STATE_FILE,), alone=False))
        yield


def partial_folder(out: Path) -> Path:
    """Where the state of a fit is kept that is to be saved in ``out``."""
    return out.with_name(out.name + ".partial")


def discard_state(folder: Folder) -> None:
    """Remove the state of a fit whose cost is saved, and its folder if nothing else is in it.

    Not where another process goes on with it.
    """
    folder = Path(folder)
    if folder.is_dir():
        with suppress(BadInput), claimed(folder, "a fit", (STATE_FILE,), alone=False):
            (folder / STATE_FILE).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
