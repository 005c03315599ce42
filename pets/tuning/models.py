"""Loading pretrained models, their tokenizers and saved PETs, with nothing missing unnoticed."""

from __future__ import annotations

import contextlib
import logging
import os
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
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from bridges.errors import BadInput
from pets.tuning import model_files

logger = logging.getLogger(__name__)

PET_WEIGHTS = "adapter_model.safetensors"

# In this order: a model with several heads gets the first of them.
_HEADS = (
    (MODEL_FOR_MASKED_LM_MAPPING_NAMES, AutoModelForMaskedLM),
    (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, AutoModelForCausalLM),
    (MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, AutoModelForSeq2SeqLM),
)
_MISSING_SEED = 0
"""Of the weights that a checkpoint lacks: the same name is the same model every time."""


def load_plm(
    name: str, *, any_lm: bool = False, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, Any]:
    """A masked language model (float32, on the GPU where there is one) and its tokenizer.

    Weights that the checkpoint lacks are drawn from a fixed seed; a warning names them. Nothing that
    comes with the model is run unless asked for, and pickled weights are not read.

    Args:
        name: a Hugging Face name or a local folder.
        any_lm: where there is no masked-LM head, also accept a causal one or an encoder-decoder.
        trust_remote_code: run the Python code that the model's files name. Without it a model whose
            architecture transformers has is loaded by the library's own class, with a warning.

    Raises:
        BadInput: if the model cannot be found or read, has no such head, has no weights but pickled
            ones, or needs code of its own without ``trust_remote_code``.
    """
    model_files.check_no_pet(name)
    code = [] if trust_remote_code else model_files.code_classes(name)
    with model_files.reading(name, code):
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        model_files.check_weights(name, config)
        auto = _auto_class(config, any_lm=any_lm, trust_remote_code=trust_remote_code)
    if auto is None:
        wanted = "language-model" if any_lm else "masked-LM"
        if code:
            raise model_files.needs_code(name, code)
        raise BadInput(
            f"model {name!r} ({config.model_type}) has no {wanted} head: choose a masked language model "
            "such as BERT or RoBERTa"
        )
    with model_files.reading(name, code), _missing_weights_seeded():
        model, info = auto.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
        )
        model_files.check_no_pet(name, model)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        words = len(tokenizer) - len(tokenizer.all_special_tokens)
    if words <= 0:
        raise BadInput(f"model {name!r} comes without a tokenizer: put its tokenizer files beside it")
    if code:
        logger.warning(
            "%s: the code that comes with it (%s) is not run, transformers' own classes are used; "
            "--trust-remote-code would run it",
            name,
            ", ".join(code),
        )
    missing = sorted(info["missing_keys"])
    if missing:
        logger.warning(
            "%s: the checkpoint has no weights for %s; they are random (drawn from seed %d), so "
            "predictions are meaningless until they are trained",
            name,
            ", ".join(missing),
            _MISSING_SEED,
        )
    with model_files.reading(name, code):  # a GPU may be too small
        return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def _auto_class(config: PreTrainedConfig, *, any_lm: bool, trust_remote_code: bool) -> Any:
    """What loads a model of this kind with the head that is wanted; None where it has none."""
    own = (getattr(config, "auto_map", None) or {}) if trust_remote_code else {}
    for known, auto in _HEADS if any_lm else _HEADS[:1]:
        if config.model_type in known or auto.__name__ in own:
            return auto
    return None


@contextlib.contextmanager
def _missing_weights_seeded() -> Iterator[None]:
    """What is drawn within comes from a fixed seed; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_MISSING_SEED)  # models are made on the CPU
        yield


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
        raise BadInput(f"{folder} holds no PET for this model: {model_files.one_line(error)}") from error
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
