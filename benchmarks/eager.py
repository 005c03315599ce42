"""The forms that users would write and the published method uses: the kernels are measured against them.

Straightforward PyTorch: hidden states stacked and cast to float32, the masked mean over the stack,
context and state concatenated per target, the loss; for the SDE, a module for torchsde's solver that
evaluates spline, LayerNorm and network once per step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bridges.latent.trajectory import layer_times
from kernels.path.spline import natural_spline_matrix
from kernels.sde import LIPSWISH

STEP = 0.01
"""The published solver's dt."""


def pool(
    hidden_states: Sequence[Tensor], mask: Tensor, rows: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """States [L, N, H] at the targets and masked means [L, B, H]."""
    hidden = torch.stack(tuple(hidden_states)).float()
    keep = mask[None, :, :, None].float()
    context = (hidden * keep).sum(2) / keep.sum(2).clamp(min=1)
    return hidden[:, rows, columns], context


def bridge_nll(
    states: Tensor,
    context: Tensor,
    rows: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    end: Tensor,
    mean: Tensor,
    precision: Tensor,
) -> Tensor:
    """The marginal cost of a Gaussian bridge."""
    x = torch.cat([context[:, rows], states], -1)
    for k, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = F.linear(F.gelu(x) if k else x, weight, bias)
    residual = x - mean[:, None, None] * end
    return (residual.square().sum(-1) * precision[:, None] / 2).mean()


def lens_nll(
    states: Tensor, weight: Tensor, bias: Tensor, end: Tensor, mean: Tensor, precision: Tensor
) -> Tensor:
    """The marginal cost of a Gaussian bridge whose latents are ``mean (W x + b)``, x of RMS 1."""
    x = states / states.square().mean(-1, keepdim=True).sqrt()
    residual = mean[:, None, None] * (torch.einsum("lnh,ldh->lnd", x, weight) + bias[:, None] - end)
    return (residual.square().sum(-1) * precision[:, None] / 2).mean()


class BrownianSDE(nn.Module):
    """dy = (p(t, y, LN(X(t))) - y)/(1-t) dt + dW against the Brownian bridge to v, for torchsde."""

    noise_type = "diagonal"
    sde_type = "stratonovich"

    def __init__(
        self,
        states: Tensor,
        context: Tensor,
        rows: Tensor,
        path_weight: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        end: Tensor,
    ) -> None:
        super().__init__()
        knots = torch.cat([context[:, rows], states], -1)
        self.spline = _Spline.through_zero(knots)
        self.first = torch.cat([path_weight, weights[0]], 1)
        self.weights, self.biases, self.end = weights, biases, end

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        """The learned drift."""
        at = self.spline(float(t))
        x = torch.cat([t.expand(len(y), 1), y, F.layer_norm(at, at.shape[-1:])], -1)
        x = F.linear(x, self.first, self.biases[0])
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            x = F.linear(LIPSWISH * F.silu(x), weight, bias)
        return (x - y) / (1 - t)

    def h(self, t: Tensor, y: Tensor) -> Tensor:
        """The pinned drift."""
        return (self.end - y) / (1 - t)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        """The diffusion."""
        return torch.ones_like(y)


def sde_cost(
    states: Tensor,
    context: Tensor,
    rows: Tensor,
    path_weight: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    end: Tensor,
    *,
    step: float = STEP,
) -> Tensor:
    """The KL by torchsde: reversible Heun, Stratonovich, with its own Brownian motion."""
    import torchsde

    sde = BrownianSDE(states, context, rows, path_weight, weights, biases, end)
    last = float(layer_times(len(states))[-1])
    times = torch.tensor([0.0, last], device=end.device)
    start = torch.zeros_like(end)
    solve: Any = torchsde.sdeint
    _, kl = solve(sde, start, times, method="reversible_heun", dt=step, logqp=True)
    value: Tensor = kl.sum(0).mean()
    return value


@dataclass(frozen=True)
class _Spline:
    """A natural cubic spline in its usual form: four coefficients [K-1, N, 2H] a piece."""

    knots: list[float]
    coefficients: tuple[Tensor, Tensor, Tensor, Tensor]

    @classmethod
    def through_zero(cls, values: Tensor) -> _Spline:
        """Through 0 at t = 0 and the layers' values [L, N, 2H] at their times."""
        times = torch.cat([torch.zeros(1, dtype=torch.float64), layer_times(len(values))])
        gap = float(times[1])
        # A cubic is fixed by its values at the ends and two inner points of a piece.
        u = torch.tensor([0, 1 / 3, 2 / 3, 1], dtype=torch.float64)
        at = (times[:-1, None] + gap * u).flatten().clamp(max=float(times[-1]))
        matrix = natural_spline_matrix(times, at)[:, 1:].reshape(len(values), 4, -1)
        powers = torch.linalg.inv((gap * u)[:, None] ** torch.arange(4, dtype=torch.float64))
        fixed = torch.einsum("qp,kpl->qkl", powers, matrix).to(values)
        a, b, c, d = (torch.tensordot(part, values, 1) for part in fixed)
        return cls(times.tolist(), (a, b, c, d))

    def __call__(self, t: float) -> Tensor:
        piece = min(int(t / self.knots[1]), len(self.knots) - 2)
        u = t - self.knots[piece]
        a, b, c, d = (part[piece] for part in self.coefficients)
        return a + u * (b + u * (c + u * d))
