"""The PyTorch implementation: no stacking of hidden states, no fp32 copies of them, batched products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from kernels.path.sequential import adjoint_sequential, solve_sequential
from kernels.pytorch_lens import lens_nll, lens_project

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


def _mean_weights(mask: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights [B, 1, S] whose product with the states, times the scale [B, 1], is the masked mean.

    The weights are a power of two near 1/count, so they are exact in half precision and the sum
    neither overflows there nor carries a rounded 1/count; the scale, in full precision, does the rest.
    """
    count = mask.sum(1, keepdim=True).clamp(min=1).to(torch.float64)
    power = torch.exp2(-torch.ceil(torch.log2(count)))
    weights = (mask * power).to(dtype).unsqueeze(1)
    return weights, 1 / (count * power)


class _PoolTrajectory(torch.autograd.Function):
    """Backward writes each layer's gradient once, in the layer's own dtype."""

    @staticmethod
    def forward(
        ctx: Any, mask: Tensor, rows: Tensor, columns: Tensor, *hidden_states: Tensor
    ) -> tuple[Tensor, Tensor]:
        first = hidden_states[0]
        batch, _, width = first.shape
        dtype = torch.promote_types(first.dtype, torch.float32)
        weights, scale = _mean_weights(mask, first.dtype)
        states = first.new_empty(len(hidden_states), rows.numel(), width, dtype=dtype)
        context = first.new_empty(len(hidden_states), batch, width, dtype=dtype)
        for i, hidden in enumerate(hidden_states):
            states[i] = hidden[rows, columns]
            context[i] = torch.bmm(weights, hidden).squeeze(1)
        context *= scale.to(dtype)
        ctx.save_for_backward(weights, scale, rows, columns)
        ctx.dtype = first.dtype
        return states, context

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_states, grad_context = grads
        weights, scale, rows, columns = ctx.saved_tensors
        per_token = weights.transpose(1, 2)
        out: list[Tensor | None] = []
        for i, needed in enumerate(ctx.needs_input_grad[3:]):
            if not needed:
                out.append(None)
                continue
            row = (grad_context[i] * scale.to(grad_context.dtype)).to(ctx.dtype).unsqueeze(1)
            grad = per_token * row
            grad.index_put_((rows, columns), grad_states[i].to(ctx.dtype), accumulate=True)
            out.append(grad)
        return None, None, None, *out


class _TargetStates(torch.autograd.Function):
    """The pooling without the mean; its gradient is zero but at the targets."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, *hidden_states: Tensor) -> Tensor:
        first = hidden_states[0]
        dtype = torch.promote_types(first.dtype, torch.float32)
        states = first.new_empty(len(hidden_states), rows.numel(), first.shape[2], dtype=dtype)
        for i, hidden in enumerate(hidden_states):
            states[i] = hidden[rows, columns]
        ctx.save_for_backward(rows, columns)
        ctx.shape, ctx.dtype = first.shape, first.dtype
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_states,) = grads
        rows, columns = ctx.saved_tensors
        out: list[Tensor | None] = []
        for i, needed in enumerate(ctx.needs_input_grad[2:]):
            if not needed:
                out.append(None)
                continue
            grad = rows.new_zeros(ctx.shape, dtype=ctx.dtype)
            grad.index_put_((rows, columns), grad_states[i].to(ctx.dtype), accumulate=True)
            out.append(grad)
        return None, None, *out


def pool_trajectory(
    hidden_states: Sequence[Tensor],
    mask: Tensor,
    rows: Tensor,
    columns: Tensor,
    *,
    in_order: bool = False,
) -> tuple[Tensor, Tensor]:
    """See `kernels.pooling.pool_trajectory`."""
    states, context = _PoolTrajectory.apply(mask, rows, columns, *hidden_states)
    return states, context


def target_states(
    hidden_states: Sequence[Tensor], rows: Tensor, columns: Tensor, *, in_order: bool = False
) -> Tensor:
    """The states of `kernels.pooling.pool_trajectory` without the context."""
    states: Tensor = _TargetStates.apply(rows, columns, *hidden_states)
    return states


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
