"""In what a frozen model's forward computes: as it was loaded, or in fewer bits where that is faster."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from bridges.model.weights import device_of

_OF_A_CPU = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # private, so they may go


def chosen_dtype(dtype: str, model: nn.Module) -> str:
    """What "auto" comes to for a model where it lies: "model" or "bfloat16"; others as they are."""
    if dtype != "auto":
        return dtype
    whole = all(p.dtype == torch.float32 for p in model.parameters() if p.is_floating_point())
    return "bfloat16" if whole and fast_in_bfloat16(device_of(model)) else "model"


def forward_in(dtype: str, device: torch.device) -> AbstractContextManager[object]:
    """The forward of a model on a device: under an autocast to bfloat16, or none."""
    if dtype == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def fast_in_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 are faster than float32: on tensor cores, AMX tiles, AVX-512 BF16.

    A CPU without them can be many times slower.
    """
    if device.type == "cuda":
        # Of an older GPU torch would say yes where it only emulates them.
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    asked = (getattr(torch.cpu, name, None) for name in _OF_A_CPU)
    return device.type == "cpu" and any(has is not None and has() for has in asked)
