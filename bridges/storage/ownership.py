"""Folders that belong to one command at a time, and hold nothing that is not its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bridges.errors import BadInput, writing
from bridges.storage.workplace import clean, leftovers

LOCK_FILE = ".lock"


def foreign(folder: Path, ours: Collection[str]) -> list[str]:
    """The names in a folder that are not ours: nothing under them may be deleted or replaced.

    What a killed process left does not count, so a folder with nothing else in it counts as empty. A
    symbolic link never is ours.
    """
    known = {path.name for path in leftovers(folder, older=ours)} | {LOCK_FILE, *ours}
    return sorted(p.name for p in folder.iterdir() if p.is_symlink() or p.name not in known)


def check_ours(folder: Path, ours: Collection[str], what: str) -> None:
    """Whether a folder is new, or holds only what is ours.

    Args:
        folder: it may be a symbolic link to one, not to nothing.
        ours: names.
        what: what it holds otherwise, "no run".

    Raises:
        BadInput: if it is no folder, or something else is in it.
    """
    if folder.is_symlink() and not folder.exists():
        raise BadInput(f"{folder} is a symbolic link to nothing: choose another folder")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise BadInput(f"{folder} exists and holds {what}, it is no folder: choose another folder")
    try:
        others = foreign(folder, ours)
    except OSError as error:
        raise BadInput(f"{folder} cannot be read ({error.strerror}): choose another folder") from error
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise BadInput(
            f"{folder} exists and holds {what}, but {others[0]!r}{more}: choose another folder"
        )


def check_replaceable(path: Path, is_ours: bool, what: str) -> None:
    """Whether a file or folder that a command is to write is new, or one that it wrote.

    Args:
        path: of the file or folder.
        is_ours: whether what is there was written by it.
        what: "report", say.

    Raises:
        BadInput: if not.
    """
    if path.is_symlink() or (path.exists() and not is_ours):
        reason = "is a symbolic link" if path.is_symlink() else f"exists and is no {what} of bridge-pets"
        raise BadInput(f"{path} {reason}: it is not replaced, choose another place or move it away")


def check_new(target: Path, is_replaceable: Callable[[Path], bool], what: str) -> None:
    """Whether something may be saved as a folder, as far as can be told before.

    Args:
        target: the folder.
        is_replaceable: whether what is there is lost with nothing else.
        what: "a saved cost".

    Raises:
        BadInput: for a symbolic link, the working folder, a mount point, or a folder or file that may
            not be replaced.
    """
    reason = ""
    if target.is_symlink():
        reason = "is a symbolic link"
    elif target.exists() and not is_replaceable(target):
        reason = f"exists and is not just {what}"
    elif target.is_dir() and (os.path.samefile(target, os.curdir) or os.path.ismount(target)):
        reason = "is the working folder or a disk, which cannot be replaced"
    if reason:
        raise BadInput(f"{target} {reason}: choose another folder")


@contextmanager
def claimed(
    folder: str | os.PathLike[str], what: str, ours: Collection[str], *, alone: bool = True
) -> Iterator[None]:
    """The folder for this process alone; what killed ones left in it is cleaned.

    It is made if need be, and what was made is taken away again if nothing is in it at the end. The lock
    is the system's: that of a killed process holds no one up.

    Args:
        folder: new, or one of the same kind.
        what: what a second process is told is running there, "a fit".
        ours: names.
        alone: whether nothing that is not ours may be in it.

    Raises:
        BadInput: if another process has it, or something that is not ours is in it.
        CannotWrite: if it may not be written to.
    """
    folder = Path(folder)
    if alone:
        check_ours(folder, ours, f"nothing of {what}")
    lock_file = folder / LOCK_FILE
    with writing(folder):
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        if lock_file.is_symlink() or (lock_file.exists() and not lock_file.is_file()):
            raise BadInput(f"{lock_file} is no lock of bridge-pets: delete it, or choose another folder")
        lock = FileLock(lock_file, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise BadInput(f"{what} is running in {folder}: wait for it, or stop it") from None
    try:
        clean(folder, older=ours)
        yield
    finally:
        with contextlib.suppress(OSError):
            lock_file.unlink()  # while it is held: who waits for it sees that it is gone
        lock.release()
        with contextlib.suppress(OSError):
            for path in missing:
                path.rmdir()
