"""What the tests of the zoo share: names, ranges, and small inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from zoo_cases import generator

import bridges
from bridges import GaussianBridge, Trajectory

KERNELS = ("matern12", "matern32", "matern52", "rbf")
HURSTS = (0.05, 0.3, 0.5, 0.75, 0.95)
LENGTHSCALES = (0.05, 0.5, 10.0)
ENDS: list[tuple[str, dict[str, Any]]] = [
    *(("alpha", {"alpha": alpha}) for alpha in (1e-12, 0.5, 1e4)),
    *(("fractional", {"hurst": hurst}) for hurst in (0.05, 0.95)),
    *(("gp", {"kernel": k, "lengthscale": x}) for k in KERNELS for x in (0.05, 10.0)),
    ("smooth", {}),
]
"""Every process at the ends of its range."""


def gaussian(name: str, **parameters: Any) -> GaussianBridge:
    bridge = bridges.get(name, **parameters)
    assert isinstance(bridge, GaussianBridge)
    return bridge


def covariance(bridge: GaussianBridge, times: Tensor) -> Tensor:
    return bridge.covariance(times[:, None], times[None])


def with_tensor(bridge: GaussianBridge, **values: Tensor) -> GaussianBridge:
    """The bridge with tensors in the place of numbers, as a formula sees a learned parameter."""
    bridge.__class__ = type("WithTensor", (type(bridge),), values)
    for key in values:
        vars(bridge).pop(key, None)
    return bridge


def trajectory(layers: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Trajectory, Tensor]:
    """Five targets in two sequences, H 6, and end points in four dimensions."""
    rng = generator(1)
    states = torch.randn(layers, 5, 6, generator=rng, dtype=torch.float64).to(dtype)
    context = torch.randn(layers, 2, 6, generator=rng, dtype=torch.float64).to(dtype)
    end = nn.functional.normalize(torch.randn(5, 4, generator=rng, dtype=torch.float64), dim=1)
    return Trajectory(states, context, torch.tensor([0, 1, 1, 0, 1])), end


def late_and_needing() -> tuple[Any, Any]:
    """Registers a user's own bridges "late" and "needing", whose parameter has no default."""

    class Late(GaussianBridge, name="late"):
        def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return t**3, t * (1 - t)

    class Needing(Late, name="needing"):
        def __init__(self, speed: float) -> None:
            super().__init__()
            self.speed = speed

    return Late, Needing
