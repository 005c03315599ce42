"""The truth every other implementation is measured against: plain loops, any dtype, no tricks.

Run it in float64. It materialises everything, says each formula once, and is never fast.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.checks import Reduction, reduce_tokens
from kernels.sde import LAYER_NORM_EPS, LIPSWISH, PathGrid


def pool_trajectory(
    hidden_states: Sequence[Tensor], mask: Tensor, rows: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """Masked mean per layer and sequence, and the states at the targets.

    See `kernels.pooling.pool_trajectory` for the shapes.
    """
    states, contexts = [], []
    for hidden in hidden_states:
        states.append(
            torch.stack([hidden[r, c] for r, c in zip(rows, columns, strict=True)])
            if rows.numel()
            else hidden.new_zeros(0, hidden.shape[-1])
        )
        sequences = []
        for sequence, keep in zip(hidden, mask.bool(), strict=True):
            attended = sequence[keep]
            sequences.append(attended.mean(0) if len(attended) else torch.zeros_like(sequence[0]))
        contexts.append(torch.stack(sequences))
    return torch.stack(states), torch.stack(contexts)


def bridge_nll(
    states: Tensor,
    context: Tensor,
    rows: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    end: Tensor,
    carry: Tensor,
    mean: Tensor,
    precision: Tensor,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """Mean over layers and tokens of ``sum_d precision_i (z_i - carry_i z_{i-1} - mean_i v)^2 / 2``.

    See `kernels.bridge_nll.bridge_nll` for the shapes.
    """
    if end.dim() == 3:
        given = (states, context, rows, weights, biases)
        laws = (carry, mean, precision)
        return torch.stack([bridge_nll(*given, v, *laws, reduction=reduction) for v in end])
    layers, tokens = states.shape[:2]
    values = []
    for n in range(tokens):
        total, previous = states.new_zeros(()), torch.zeros_like(end[n])
        for i in range(layers):
            x = torch.cat([context[i, rows[n]], states[i, n]])
            for k, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
                x = weight @ (F.gelu(x) if k else x) + bias
            residual = x - carry[i] * previous - mean[i] * end[n]
            total = total + precision[i] * residual.square().sum() / 2
            previous = x
        values.append(total / layers)
    return reduce_tokens(torch.stack(values) if values else states.new_zeros(0), reduction)


def lens_project(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``W_i h / rms(h) + b_i``; see `kernels.lens.lens_project` for the shapes."""
    layers = []
    for i, layer in enumerate(states):
        tokens = []
        for h in layer:
            x = h / h.square().mean().sqrt() if h.any() else 0 * h
            tokens.append(weight[i] @ x + bias[i])
        layers.append(torch.stack(tokens) if tokens else layer @ weight[i].T)
    return torch.stack(layers)


def lens_nll(
    states: Tensor,
    weight: Tensor,
    bias: Tensor,
    end: Tensor,
    factor: Tensor,
    mean: Tensor,
    precision: Tensor,
) -> Tensor:
    """``precision_i |factor_i p_i - mean_i v|^2 / 2``; see `kernels.lens.lens_nll` for the shapes."""
    if end.dim() == 3:
        each = [lens_nll(states, weight, bias, v, factor, mean, precision) for v in end]
        return torch.stack(each)
    layers = []
    for i, latents in enumerate(lens_project(states, weight, bias)):
        residuals = [factor[i] * p - mean[i] * v for p, v in zip(latents, end, strict=True)]
        costs = [precision[i] * r.square().sum() / 2 for r in residuals]
        layers.append(torch.stack(costs) if costs else latents.sum(1))
    return torch.stack(layers)


def sde_cost(
    states: Tensor,
    context: Tensor | None,
    rows: Tensor,
    path_weight: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    end: Tensor,
    noise: Tensor,
    grid: PathGrid,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """Path-space KL of a learned drift, one token and one node at a time, nothing hoisted.

    See `kernels.sde.sde_cost` for the shapes and `kernels.sde.PathGrid` for the path.
    """
    if end.dim() == 3:
        given = (states, context, rows, path_weight, weights, biases)
        return torch.stack([sde_cost(*given, v, noise, grid, reduction=reduction) for v in end])
    first = torch.cat([path_weight, weights[0]], 1)
    values = []
    for n in range(states.shape[1]):
        knots = states[:, n] if context is None else torch.cat([context[:, rows[n]], states[:, n]], 1)
        total, y = states.new_zeros(()), torch.zeros_like(end[n])
        for j, t in enumerate(grid.times):
            at = grid.spline[j] @ knots
            x = torch.cat([t[None], y, F.layer_norm(at, at.shape, eps=LAYER_NORM_EPS)])
            for k, (weight, bias) in enumerate(zip([first, *weights[1:]], biases, strict=True)):
                x = weight @ (LIPSWISH * F.silu(x) if k else x) + bias
            residual = grid.of_net[j] * x + grid.of_state[j] * y - grid.of_end[j] * end[n]
            total = total + grid.weight[j] * residual.square().sum() / 2
            if j < len(grid.decay):
                y = grid.decay[j] * y + grid.gain[j] * x + grid.spread[j] * noise[j, n]
        values.append(total)
    return reduce_tokens(torch.stack(values) if values else states.new_zeros(0), reduction)
