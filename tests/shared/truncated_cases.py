"""Tiny models of four layers with a PET, costs with a lens for them, and batches of two labels."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel, get_peft_model
from tiny import tiny_model, tiny_tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

import pets
from bridges import RunningCost
from pets import Verbalizer

WORDS = Verbalizer.of_words(tiny_tokenizer(), {"negative": "bad", "positive": ["good", "fine"]})
LAYERS = 4
_COUNTS = {"gpt2": "n_layer", "distilbert": "n_layers"}
CLASSIFIER = "ForSequenceClassification"
CASES = [
    *[
        (model_type, pet, None)
        for model_type in ("bert", "gpt2", "llama")
        for pet in (None, "lora", "adapter", "prefix", "prompt")
    ],
    ("bert", "bitfit", None),
    ("gpt2", "bitfit", None),
    ("albert", None, None),
    ("albert", "lora", None),
    ("distilbert", "lora", None),
    ("deberta-v2", "lora", None),
    ("electra", "prefix", None),
    ("modernbert", "prompt", None),
    ("qwen3", "lora", None),
    ("bert", None, CLASSIFIER),
    ("roberta", "lora", CLASSIFIER),
    ("llama", "lora", CLASSIFIER),
    ("bert", "prefix", CLASSIFIER),
]
"""Model types, PETs and heads."""


def build(model_type: str = "bert", pet: Any = "lora", head: str | None = None, **changes: Any) -> Any:
    """In eval mode, with random numbers in all that a PET trains.

    Args:
        pet: a name, a config of peft, or None.
    """
    changes = {_COUNTS.get(model_type, "num_hidden_layers"): LAYERS, **changes}
    plm = tiny_model(model_type, head=head, **changes)
    if pet is None:
        return plm
    config = pets.get(pet, model=plm) if isinstance(pet, str) else pet
    model = get_peft_model(plm, config)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += 0.1 * noise.to(parameter.dtype)
    return model.eval()


def lens_cost(model: nn.Module, bridge: Any = "ou") -> RunningCost:
    """With a random lens."""
    cost = RunningCost.for_model(model, bridge, map="lens", latent_dim=8, ends="white", fit=False)
    weight = cost.lens.weight
    weight.data = 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    return cost


def batches(count: int = 2, rows: int = 6, *, seed: int = 0) -> list[dict[str, Tensor]]:
    """With a mask in each row, padding, and classes as labels."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        ids = torch.randint(5, 60, (rows, 9), generator=generator)
        ids[:, 2] = 4
        mask = torch.ones_like(ids)
        mask[1, -2:] = 0
        ids[1, -2:] = 0
        labels = torch.arange(rows) % 2
        made.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return made


def unlabelled() -> list[dict[str, Tensor]]:
    """The same without labels."""
    return [{k: v for k, v in batch.items() if k != "labels"} for batch in batches()]


def plain(model: Any) -> PreTrainedModel:
    """The transformers model inside."""
    return model.get_base_model() if isinstance(model, PeftModel) else model  # type: ignore[no-any-return]
