"""PET methods by name, with the published settings as defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig
from torch import nn

from bridges.errors import LARGEST, BadInput, check_counts, check_name, is_number, is_whole, shown
from pets.methods import modules as targets
from pets.methods.adapter import AdapterConfig
from pets.methods.bitfit import BitFitConfig

# peft has no masked-LM task type, and without any a tuner's own forward is bypassed.
_TASK_TYPE = "FEATURE_EXTRACTION"

targets.add_lora_targets()


def _lora(r: int = 8, **options: Any) -> LoraConfig:
    """Scale 1 on the query and value projections, which peft knows for each architecture."""
    return LoraConfig(**{"r": r, "lora_alpha": r, "task_type": _TASK_TYPE, **options})


def _adapter(**options: Any) -> AdapterConfig:
    return AdapterConfig(**{"task_type": _TASK_TYPE, **options})


def _bitfit(**options: Any) -> BitFitConfig:
    return BitFitConfig(**{"task_type": _TASK_TYPE, **options})


def _prefix(**options: Any) -> PrefixTuningConfig:
    return PrefixTuningConfig(**{"num_virtual_tokens": 20, "task_type": _TASK_TYPE, **options})


def _prompt(**options: Any) -> PromptTuningConfig:
    return PromptTuningConfig(**{"num_virtual_tokens": 20, "task_type": _TASK_TYPE, **options})


_METHODS: dict[str, Callable[..., PeftConfig]] = {
    "adapter": _adapter,
    "bitfit": _bitfit,
    "lora": _lora,
    "prefix": _prefix,
    "prompt": _prompt,
}
# Published for the few-shot protocol: prompts learn from a rate ten times that of the others.
_LEARNING_RATE = 1e-4
_COUNTS = ("r", "num_virtual_tokens")
_LEARNING_RATES = {"prefix": 1e-3, "prompt": 1e-3}


def available() -> list[str]:
    """Names `get` takes, sorted."""
    return sorted(_METHODS)


def learning_rate(name: str) -> float:
    """The published learning rate of a method, constant, of AdamW: 1e-3 for prompts, 1e-4 otherwise.

    Raises:
        BadInput: for an unknown name.
    """
    return _LEARNING_RATES.get(check_name("PET", name, _METHODS), _LEARNING_RATE)


def get(name: str, *, model: nn.Module | None = None, **options: Any) -> PeftConfig:
    """The peft config of a method: ``get_peft_model(plm, pets.get("lora", r=8))``.

    Args:
        name: "lora": r 8, scale 1 (lora_alpha follows r), on query and value; "adapter": bottleneck
            width 8, GELU, serial, after attention and feed-forward; "bitfit": every bias of the
            transformer; "prefix" and "prompt": 20 virtual tokens (see `init_prompt`).
        model: what it is meant for; give it for "prefix", "prompt" and classifiers. A prefix is then
            refused where the model would not read it: peft trains nothing there, without a word. A LoRA
            is refused, with the names of the modules there are, where peft knows no targets. A
            prompt gets the width of the word embeddings, which peft only guesses (wrongly for ALBERT
            and ELECTRA). And peft is told what the head does, so that a classifier's is trained too.
        **options: fields of peft's config class; they replace the defaults.

    Raises:
        BadInput: for an unknown name, an option the method does not have, or a model it does not work
            on.
    """
    check_name("PET", name, _METHODS)
    _check_numbers(name, options)
    if model is not None:
        if name == "prefix":
            targets.check_prefix(model)
        if name == "lora" and options.get("target_modules") is None:
            targets.check_lora(model)
        known = targets.prompt_shape(model) if name == "prompt" else {}
        kind = targets.task_type(model)
        options = {**known, **({"task_type": kind} if kind else {}), **options}
    try:
        return _METHODS[name](**options)
    except (TypeError, ValueError) as error:
        raise BadInput(f"PET {name!r} with {shown(options)}: {error}") from error


def _check_numbers(name: str, options: dict[str, Any]) -> None:
    """What peft takes as it is, to fail or to train on NaN later."""
    check_counts(**{k: v for k, v in options.items() if k in _COUNTS})
    for option, value in options.items():
        numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
        if numeric and not is_number(value):
            raise BadInput(f"PET {name!r} with {option}={shown(value)}: expected a finite number")
    alpha, dropout = options.get("lora_alpha", 1), options.get("lora_dropout", 0)
    if not is_number(alpha) or not 0 < alpha <= LARGEST:
        raise BadInput(f"PET {name!r} with lora_alpha={shown(alpha)}: expected a number above 0")
    if not is_number(dropout) or not 0 <= dropout < 1:
        raise BadInput(f"PET {name!r} with lora_dropout={shown(dropout)}: expected a number in [0, 1)")


def init_prompt(model: PeftModel, token_id: int) -> None:
    """Start a soft prompt at one token's embedding, such as ``tokenizer.mask_token_id``.

    peft starts one at random numbers of variance 1, many times the size of word embeddings, or at a
    text, for which it loads a tokenizer by name. Call this after ``get_peft_model`` and before training;
    saving and loading stay peft's.

    Args:
        model: with a prompt from ``pets.get("prompt")`` as its active adapter.
        token_id: a row of the word embeddings.

    Raises:
        BadInput: if the model has no active soft prompt, or one of another width than its word
            embeddings, or no such token.
    """
    config = model.active_peft_config if isinstance(model, PeftModel) else None
    if not isinstance(config, PromptTuningConfig):
        raise BadInput(
            f"{type(model).__name__} has no active soft prompt: wrap the language model first, with "
            "get_peft_model(plm, pets.get('prompt', model=plm))"
        )
    words = model.word_embeddings.weight
    if not is_whole(token_id, 0, len(words) - 1):
        raise BadInput(
            f"token_id={shown(token_id)}: expected a token of the model, 0 to {len(words) - 1}"
        )
    with torch.no_grad():
        prompt = model.prompt_encoder[model.active_adapter].embedding.weight
        if prompt.shape[1] != words.shape[1]:
            raise BadInput(
                f"the prompt is {prompt.shape[1]} wide and the word embeddings are {words.shape[1]}: "
                "make it with pets.get('prompt', model=plm)"
            )
        prompt.copy_(words[token_id].to(prompt.device, prompt.dtype).expand_as(prompt))
