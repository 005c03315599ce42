"""The files of a saved running cost: config.json and model.safetensors, both or neither."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bridges.errors import BadInput, is_number, is_whole, shown
from bridges.storage.files import new_folder, tensor_bytes
from bridges.storage.ownership import check_new, foreign
from bridges.storage.shapes import OBJECT, TEXT, Each, Kind, Maybe, Optional, Shape, misfit

FORMATS = {"mlp": 1, "lens": 2}
"""By what reads the states: an older version knows the first alone, and refuses the second.

A normalised mlp has the second too: older versions would read its states as they are.
"""

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
END_POINTS = "end_points.vectors"
LENS = "latent_map.weight"


def _is_curve(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(pair, list) and len(pair) == 2 and all(map(is_number, pair)) for pair in value
        )
    )


_STEPS = Kind("a whole number", lambda value: is_whole(value, 0, 2**63))
_CURVE = Kind("a list of pairs of step and cost", _is_curve)
_OPTION = Kind("true, false or text", lambda value: isinstance(value, (bool, str)))
_CONFIG: dict[str, Shape | Optional] = {
    "model": OBJECT,
    "bridge": {"name": TEXT, "parameters": OBJECT},
    "map": Optional(Kind("'mlp' or 'lens'", lambda value: value in ("mlp", "lens"))),
    "widths": Kind("a list of one or more", lambda value: isinstance(value, list) and bool(value)),
    "options": Optional(Each(_OPTION)),
    "weights_sha256": Optional(TEXT),
    "base_model": Optional(TEXT),
    "fit": Maybe({"steps": _STEPS, "held_out": _CURVE, "settings": Optional(OBJECT)}),
}
"""The types of it; the model's and the bridge's own check theirs."""


def file_format(map_name: str, *, normalise: bool = False) -> int:
    """The number of the files' format, for one of `bridges.cost.reader.MAPS`."""
    return FORMATS["lens" if normalise else map_name]


def save_cost(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: str | os.PathLike[str]
) -> None:
    """Write both files, or neither; see `RunningCost.save_pretrained`."""
    target = Path(folder)
    check_writable(target)
    with new_folder(target) as new:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, new / WEIGHTS_FILE)
        (new / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """A hash of named tensors to the bit, with their dtypes and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def check_writable(target: Path) -> None:
    """Whether a cost may be saved there, as far as can be told before.

    Raises:
        BadInput: for a symbolic link, the working folder, a mount point, or a folder or file that is not
            just a saved cost.
    """
    check_new(target, _is_replaceable, "a saved cost")


def load_cost(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the tensors of a saved cost.

    Raises:
        BadInput: if a file is missing or broken, or the config asks for sizes that no tensor has.
    """
    source = Path(folder)
    config = read_config(source)
    path = source / WEIGHTS_FILE
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise BadInput(f"{path} does not fit its config: {shown(name)} is of {tensor.dtype}")
    # Before anything is made of these sizes: a wrong digit asks for all the memory there is.
    most = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    sizes = {f"widths[{k}]": width for k, width in enumerate(config["widths"])}
    sizes |= {name: config["model"].get(name) for name in ("hidden_size", "vocab_size")}
    if config.get("map") == "lens":
        sizes["num_layers"] = config["model"].get("num_layers")
    for name, size in sizes.items():
        if not is_whole(size, 1, most):
            raise BadInput(
                f"{source / CONFIG_FILE} has {name} {shown(size)}, and no tensor of {WEIGHTS_FILE} is "
                f"larger than {most}: the files do not belong together"
            )
    if config.get("map") == "lens":
        found = tuple(tensors[LENS].shape) if LENS in tensors else None
        expected = (sizes["num_layers"] + 1, config["widths"][-1], sizes["hidden_size"])
        if found != expected:
            raise BadInput(
                f"{path} does not fit its config: {LENS} has shape {found}, expected {expected}, "
                "that is [L+1, d, H]"
            )
    return config, tensors


def check_tensors(
    folder: str | os.PathLike[str], config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Whether the tensors of a saved cost are those that were saved, as far as can be told.

    Costs that were saved before there was a digest of them have to be finite, with end points of
    length 1, or 0 where a word has none.

    Raises:
        BadInput: if they are not.
    """
    path = Path(folder) / WEIGHTS_FILE
    anew = "copy the whole folder again, or fit the cost anew"
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise BadInput(f"{path}: {name} has numbers that are not finite: {anew}")
    ends = tensors[END_POINTS]
    length = ends.double().norm(dim=1)
    rounding = max(1e-4, 2 * torch.finfo(ends.dtype).eps)
    wrong = ((length - 1).abs() > rounding) & (length != 0)
    if wrong.any() or not length.any():
        token = int(wrong.int().argmax())
        raise BadInput(
            f"{path}: the end point of token {token} has length {float(length[token]):.4g}, expected 1: "
            f"{anew}"
        )
    stored = config.get("weights_sha256")
    if stored is not None and stored != tensors_sha256(tensors):
        raise BadInput(
            f"{path} holds other tensors than {CONFIG_FILE} was saved with (weights_sha256 "
            f"{shown(stored)}): {anew}"
        )


@contextmanager
def refusing_misfit(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what goes wrong when a cost is built from its files into a `BadInput`."""
    try:
        yield
    except BadInput:
        raise
    except RecursionError as error:
        raise BadInput(f"{Path(folder) / CONFIG_FILE} is nested too deep: fit the cost anew") from error
    except RuntimeError as error:
        message = " ".join(str(error).split())
        raise BadInput(f"{Path(folder) / WEIGHTS_FILE} does not fit its config: {message}") from error
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        message = f"{type(error).__name__}: {error}"
        raise BadInput(f"{Path(folder) / CONFIG_FILE} is incomplete or malformed ({message})") from error


def _is_replaceable(target: Path) -> bool:
    """Whether nothing but a saved cost is lost with it; a model's folder has files of the same names."""
    if not target.is_dir():
        return False
    if (target / CONFIG_FILE).exists():
        try:
            read_config(target)
        except BadInput:
            return False
        return not foreign(target, (CONFIG_FILE, WEIGHTS_FILE))
    return not foreign(target, ())


def _normalises(config: Mapping[str, Any]) -> bool:
    options = config.get("options")
    return isinstance(options, dict) and options.get("normalise") is True


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a saved cost, its types checked.

    Raises:
        BadInput: if there is none, or it is not one of a running cost.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{folder} holds no saved cost: {path.name} cannot be read ({error})") from error
    found = config.get("format") if isinstance(config, dict) else None
    expected = FORMATS["mlp"]
    if isinstance(config, dict) and (config.get("map") == "lens" or _normalises(config)):
        expected = FORMATS["lens"]
    if isinstance(config, dict) and "format" not in config and "model_type" in config:
        raise BadInput(
            f"{path} is the config of a {shown(config['model_type'])} model, and no running cost's: "
            "give the folder that cost.save_pretrained or `bridge-pets fit --out` wrote"
        )
    if found != expected or isinstance(found, bool):
        raise BadInput(
            f"{path} has format {shown(found)}, expected {expected}: was it written by this project, "
            "or by a newer version of it?"
        )
    missing = {"model", "bridge", "widths", "fit"} - config.keys()
    if missing:
        raise BadInput(f"{path} lacks {', '.join(sorted(missing))}")
    if wrong := misfit(config, _CONFIG):
        raise BadInput(f"{path}: {wrong}")
    return dict(config)
