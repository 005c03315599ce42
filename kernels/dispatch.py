"""The one place that chooses which implementation of an operation runs.

A `Backend` bundles one implementation of every operation. `choose` returns the first one, in order of
priority, that can run on the tensors at hand. Adding a backend is adding it to `BACKENDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import pytorch


def _anywhere(device: torch.device) -> bool:
    return True


@dataclass(frozen=True)
class Backend:
    """One implementation of every operation, and the devices it runs on."""

    name: str
    is_available: Callable[[torch.device], bool]
    pool_trajectory: Callable[..., tuple[Tensor, Tensor]]
    bridge_nll: Callable[..., Tensor]


BACKENDS: list[Backend] = [
    Backend("pytorch", _anywhere, pytorch.pool_trajectory, pytorch.bridge_nll),
]
"""In order of priority: the first that is available for a device runs there."""


def choose(device: torch.device) -> Backend:
    """The backend that runs on ``device``."""
    for backend in BACKENDS:
        if backend.is_available(device):
            return backend
    raise RuntimeError(f"no kernel backend runs on {device}; known: {[b.name for b in BACKENDS]}")
