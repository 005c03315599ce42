"""Prefix and prompt tuning: virtual tokens in every layer's keys and values, or before the input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig
from torch import nn

from bridges.errors import BadInput, is_whole, shown
from bridges.model.spec import pretrained_model
from pets.methods.base import PET
from pets.methods.task_type import task_type

# Run and seen: of the others, some drop the prefix silently and some fail, for they take no cache.
PREFIX_MODELS = ("bert", "electra", "gpt2", "llama", "qwen2", "qwen3", "roberta", "xlm-roberta")
# peft takes a sequence classifier apart for a prefix, and knows heads like BERT's only.
PREFIX_CLASSIFIERS = ("bert", "gpt2", "llama", "qwen2", "qwen3")


class Prefix(PET, name="prefix"):
    """20 virtual tokens in every layer's keys and values: Li and Liang, ACL 2021, arXiv 2101.00190."""

    config_class = PrefixTuningConfig
    settings: ClassVar[Mapping[str, Any]] = {"num_virtual_tokens": 20}
    learning_rate = 1e-3

    def on(self, model: nn.Module) -> dict[str, Any]:
        check_prefix(model)
        return super().on(model)


class Prompt(PET, name="prompt"):
    """20 virtual tokens before the input: Lester et al., EMNLP 2021, arXiv 2104.08691.

    See `init_prompt` for where they start.
    """

    config_class = PromptTuningConfig
    settings: ClassVar[Mapping[str, Any]] = {"num_virtual_tokens": 20}
    learning_rate = 1e-3

    def on(self, model: nn.Module) -> dict[str, Any]:
        return {**prompt_shape(model), **super().on(model)}


def check_prefix(model: nn.Module) -> None:
    """Refuse what would train a prefix that the model never sees.

    Raises:
        BadInput: for an architecture that does not read a prefix, or a model with gradient
            checkpointing, which recomputes the layers without it.
    """
    config: Any = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    known = PREFIX_CLASSIFIERS if task_type(model) == "SEQ_CLS" else PREFIX_MODELS
    if model_type not in known:
        raise BadInput(
            f"a prefix is not known to work on {type(model).__name__} ({model_type}): use 'lora' or "
            f"'adapter', or one of the architectures that read it: {', '.join(known)}"
        )
    check_not_checkpointed(model)


def check_not_checkpointed(model: nn.Module) -> None:
    """Refuse gradient checkpointing for a prefix: layers are recomputed without it, or not at all.

    Raises:
        BadInput: where it is on.
    """
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        raise BadInput(
            "a prefix gets no gradient under gradient checkpointing: turn that off, with "
            "model.gradient_checkpointing_disable() or the Trainer's gradient_checkpointing=False, or "
            "use a PET that works with it: 'adapter', 'bitfit', 'lora' or 'prompt'"
        )


def prompt_shape(model: nn.Module) -> dict[str, int]:
    """Options of a soft prompt that follow from the model; peft finds them only in some configs.

    Raises:
        BadInput: if it is no transformers model.
    """
    plm = pretrained_model(model)
    config = plm.config.get_text_config()
    return {
        "token_dim": plm.get_input_embeddings().weight.shape[1],
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
    }


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
