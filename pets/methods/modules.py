"""What is where in which architecture: the modules an adapter goes to."""

from __future__ import annotations

import re
from collections.abc import Collection

from torch import nn
from transformers.pytorch_utils import Conv1D

SITES = ("attention", "ffn")

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
