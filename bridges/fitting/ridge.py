"""Ridge regression from sums alone, and its strength by held-out error, all along the path at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bridges.fitting.statistics import Statistics

STRENGTHS = torch.logspace(-8, 2, 81, dtype=torch.float64)
"""Ridge strengths that are tried; a penalty is the strength times the count of tokens."""


@dataclass(frozen=True)
class Centred:
    """Sums of one layer about the means of the tokens that a regression is fitted on.

    Attributes:
        gram: [H, H].
        cross: [H, d].
        square: [d].
        count: of tokens.
    """

    gram: Tensor
    cross: Tensor
    square: Tensor
    count: int

    @classmethod
    def of(cls, sums: Statistics, layer: int, mean: Tensor, end: Tensor) -> Centred:
        """About means x [H] and v [d]."""
        gram, cross = sums.gram[layer], sums.cross[layer]
        count, total, ends = gram[-1, -1], gram[:-1, -1], cross[-1]
        about = torch.outer(total, mean)
        return cls(
            gram[:-1, :-1] - about - about.T + count * torch.outer(mean, mean),
            cross[:-1]
            - torch.outer(total, end)
            - torch.outer(mean, ends)
            + count * torch.outer(mean, end),
            sums.square - 2 * end * ends + count * end.square(),
            round(float(count)),
        )


@dataclass(frozen=True)
class Fit:
    """A regression of one layer, and how good it is on tokens that it was not fitted on.

    Attributes:
        weight: [d, H].
        bias: [d].
        strength: of `STRENGTHS`, or the one given.
        error: held-out mean square error [d].
        r2: the share of the held-out spread about the fitted tokens' mean that it explains, of all
            dimensions together.
    """

    weight: Tensor
    bias: Tensor
    strength: float
    error: Tensor
    r2: float


def ridge(fitted: Statistics, held_out: Statistics, layer: int, strength: float | None = None) -> Fit:
    """Minimise ``sum |W x + b - v|^2 + strength * count * |W|^2`` over tokens, b free.

    Args:
        fitted: sums over the tokens to fit.
        held_out: over others, that choose the strength, unless it is given, and measure the error.
        layer: which.
        strength: in units of a normalised state's mean square, which is 1.
    """
    count = fitted.count
    mean = fitted.gram[layer, :-1, -1] / count
    end = fitted.cross[layer, -1] / count
    own = Centred.of(fitted, layer, mean, end)
    other = Centred.of(held_out, layer, mean, end)
    spread, axes = torch.linalg.eigh(own.gram)
    spread = spread.clamp(min=0)
    cross = axes.T @ own.cross
    # In the axes of the gram the weights are `cross / (spread + penalty)`, so that the held-out error at
    # any penalty is a quadratic form in those quotients.
    quadratic = (axes.T @ other.gram @ axes) * (cross @ cross.T)
    linear = ((axes.T @ other.cross) * cross).sum(1)
    total = float(other.square.sum())

    def error(value: float) -> float:
        shrunk = 1 / (spread + value * count)
        return float(shrunk @ quadratic @ shrunk - 2 * linear @ shrunk) + total

    if strength is None:
        strength = min(STRENGTHS.tolist(), key=error)
    weight = (axes @ (cross / (spread + strength * count)[:, None])).T
    each = ((weight @ other.gram) * weight).sum(1) - 2 * (weight.T * other.cross).sum(0) + other.square
    return Fit(
        weight,
        end - weight @ mean,
        strength,
        each.clamp(min=0) / max(1, other.count),
        1 - float(each.sum()) / total if total > 0 else 0.0,
    )
