"""Pieces that several processes' formulas share, each without cancellation and safe to differentiate."""

from __future__ import annotations

import torch
from torch import Tensor

from bridges.errors import BadInput, is_number, shown


def exact(value: float | Tensor) -> Tensor:
    """A number, or the tensor that it is learned as, in float64; gradients pass through."""
    return torch.as_tensor(value, dtype=torch.float64)


def ordered(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The earlier and the later of two times, elementwise with broadcasting, in float64."""
    s, t = s.to(torch.float64), t.to(torch.float64)
    return torch.minimum(s, t), torch.maximum(s, t)


def mirrored(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The pair as `ordered`, or its mirror image (1 - t, 1 - s) where that lies nearer to 0.

    For processes whose pinned covariance is the same read backwards: near 1 the digits are in 1 - t.
    """
    early, late = ordered(s, t)
    swap = early + late > 1
    return torch.where(swap, 1 - late, early), torch.where(swap, 1 - early, late)


def fall(x: Tensor) -> Tensor:
    """(1 - exp(-x)) / x for x >= 0, 1 at 0, to the last digits; so is its derivative."""
    small = x < 1e-2
    series = 1 - x / 2 * (1 - x / 3 * (1 - x / 4 * (1 - x / 5 * (1 - x / 6))))
    large = torch.where(small, 1, x)
    return torch.where(small, series, -torch.expm1(-large) / large)


def check_between(low: float, high: float, **values: object) -> None:
    """Constructor check: every value is a number from low to high, both included."""
    for name, value in values.items():
        if not is_number(value) or not low <= value <= high:  # type: ignore[operator]
            raise BadInput(f"{name}={shown(value)}: expected a number from {low:g} to {high:g}")
