"""A private folder beside a target, in which the new one is made before it takes the target's place."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_NAME = re.compile(r"\.(?P<target>.+)\.[0-9a-f]{8}\.new", re.DOTALL)
# What versions before this one left: `.run.json.new`, a file, and `.pet-x1y2z3_4`, a folder.
_OLDER = re.compile(r"\.(?P<target>.+)(?:\.new|-[a-z0-9_]{8})", re.DOTALL)
_LOCK, _NEW, _OLD = "lock", "new", "old"


@contextmanager
def replacement(target: Path, *, of_file: bool = False) -> Iterator[Path]:
    """What takes the place of ``target`` when the block ends without an error: whole, and on the disk.

    It is made in a folder that no one else may enter, under a name that cannot be foreseen; as long as
    the block lasts a lock says that it is in use. What killed processes left beside the same target is
    cleaned first. Permissions are those of any new file, as the umask has them; what writers of weights
    choose, the owner alone, is undone. Symbolic links are never followed, nor replaced.

    Args:
        target: its folder is made if need be. A folder there is moved aside: for a moment there is none.
        of_file: yield the path of a file to be written, not an empty folder.

    Raises:
        OSError: if it cannot be; what is there stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    clean(target.parent, {target.name})
    place, lock = _made(target)
    try:
        new = place / _NEW
        new.mkdir()
        mode = stat.S_IMODE(new.stat().st_mode)
        written = new / target.name if of_file else new
        yield written
        for path in (written, *written.rglob("*")):
            _settle(path, mode)
        if target.is_symlink():
            raise OSError(errno.ELOOP, "it is a symbolic link")
        if written.is_dir() and target.exists():
            target.rename(place / _OLD)
        written.replace(target)
        _sync(target.parent)
    finally:
        _dissolve(place, target)
        lock.release()


def clean(folder: Path, targets: Collection[str] | None = None, *, older: Collection[str] = ()) -> None:
    """Remove what killed processes of this user left in a folder, unless it is in use.

    Args:
        folder: where to look.
        targets: names beside which to clean; None for all.
        older: names beside which to clean what earlier versions left too. That does not say whether it
            is in use: only in a folder that is this process's alone.
    """
    for place in leftovers(folder, older=older):
        target = _target(place.name)
        if targets is not None and target not in targets:
            continue
        with contextlib.suppress(OSError):
            if not _is_mine(place):
                continue
            if place.is_dir():
                _clean(place, folder / target)
            else:
                place.unlink()


def leftovers(folder: Path, *, older: Collection[str] = ()) -> list[Path]:
    """The places of replacements in a folder, in use or left by a killed process; see `clean`."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    matching = [n for n in names if _NAME.fullmatch(n) or (_target(n) in older and _OLDER.fullmatch(n))]
    return [folder / name for name in matching if _is_workplace(folder / name)]


def _made(target: Path) -> tuple[Path, FileLock]:
    while True:
        place = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
        try:
            place.mkdir(mode=0o700)
        except FileExistsError:
            continue
        lock = FileLock(place / _LOCK, timeout=0)
        try:
            lock.acquire()
        except (Timeout, FileNotFoundError):  # taken for a leftover before it was locked
            continue
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        return place, lock


def _clean(place: Path, target: Path) -> None:
    """Remove a workplace, unless it is in use."""
    lock = FileLock(place / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return
    _dissolve(place, target)
    lock.release()


def _dissolve(place: Path, target: Path) -> None:
    """Remove a workplace; if the target's place is empty in between, it is filled first."""
    old, new = place / _OLD, place / _NEW
    if old.exists() and not os.path.lexists(target):
        try:
            new.rename(target)  # it was whole before the old one was moved
        except OSError:
            old.rename(target)
    shutil.rmtree(place, ignore_errors=True)


def _settle(path: Path, mode: int) -> None:
    """Have a file or folder reach the disk, with the permissions that follow from a new folder's."""
    here = path.lstat()
    if stat.S_ISLNK(here.st_mode):
        return
    _sync(path)
    wanted = mode & 0o777 if stat.S_ISDIR(here.st_mode) else mode & 0o666
    path.chmod(wanted | here.st_mode & stat.S_ISGID)


def _sync(path: Path) -> None:
    """Have a file or the names in a folder reach the disk."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has no such thing
            raise
    finally:
        os.close(handle)


def _target(name: str) -> str:
    """What is replaced in a place of that name; empty if it is none."""
    match = _NAME.fullmatch(name) or _OLDER.fullmatch(name)
    return match["target"] if match else ""


def _is_workplace(path: Path) -> bool:
    """Whether it holds nothing but what such a place holds; of earlier versions it may be a file."""
    try:
        here = path.lstat()
        if stat.S_ISDIR(here.st_mode):
            return set(os.listdir(path)) <= {_LOCK, _NEW, _OLD}
    except PermissionError:
        return True  # another user's: no one else may look into one
    except OSError:
        return False
    return stat.S_ISREG(here.st_mode) and not _NAME.fullmatch(path.name)


def _is_mine(path: Path) -> bool:
    """Of this user: what others put there under such a name is left alone."""
    return not hasattr(os, "geteuid") or path.lstat().st_uid == os.geteuid()
