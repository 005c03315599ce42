"""What the files of a model hold beside numbers, code and pickles, and what can be wrong with them."""

from __future__ import annotations

import contextlib
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from bridges.errors import BadInput

_PET_CONFIG = "adapter_config.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_SAFE = (".safetensors", ".safetensors.index.json")
_SHOWN = 5
_CONVERT = (
    "pickled weights are not read, as they can run code: convert those that you trust, "
    "from_pretrained(..., use_safetensors=False), then save_pretrained"
)


def code_classes(name: str) -> list[str]:
    """The classes that a model's files would have transformers import from code that comes along.

    Args:
        name: a Hugging Face name or a local folder.

    Returns:
        ``"file.Class"`` or ``"user/model--file.Class"`` each, sorted.

    Raises:
        BadInput: if the files cannot be read, or if the model is of no architecture of transformers,
            so that without its code nothing can be done.
    """
    with reading(name):
        config, _ = PreTrainedConfig.get_config_dict(name)
        classes = sorted({*_classes(config), *_classes(get_tokenizer_config(name))})
        known = config.get("model_type") in CONFIG_MAPPING_NAMES
    if classes and not known:
        raise needs_code(name, classes)
    return classes


def needs_code(name: str, code: Sequence[str]) -> BadInput:
    """The error for a model that cannot be loaded without running what comes with it."""
    return BadInput(
        f"model {name!r} needs code of its own ({_some(code)}), as transformers has nothing in its "
        "place; none of it was run: read that code, and give --trust-remote-code (in Python "
        "trust_remote_code=True) if it may run here"
    )


def check_no_pet(name: str, model: nn.Module | None = None) -> None:
    """Refuse a PET beside a model: transformers puts it on the model without a word.

    Args:
        name: a Hugging Face name or a local folder.
        model: what was loaded from it.

    Raises:
        BadInput: if there is one in the folder, or on the model.
    """
    on_it = model is not None and any(isinstance(part, BaseTunerLayer) for part in model.modules())
    if on_it or (Path(name) / _PET_CONFIG).exists():
        raise BadInput(
            f"{name} holds a PET ({_PET_CONFIG}), not a plain model: give the model it was tuned on, or "
            "merge it first (merge_and_unload, then save_pretrained)"
        )


def check_weights(name: str, config: PreTrainedConfig) -> None:
    """Refuse a folder that would have pickled weights read under another name.

    Raises:
        BadInput: if its config or its index of safetensors files lists other files.
    """
    listed = [getattr(config, "transformers_weights", None)]
    index = Path(name) / SAFE_WEIGHTS_INDEX_NAME
    if index.is_file():
        listed += json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    others = sorted({str(file) for file in listed if file and not str(file).endswith(_SAFE)})
    if others:
        raise BadInput(
            f"model {name!r} has weights in {_some(others)}, not in safetensors files: {_CONVERT}"
        )


@contextlib.contextmanager
def reading(name: str, code: Sequence[str] = ()) -> Iterator[None]:
    """Whatever transformers raises over a model's files becomes one line.

    Its own code reads them without checking: a number where a list should be raises anything.

    Args:
        name: a Hugging Face name or a local folder.
        code: what of the model's own code is not run.
    """
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        if code and "trust_remote_code" in str(error):
            raise needs_code(name, code) from error
        where = "" if Path(name).exists() else "it is no folder here, and "
        what = _known(name, error) or where + (_of_the_hub(error) or one_line(error))
        raise BadInput(f"model {name!r} cannot be loaded: {what}") from error


def one_line(error: Exception) -> str:
    """What an error says, and its kind where the words alone would not tell."""
    told = textwrap.shorten(str(error), 400, placeholder=" ...")
    if isinstance(error, (OSError, ValueError)) and told:
        return told
    return f"{type(error).__name__}: {told}" if told else type(error).__name__


def _known(name: str, error: Exception) -> str | None:
    """In better words than transformers', where these mislead."""
    if isinstance(error, OSError) and f"file named {SAFE_WEIGHTS_NAME}" in str(error):
        pickles = sorted(path.name for kind in _PICKLES for path in Path(name).glob(kind))
        but = f" but {_some(pickles)}" if pickles else ""
        return f"it has no {SAFE_WEIGHTS_NAME}{but}; {_CONVERT}"
    if isinstance(error, RuntimeError) and "ignore_mismatched_sizes" in str(error):
        return "its weights have other shapes than its config says: put the config beside it that it had"
    return None


def _of_the_hub(error: BaseException) -> str | None:
    """What to do where the hub could not be asked; None for another error."""
    from huggingface_hub import errors

    unreached = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        if isinstance(cause, unreached):
            return (
                "the hub cannot be asked: there is no connection, or HF_HUB_OFFLINE is set, and it is "
                "not among what was downloaded; check the name, go online, or give a local folder"
            )
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    return None


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:_SHOWN], *(["..."] if len(names) > _SHOWN else [])])


def _classes(config: Mapping[str, Any]) -> Iterator[str]:
    """What ``auto_map`` refers to: a class or, of a tokenizer, two, of which one may be missing."""
    named = config.get("auto_map") or {}
    for value in named.values() if isinstance(named, dict) else [named]:
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if part is not None:
                yield str(part)
