"""Odds made right: one temperature, and a bias that no label has a part in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bridges.errors import BadInput

_ROUNDS = 50
_ENOUGH, _TINY = 1e-10, 1e-12
_LARGEST = 1e4  # of 1 / temperature, in units of the odds' own spread


@dataclass(frozen=True)
class Calibration:
    """Odds [N, C] become ``log_softmax(scale * odds + bias)``.

    Attributes:
        scale: 1 / temperature, a scalar.
        bias: float64 [C], of sum 0.
    """

    scale: Tensor
    bias: Tensor

    def to(self, device: torch.device) -> Calibration:
        """On a device."""
        return Calibration(self.scale.to(device), self.bias.to(device))

    def __call__(self, odds: Tensor) -> Tensor:
        return (self.scale * odds.double() + self.bias).log_softmax(-1)


def calibrated(odds: Tensor, answers: Tensor | None, prior: Tensor) -> Calibration:
    """The calibration of some examples' odds.

    The bias makes the mean posterior the prior, which asks for no label: few-shot prompts prefer one
    label whatever the text (Zhao et al., 2021, arXiv 2102.09690; over a batch, Zhou et al., 2024, arXiv
    2309.17249). The temperature is that of the largest likelihood (Guo et al., 2017, arXiv 1706.04599),
    with targets that leave the other labels one example between them, so that a few examples which
    happen to be all right do not make it certain (Platt, 1999). Without labels it stays 1. Both are
    convex, and are found in turns.

    Args:
        odds: [N, C], log-posteriors up to a constant of each example; not of examples that their reader
            was fitted on.
        answers: int64 [N], their labels; None where they are not known.
        prior: [C], the shares of the labels, above 0.

    Raises:
        BadInput: for odds that are not finite, or no examples.
    """
    odds, prior = odds.double(), prior.to(odds.device).double()
    if not odds.numel() or not odds.isfinite().all():
        raise BadInput(f"odds of shape {tuple(odds.shape)}: expected finite ones of one example or more")
    odds = odds - odds.mean(1, keepdim=True)
    spread = odds.square().mean().sqrt()
    if not spread > 0:  # it says nothing
        return Calibration(odds.new_ones(()), (prior.log() - prior.log().mean()))
    scale, bias = odds.new_ones(()), torch.zeros_like(prior)
    for _ in range(_ROUNDS if answers is not None else 1):
        before = scale
        bias = _bias(scale * odds, prior, bias)
        if answers is not None:
            scale = _scale(odds / spread, bias, answers) / spread
            if (scale - before).abs() <= 1e-6 * before:
                break
    return Calibration(scale, _bias(scale * odds, prior, bias))


def _bias(odds: Tensor, prior: Tensor, start: Tensor) -> Tensor:
    """By Newton's method on the convex ``mean logsumexp(odds + b) - prior . b``."""
    bias, eye = start.clone(), torch.eye(len(prior), dtype=odds.dtype, device=odds.device)

    def value(b: Tensor) -> Tensor:
        return torch.logsumexp(odds + b, 1).mean() - prior @ b

    for _ in range(100):
        each = (odds + bias).softmax(1)
        gradient = each.mean(0) - prior
        if gradient.abs().max() < _ENOUGH:
            break
        curve = torch.diag(each.mean(0)) - each.T @ each / len(each)
        # A constant over the labels changes nothing: with its direction filled in there is an inverse.
        step = torch.linalg.solve(curve + 1 / len(prior) + _TINY * eye, gradient)
        size, now = 1.0, value(bias)
        while value(bias - size * step) > now + 1e-15 and size > 1e-6:
            size /= 2
        bias = bias - size * step
        bias = bias - bias.mean()
    return bias


def _scale(odds: Tensor, bias: Tensor, answers: Tensor) -> Tensor:
    """Where the convex loss of the scale has its minimum, by bisection of its slope."""
    count, classes = odds.shape
    numbers = answers.bincount(minlength=classes).double()[answers]
    targets = torch.full_like(odds, 1.0) / (numbers[:, None] + 2) / max(1, classes - 1)
    targets[torch.arange(count), answers] = (numbers + 1) / (numbers + 2)

    def slope(log_scale: float) -> float:
        guess = (math.exp(log_scale) * odds + bias).softmax(1)
        return float(((guess - targets) * odds).sum(1).mean())

    low, high = -math.log(_LARGEST), math.log(_LARGEST)
    if slope(low) >= 0:  # they tell the wrong way, or nothing
        return odds.new_tensor(math.exp(low))
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return odds.new_tensor(math.exp((low + high) / 2))
