"""Tools of the tests of PETs: the architectures, inputs for them, what trains, what comes out."""

from __future__ import annotations

import re
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from tiny import ARCHITECTURES, VOCABULARY, tiny_model
from torch import Tensor, nn

import pets

ALL = sorted(ARCHITECTURES)
NO_BIAS = ["llama", "modernbert", "qwen3", "t5"]
WITH_BIAS = [name for name in ALL if name not in NO_BIAS]
IDS = torch.arange(5, 14).repeat(2, 1)
IDS[1, 3:] += 20


def logits(model: nn.Module, ids: Tensor = IDS) -> Tensor:
    """[2, 9, V], without a gradient."""
    with torch.no_grad():
        return model(**batch(model, ids)).logits  # type: ignore[no-any-return]


def batch(model: nn.Module, ids: Tensor = IDS) -> dict[str, Tensor]:
    found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:  # type: ignore[union-attr]
        found["decoder_input_ids"] = ids
    return found


def wrapped(pet: str, model_type: str = "bert", **options: Any) -> tuple[nn.Module, PeftModel]:
    """A tiny model and the same one with a PET on it."""
    plm = tiny_model(model_type)
    return plm, get_peft_model(plm, pets.get(pet, **options)).eval()


def changed(pet: str, model_type: str = "bert", **options: Any) -> PeftModel:
    """A tiny model with a PET that changes its logits, as if trained."""
    return wrapped(pet, model_type, **options, init_weights=False)[1]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def shuffle(model: nn.Module, seed: int = 7) -> None:
    """Random values in every trainable parameter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in trainable(model).values():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def loss(model: nn.Module, ids: Tensor = IDS) -> Tensor:
    """Cross-entropy of a fixed word at every position."""
    scores = model(**batch(model, ids)).logits.float()
    return nn.functional.cross_entropy(scores.flatten(0, 1), (ids.flatten() * 3) % len(VOCABULARY))


def without_numbers(names: Any) -> set[str]:
    """Paths with every layer number written as N."""
    return {re.sub(r"\.\d+(?=\.|$)", ".N", name) for name in names}
