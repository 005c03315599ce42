"""The files of a saved running cost: config.json and model.safetensors, both or neither."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bridges.errors import BadInput
from bridges.ownership import foreign
from bridges.storage import new_folder

if TYPE_CHECKING:
    from bridges.running_cost import RunningCost

FORMAT = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def save_cost(cost: RunningCost, folder: str | os.PathLike[str]) -> None:
    """See `RunningCost.save_pretrained`."""
    if cost.bridge.registered_name is None:
        raise BadInput(
            f"{type(cost.bridge).__name__} has no registered name, so it could not be loaded "
            'again: write class X(GaussianBridge, name="x")'
        )
    target = Path(folder)
    check_writable(target)
    with new_folder(target) as new:
        tensors = {k: v.detach().cpu().contiguous() for k, v in cost.state_dict().items()}
        save_file(tensors, new / WEIGHTS_FILE)
        (new / CONFIG_FILE).write_text(json.dumps(cost.config(), indent=2) + "\n")


def check_writable(target: Path) -> None:
    """Whether a cost may be saved there, as far as can be told before.

    Raises:
        BadInput: for a symbolic link, the working folder, a mount point, or a folder or file that is not
            just a saved cost.
    """
    what = ""
    if target.is_symlink():
        what = "is a symbolic link"
    elif target.exists() and not _is_replaceable(target):
        what = "exists and is not just a saved cost"
    elif target.is_dir() and (os.path.samefile(target, os.curdir) or os.path.ismount(target)):
        what = "is the working folder or a disk, which cannot be replaced"
    if what:
        raise BadInput(f"{target} {what}: choose another folder")


def load_cost(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the tensors of a saved cost.

    Raises:
        BadInput: if a file is missing or broken.
    """
    source = Path(folder)
    config = _read_config(source)
    try:
        return config, load_file(source / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{source / WEIGHTS_FILE} cannot be read: {error}") from error


@contextmanager
def refusing_misfit(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what goes wrong when a cost is built from its files into a `BadInput`."""
    try:
        yield
    except BadInput:
        raise
    except RuntimeError as error:
        message = " ".join(str(error).split())
        raise BadInput(f"{Path(folder) / WEIGHTS_FILE} does not fit its config: {message}") from error
    except (KeyError, TypeError, IndexError) as error:
        what = f"{type(error).__name__}: {error}"
        raise BadInput(f"{Path(folder) / CONFIG_FILE} is incomplete or malformed ({what})") from error


def _is_replaceable(target: Path) -> bool:
    """Whether nothing but a saved cost is lost with it; a model's folder has files of the same names."""
    if not target.is_dir():
        return False
    if (target / CONFIG_FILE).exists():
        try:
            _read_config(target)
        except BadInput:
            return False
        return not foreign(target, (CONFIG_FILE, WEIGHTS_FILE))
    return not foreign(target, ())


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder} holds no saved cost: {path.name} cannot be read ({error})") from error
    found = config.get("format") if isinstance(config, dict) else None
    if found != FORMAT:
        raise BadInput(
            f"{path} has format {found!r}, expected {FORMAT}: was it written by this project?"
        )
    missing = {"model", "bridge", "widths", "fit"} - config.keys()
    if missing:
        raise BadInput(f"{path} lacks {', '.join(sorted(missing))}")
    return dict(config)
