"""The files of a truncated classifier: a model as transformers keeps it, its PET and its exit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from bridges import BadInput, ModelSpec
from bridges.errors import is_whole, shown
from bridges.model.fingerprint import weights_sha256
from bridges.model.spec import pretrained_model
from bridges.storage.files import new_folder, versions
from bridges.storage.ownership import check_new, foreign
from bridges.storage.shapes import COUNT, OBJECT, TEXT, Each, Kind, Shape, misfit
from pets.anytime.calibration import Calibration
from pets.anytime.cutting import twin
from pets.anytime.exits import Exit
from pets.anytime.stack import Stack
from pets.tasks.verbalizer import Verbalizer
from pets.tuning.models import load_model, load_pet, unload

FORMAT = 1
EXIT_CONFIG, EXIT_WEIGHTS, PET_FOLDER = "exit.json", "exit.safetensors", "pet"
_ANEW = "copy the whole folder again, or save the model anew"
_POSITIVE = Kind("a whole number above 0", lambda value: is_whole(value, 1, 2**63))
_CONFIG: dict[str, Shape] = {
    "blocks": [(TEXT, COUNT)],
    "start": [Kind("a name or a number", lambda value: isinstance(value, (str, int)))],
    "reads": [Kind("a layer", lambda value: is_whole(value, 0, 2**31))],
    "verbalizer": {
        "labels": [TEXT],
        "words": [[TEXT]],
        "tokens": [[[COUNT]]],
        "mask_token": COUNT.or_null(),
    },
    "model": OBJECT,
    "full_size": {"layers": _POSITIVE, "parameters": _POSITIVE, "bytes": _POSITIVE},
    "model_sha256": TEXT,
    "files_sha256": Each(TEXT),
    "files": [TEXT],
}
_TENSORS = ("weight", "bias", "log_weights", "scale", "calibration_bias")


@dataclass(frozen=True)
class Parts:
    """What a truncated classifier is made of; see `pets.anytime.truncated.TruncatedClassifier`."""

    model: nn.Module
    stack: Stack
    exit: Exit
    spec: ModelSpec
    verbalizer: Verbalizer
    full_size: Mapping[str, int]


@contextmanager
def new_model_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty folder, in place of ``folder`` when the block ends without an error.

    Raises:
        BadInput: for one that is not just a truncated classifier's.
        CannotWrite: if it cannot be written.
    """
    target = Path(folder)
    check_new(target, _is_replaceable, "a truncated model")
    with new_folder(target) as new:
        yield new


def write(new: Path, parts: Parts, tokenizer: Any) -> None:
    """Write all files into an empty folder.

    Raises:
        BadInput: for a tokenizer that is none, or whose mask is another than that of the words.
    """
    if tokenizer is not None and not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise BadInput(f"tokenizer={shown(tokenizer)}: expected the model's tokenizer, or None")
    mask = parts.verbalizer.mask_token
    if tokenizer is not None and mask is not None and tokenizer.mask_token_id != mask:
        raise BadInput(
            f"the tokenizer's mask is token {tokenizer.mask_token_id}, and the labels' words were made "
            f"with {mask}: expected the tokenizer that they were made with"
        )
    model: Any = parts.model
    if isinstance(model, PeftModel):
        name = str(model.active_adapter)
        model.save_pretrained(str(new / PET_FOLDER), selected_adapters=[name])
        if name != "default":  # peft has a folder of each other name
            (new / PET_FOLDER / name).rename(new / "named")
            shutil.rmtree(new / PET_FOLDER)
            (new / "named").rename(new / PET_FOLDER)
        model = twin(model)
        unload(model)
        model = model.get_base_model()
    model.save_pretrained(str(new))
    if tokenizer is not None:
        tokenizer.save_pretrained(str(new))
    one = parts.exit
    tensors = dict(
        zip(
            _TENSORS,
            (one.weight, one.bias, one.log_weights, one.calibration.scale, one.calibration.bias),
            strict=True,
        )
    )
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, new / EXIT_WEIGHTS)
    written = _names(new)
    hashed = [name for name in written if name == EXIT_WEIGHTS or name.endswith("config.json")]
    hashed += [name for name in written if name.startswith(f"{PET_FOLDER}/") and name not in hashed]
    config = {
        "format": FORMAT,
        "blocks": parts.stack.blocks,
        "start": parts.stack.start,
        "reads": one.reads,
        "verbalizer": asdict(parts.verbalizer),
        "model": asdict(parts.spec),
        "full_size": dict(parts.full_size),
        "model_sha256": weights_sha256(parts.model),
        "files_sha256": {name: _sha256(new / name) for name in hashed},
        "files": written,
        "versions": versions(),
    }
    (new / EXIT_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(folder: str | os.PathLike[str]) -> Parts:
    """The parts of a saved classifier, checked.

    Raises:
        BadInput: for a folder that holds none, or files that are broken or do not belong together.
    """
    source = Path(folder)
    config = _read_config(source)
    for name, digest in config["files_sha256"].items():
        path = source / name
        if not path.is_file():
            raise BadInput(f"{source} lacks {name}: {_ANEW}")
        if _sha256(path) != digest:
            raise BadInput(f"{path} is another file than {EXIT_CONFIG} was saved with: {_ANEW}")
    with refusing_misfit(source):
        stack = Stack(tuple(map(tuple, config["blocks"])), (), tuple(config["start"]))
        spec = ModelSpec.from_dict(config["model"])
        told = config["verbalizer"]
        words, tokens = (tuple(map(tuple, told[name])) for name in ("words", "tokens"))
        tokens = tuple(tuple(map(tuple, each)) for each in tokens)
        verbalizer = Verbalizer(tuple(told["labels"]), words, tokens, told["mask_token"])
        one = _exit(source, config, len(stack), len(verbalizer), spec.hidden_size)
    model: Any = load_model(source)
    if weights_sha256(model) != config["model_sha256"]:
        raise BadInput(f"the weights in {source} are others than {EXIT_CONFIG} was saved with: {_ANEW}")
    with refusing_misfit(source):
        for path, _ in stack.blocks:
            pretrained_model(model).get_submodule(path)
    if any(name.startswith(f"{PET_FOLDER}/") for name in config["files"]):
        model = load_pet(model, source / PET_FOLDER)
    return Parts(model, stack, one, spec, verbalizer, config["full_size"])


@contextmanager
def refusing_misfit(folder: str | os.PathLike[str]) -> Iterator[None]:
    """What goes wrong when a classifier is built from its files is a `BadInput`."""
    try:
        yield
    except BadInput:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        message = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise BadInput(f"{Path(folder) / EXIT_CONFIG} is incomplete or malformed ({message})") from error


def _exit(folder: Path, config: Mapping[str, Any], layer: int, labels: int, width: int) -> Exit:
    path = folder / EXIT_WEIGHTS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    reads = tuple(config["reads"])
    if not reads or reads[-1] > layer or list(reads) != sorted(set(reads)):
        raise BadInput(f"{folder / EXIT_CONFIG} has reads {list(reads)}: expected layers up to {layer}")
    shape = tensors["log_weights"].shape if "log_weights" in tensors else ()
    words = labels * (shape[-1] if shape else 0)
    expected = {
        "weight": (len(reads), words, width),
        "bias": (words,),
        "log_weights": (labels, words // labels),
        "scale": (),
        "calibration_bias": (labels,),
    }
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        raise BadInput(f"{path} has tensors of shapes {found}, expected {expected}: {_ANEW}")
    for name, tensor in tensors.items():
        wrong = tensor.isnan() if name == "log_weights" else ~tensor.isfinite()  # -inf: no such word
        if not tensor.is_floating_point() or wrong.any():
            raise BadInput(f"{path}: {name} has numbers that are not finite: {_ANEW}")
    weight, bias, log_weights, scale, shift = (tensors[name] for name in _TENSORS)
    return Exit(layer, reads, weight, bias, log_weights, Calibration(scale, shift))


def _read_config(folder: Path) -> dict[str, Any]:
    """What exit.json says, its types checked.

    Raises:
        BadInput: if there is none, or it is something else.
    """
    path = folder / EXIT_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(
            f"{folder} holds no truncated model: {path.name} cannot be read ({error})"
        ) from error
    found = config.get("format") if isinstance(config, dict) else None
    if found != FORMAT or isinstance(found, bool):
        raise BadInput(
            f"{path} has format {shown(found)}, expected {FORMAT}: was it written by "
            "TruncatedClassifier.save_pretrained, or by a newer version of it?"
        )
    if wrong := misfit(config, _CONFIG):
        raise BadInput(f"{path}: {wrong}")
    return dict(config)


def _is_replaceable(target: Path) -> bool:
    """Whether nothing but a truncated classifier is lost with a folder."""
    if not target.is_dir():
        return False
    ours: list[str] = []
    if (target / EXIT_CONFIG).exists():
        try:
            ours = [EXIT_CONFIG, *_read_config(target)["files"]]
        except BadInput:
            return False
    if any((target / name).is_dir() for name in ours):  # where a file was
        return False
    there = {name.partition("/")[0] for name in ours}
    in_pet = [n.partition("/")[2] for n in ours if n.startswith(f"{PET_FOLDER}/")]
    pet = target / PET_FOLDER
    return not foreign(target, there) and not (pet.is_dir() and foreign(pet, in_pet))


def _names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()
