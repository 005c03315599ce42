"""Where in which architecture: the modules an adapter or a LoRA goes to by default."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_LORA_TARGETS
from torch import nn
from transformers.models.auto import modeling_auto as auto
from transformers.pytorch_utils import Conv1D

from bridges.errors import BadInput
from bridges.model.spec import pretrained_model

SITES = ("attention", "ffn")

_HEADS = {
    "CAUSAL_LM": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "SEQ_2_SEQ_LM": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "SEQ_CLS": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "TOKEN_CLS": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
}

# The last projection of each sublayer, before the residual sum, as the end of a module's path.
_BERT = {
    "attention": r"layer\.\d+\.(cross)?attention\.output\.dense",
    "ffn": r"layer\.\d+\.output\.dense",
}
_LLAMA = {"attention": r"self_attn\.o_proj", "ffn": r"mlp\.down_proj"}
_T5 = {"attention": r"(SelfAttention|EncDecAttention)\.o", "ffn": r"DenseReluDense\.wo"}
ADAPTER_SITES = {
    "albert": {"attention": r"attention\.dense", "ffn": r"ffn_output"},
    "bert": _BERT,
    "deberta": _BERT,
    "deberta-v2": _BERT,
    "distilbert": {"attention": r"attention\.out_lin", "ffn": r"ffn\.lin2"},
    "electra": _BERT,
    "gpt2": {"attention": r"(cross)?attn\.c_proj", "ffn": r"mlp\.c_proj"},
    "llama": _LLAMA,
    "megatron-bert": _BERT,
    "modernbert": {"attention": r"attn\.Wo", "ffn": r"mlp\.Wo"},
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "roberta": _BERT,
    "t5": _T5,
    "xlm-roberta": _BERT,
}

# Query and value where peft has no default. ModernBERT computes query, key and value in one projection,
# which a LoRA changes as a whole, like peft's defaults for GPT-2 and DeBERTa.
LORA_TARGETS = {
    "albert": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "megatron-bert": ["query", "value"],
    "modernbert": ["Wqkv"],
}

# Run and seen: of the others, some drop the prefix silently and some fail, for they take no cache.
PREFIX_MODELS = ("bert", "electra", "gpt2", "llama", "qwen2", "qwen3", "roberta", "xlm-roberta")
# peft takes a sequence classifier apart for a prefix, and knows heads like BERT's only.
PREFIX_CLASSIFIERS = ("bert", "gpt2", "llama", "qwen2", "qwen3")


def add_lora_targets() -> None:
    """Give peft's table of LoRA defaults the architectures it lacks; its own entries stay.

    A `LoraConfig` then finds its modules in `get_peft_model` as for any other architecture and writes
    them into its file, which loads without this package.
    """
    for model_type, names in LORA_TARGETS.items():
        PEFT_LORA_TARGETS.setdefault(model_type, names)


def check_lora(model: nn.Module) -> None:
    """Refuse a LoRA without targets where peft knows none.

    Raises:
        BadInput: naming the linear layers there are.
    """
    plm = pretrained_model(model)
    model_type = plm.config.model_type
    if model_type not in PEFT_LORA_TARGETS:
        raise BadInput(
            f"no default LoRA targets for {type(plm).__name__} ({model_type}): pass target_modules, the "
            f"query and value projections, out of: {projections(plm)}"
        )


def adapter_pattern(model_type: str, sites: Collection[str]) -> str | None:
    """A regular expression for the paths of an architecture's adapter modules; None if it is unknown."""
    table = ADAPTER_SITES.get(model_type)
    if table is None:
        return None
    return rf"(.*\.)?({'|'.join(table[site] for site in SITES if site in sites)})"


def is_projection(module: nn.Module) -> bool:
    """Whether an adapter can sit on it: a linear layer, in either of the two layouts of its weight."""
    return isinstance(module, (nn.Linear, Conv1D))


def projections(model: nn.Module) -> str:
    """The paths of a model's linear layers, one for all layers (``layer.*.query``), for a message."""
    paths = (re.sub(r"\.\d+(?=\.|$)", ".*", k) for k, m in model.named_modules() if is_projection(m))
    return ", ".join(dict.fromkeys(paths)) or "none"


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


def task_type(model: nn.Module) -> str | None:
    """peft's name for what a model's head does; None for a masked LM's, which peft has no name for.

    It says which parts peft trains beside the PET (a classifier's new head) and what it offers
    (``generate``).

    Raises:
        BadInput: if it is no transformers model.
    """
    kind = type(pretrained_model(model)).__name__
    for name, mapping in _HEADS.items():
        if kind in mapping.values():
            return name
    return None


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
