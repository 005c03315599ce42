"""In what a frozen model's forward computes: as it was loaded, or in fewer bits where that is faster."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from bridges.model.weights import device_of


def chosen_dtype(dtype: str, model: nn.Module) -> str:
    """What "auto" comes to for a model where it lies: "model" or "bfloat16"; others as they are."""
    if dtype != "auto":
        return dtype
    whole = all(p.dtype == torch.float32 for p in model.parameters() if p.is_floating_point())
    return "bfloat16" if whole and _fast_in_bfloat16(device_of(model)) else "model"


def forward_in(dtype: str, device: torch.device) -> AbstractContextManager[object]:
    """The forward of a model on a device: under an autocast to bfloat16, or none."""
    if dtype == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def _fast_in_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 are faster than float32: tensor cores, or a CPU's AMX tiles.

    A CPU without them can be many times slower.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return device.type == "cpu" and has_tiles is not None and bool(has_tiles())
