"""Odds made right: one temperature, and a bias that no label has a part in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import Tensor

from bridges.errors import BadInput

_ENOUGH = 1e-11  # of a share
_NOTHING = 1e-12  # of the odds: their rounding
_LARGEST = 9  # logarithm of 1 / temperature, in units of the odds' own spread
_NEAR = 4.0  # odds at which posteriors still have a slope


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
    happen to be all right do not make it certain (Platt, 1999). Without labels, or where the odds of all
    examples are the same, it stays 1. Each is convex, and both hold at the result.

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
    # What examples have in common is the bias's, what labels have in common nobody's.
    middle = odds.mean(0)
    about = odds - middle
    about = about - about.mean(1, keepdim=True)
    spread, scale = about.square().mean().sqrt(), odds.new_ones(())
    if spread <= _NOTHING * odds.abs().max():
        about = torch.zeros_like(about)
    elif answers is not None:
        scale = _scale(about / spread, answers, prior) / spread
    bias = _bias(scale * about, prior) - scale * middle
    return Calibration(scale, bias - bias.mean())


def _scale(odds: Tensor, answers: Tensor, prior: Tensor) -> Tensor:
    """Where the convex loss of the scale has its minimum, given the bias that goes with the scale."""
    count, classes = odds.shape
    numbers = answers.bincount(minlength=classes).double()[answers]
    targets = torch.full_like(odds, 1.0) / (numbers[:, None] + 2) / max(1, classes - 1)
    targets[torch.arange(count), answers] = (numbers + 1) / (numbers + 2)

    def slope(log_scale: float) -> float:
        scaled = math.exp(log_scale) * odds
        guess = (scaled + _bias(scaled, prior)).softmax(1)
        return float(((guess - targets) * odds).sum(1).mean())

    low, high = -1.0, 0.0
    while slope(high) < 0 and high < _LARGEST:
        low, high = high, high + 1
    while slope(low) >= 0 and low > -_LARGEST:
        low, high = low - 1, low
    if slope(low) >= 0:  # they tell the wrong way, or nothing
        return odds.new_tensor(math.exp(low))
    if slope(high) < 0:
        return odds.new_tensor(math.exp(high))
    return odds.new_tensor(math.exp(brentq(slope, low, high, xtol=1e-9)))


def _bias(odds: Tensor, prior: Tensor) -> Tensor:
    """Where the convex ``mean logsumexp(odds + b) - prior . b`` has its minimum.

    Posteriors of odds that are far apart are 0 and 1, and have no slope: so from such that are near each
    other to those given, and each time on from twice the bias.
    """
    halvings = max(0, math.ceil(math.log2(max(1.0, float(odds.abs().max()) / _NEAR))))
    bias = torch.zeros_like(prior)
    for k in range(halvings, -1, -1):
        bias = _newton(odds / 2**k, prior, 2 * bias)
    return bias


def _newton(odds: Tensor, prior: Tensor, bias: Tensor) -> Tensor:
    eye = torch.eye(len(prior), dtype=odds.dtype, device=odds.device)
    eps = 8 * torch.finfo(odds.dtype).eps
    enough = _ENOUGH + eps * float(odds.abs().max())

    def value(b: Tensor) -> float:
        return float(torch.logsumexp(odds + b, 1).mean() - prior @ b)

    for _ in range(60):
        each = (odds + bias).softmax(1)
        gradient = each.mean(0) - prior
        off = gradient.abs().max()
        if off <= enough:
            break
        curve = torch.diag(each.mean(0)) - each.T @ each / len(each)
        # A constant over the labels changes nothing: with its direction filled in there is an inverse.
        step = torch.linalg.solve(curve + 1 / len(prior) + 0.01 * off * eye, gradient)
        size, now = 1.0, value(bias)
        while value(bias - size * step) > now + eps * (1 + abs(now)) and size > 1e-3:
            size /= 2
        bias = bias - size * step
        bias = bias - bias.mean()
    return bias
