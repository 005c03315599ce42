"""Files that are whole or absent: folders, texts and snapshots of a run, never pickles."""

from __future__ import annotations

import functools
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bridges.errors import BadInput, writing
from bridges.storage.workplace import replacement


@contextmanager
def new_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder that takes the place of ``target`` when the block ends without an error.

    Until then an older ``target`` stays as it was; an error or an interrupt leaves it untouched.

    Raises:
        CannotWrite: if the operating system does not let it be written.
    """
    with writing(target), replacement(Path(target)) as new:
        yield new


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A temporary file that takes the place of ``target`` when the block ends without an error.

    Raises:
        CannotWrite: if the operating system does not let it be written.
    """
    with writing(target), replacement(target, of_file=True) as temporary:
        yield temporary


def write_text(path: Path, text: str) -> None:
    """Replace the file's content in one step."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


_HASHES = {
    "model_sha256": "another model: other weights",
    "config_sha256": "another model: another config, or modules set otherwise",
    "model_code": "another model: other code of its own",
    "tokenizer_sha256": "another tokenizer",
    "cost_code": "other code of the cost, the PET or the regularizer",
    "data_sha256": "other examples",
    "text": "other text",
    "digest": "another cost",
    "cost": "another cost",
}
"""What it means that one of these differs; two hashes say nothing."""
_SINCE = ("model_sha256", "config_sha256", "tokenizer_sha256", "code")
"""What older versions did not note, or not all of."""


def check_same(what: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that is made of something else.

    Args:
        what: said first, such as ``"runs/1 holds another run"``.
        there: what it is made of; as a file says, so anything may be missing.
        here: what it should be made of.

    Raises:
        BadInput: naming what differs.
    """
    there = there if isinstance(there, dict) else {}  # edited by hand
    if any(name in here and name not in there for name in _SINCE):
        raise BadInput(
            f"{what} (made by an older version of bridge-pets, which did not note the whole model, "
            "tokenizer and code: whether it is of this model cannot be told): choose another folder, "
            "or use that version; what is there stays as it is"
        )
    changed = difference(there, here)
    if changed:
        raise BadInput(
            f"{what} ({changed}): give what it was made with to go on with it, or choose another folder"
        )


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs between two descriptions of a run, ``"seed 42 there, 43 here; ..."``; else empty."""
    parts = []
    for key in sorted(k for k in {**there, **here} if there.get(k) != here.get(k)):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            parts.append(difference(old, new))
        elif key in _HASHES and any(_is_hash(value) for value in (old, new)):
            parts.append(_HASHES[key])
        else:
            parts.append(f"{key} {old!r} there, {new!r} here")
    return "; ".join(parts)


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def tensor_bytes(tensor: Tensor) -> bytes:
    """What a tensor is made of, for hashes: its numbers in their order, wherever it lies."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def versions() -> dict[str, str]:
    """Versions a result depends on."""
    packages = ("bridge-pets", "torch", "transformers", "peft")
    return {"python": platform.python_version(), **{package: _version(package) for package in packages}}


@functools.cache  # a package's metadata are parsed whole for it
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
