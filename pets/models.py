"""Loading pretrained models, their tokenizers and saved PETs, with nothing missing unnoticed."""

from __future__ import annotations

import contextlib
import logging
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTuner
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from bridges.errors import BadInput

logger = logging.getLogger(__name__)

PET_WEIGHTS = "adapter_model.safetensors"

# In this order: a model with several heads gets the first of them.
_HEADS = (
    (MODEL_FOR_MASKED_LM_MAPPING_NAMES, AutoModelForMaskedLM),
    (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, AutoModelForCausalLM),
    (MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, AutoModelForSeq2SeqLM),
)


def load_plm(name: str, *, any_lm: bool = False) -> tuple[PreTrainedModel, Any]:
    """A masked language model (float32, on the GPU where there is one) and its tokenizer.

    Weights that the checkpoint lacks are random after loading; a warning names them.

    Args:
        name: a Hugging Face name or a local folder.
        any_lm: where there is no masked-LM head, also accept a causal one or an encoder-decoder.

    Raises:
        BadInput: if the model cannot be found or read, or has no such head.
    """
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        where = "" if Path(name).exists() else "it is no folder here, and "
        raise BadInput(f"model {name!r} cannot be loaded: {where}{_one_line(error)}") from error
    auto: Any = next((a for known, a in _HEADS if config.model_type in known), None)
    if auto is None or not (any_lm or auto is AutoModelForMaskedLM):
        wanted = "language-model" if any_lm else "masked-LM"
        raise BadInput(
            f"model {name!r} ({config.model_type}) has no {wanted} head: choose a masked language model "
            "such as BERT or RoBERTa"
        )
    try:
        model, info = auto.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadInput(f"model {name!r} cannot be loaded: {_one_line(error)}") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise BadInput(f"model {name!r} comes without a tokenizer: put its tokenizer files beside it")
    missing = sorted(info["missing_keys"])
    if missing:
        logger.warning(
            "%s: the checkpoint has no weights for %s; they are random, so predictions are "
            "meaningless until they are trained",
            name,
            ", ".join(missing),
        )
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def load_pet(plm: PreTrainedModel, folder: str | os.PathLike[str]) -> PeftModel:
    """A PET that ``save_pretrained`` wrote, on its base model; strict: every weight, no other.

    Raises:
        BadInput: if the folder holds no PET, or a weight is missing, unknown or of another shape.
    """
    path = Path(folder) / PET_WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            stored = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        model = PeftModel.from_pretrained(plm, folder)
    except KeyError as error:  # peft looks a prompt's weight up by name
        raise BadInput(f"{path} does not fit the PET it describes: it lacks {error}") from error
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise BadInput(f"{folder} holds no PET for this model: {_one_line(error)}") from error
    expected = {key: tuple(v.shape) for key, v in get_peft_model_state_dict(model).items()}
    wrong = sorted(stored.items() ^ expected.items())
    if wrong:
        unload(model)
        names = ", ".join(sorted({key for key, _ in wrong})[:5])
        raise BadInput(f"{path} does not fit the PET it describes, weight by weight: {names}")
    return model


@contextlib.contextmanager
def untouched(plm: PreTrainedModel) -> Iterator[None]:
    """What peft changes on a model for good is put back: mode and trainable parameters."""
    trainable = {p: p.requires_grad for p in plm.parameters()}
    mode = plm.training
    try:
        yield
    finally:
        plm.train(mode)
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)


def unload(model: PeftModel) -> None:
    """Take a PET off its model; a prompt or a prefix never was on it."""
    if isinstance(model.base_model, BaseTuner):
        model.base_model.unload()


def _one_line(error: Exception) -> str:
    return textwrap.shorten(str(error), 400, placeholder=" ...")
