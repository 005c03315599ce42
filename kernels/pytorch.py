"""The PyTorch implementation: no stacking of hidden states, no fp32 copies of them, batched products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.path.sequential import adjoint_sequential, solve_sequential
from kernels.pytorch_lens import lens_nll, lens_project
from kernels.pytorch_pooling import pool_trajectory, target_states

__all__ = [
    "adjoint_sequential",
    "bridge_nll",
    "lens_nll",
    "lens_project",
    "pool_trajectory",
    "project",
    "solve_sequential",
    "target_states",
]


def project(
    states: Tensor,
    context: Tensor,
    rows: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
) -> Tensor:
    """The latent map: linear-GELU stack on ``[context; state]``, [L, N, H] -> [L, N, d].

    The first layer is linear in its input, so its context part is computed once per sequence [L, B]
    and gathered, not once per target.
    """
    width = context.shape[-1]
    first = weights[0]
    x = F.linear(states, first[:, width:], biases[0])
    x = x + F.linear(context, first[:, :width])[:, rows]
    for weight, bias in zip(weights[1:], biases[1:], strict=True):
        x = F.linear(F.gelu(x), weight, bias)
    return x


def bridge_nll(
    states: Tensor,
    context: Tensor,
    rows: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    end: Tensor,
    carry: Tensor | None,
    mean: Tensor,
    precision: Tensor,
    *,
    source: torch.dtype | None = None,
) -> Tensor:
    """The cost of each token, [N] or [K, N]; see `kernels.bridge_nll.bridge_nll`.

    In the digits of the dtype whatever the states' ``source`` was.
    """
    latent = project(states, context, rows, weights, biases)
    moved = latent
    if carry is not None:
        moved = torch.cat([latent[:1], latent[1:] - carry[1:, None, None] * latent[:-1]])
    residual = moved - mean[:, None, None] * end.unsqueeze(-3)
    return (precision[:, None] * residual.square().sum(-1)).sum(-2) / (2 * len(latent))
