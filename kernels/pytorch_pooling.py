"""Trajectory pooling in PyTorch, and what its gradient adds to that of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Shares:
    """The gradient of pooled states, a layer at a time.

    Args:
        weights, scale: see `mean_weights`; None where no mean was read.
        rows, columns: of the targets.
        grad_states: [L+1, N, H].
        grad_context: [L+1, B, H], or None.
        like: a layer's shape [B, S, H] and dtype.
    """

    def __init__(
        self,
        weights: Tensor | None,
        scale: Tensor | None,
        rows: Tensor,
        columns: Tensor,
        grad_states: Tensor,
        grad_context: Tensor | None = None,
        *,
        like: tuple[torch.Size, torch.dtype],
    ) -> None:
        self._shape, dtype = like
        self._positions = torch.add(columns, rows, alpha=self._shape[1])
        self._states = grad_states.to(dtype).unbind()
        self._weights: Tensor | None = None
        if weights is not None and scale is not None and grad_context is not None:
            self._weights = weights.transpose(1, 2)
            row = grad_context * scale.to(grad_context.dtype)
            self._context = row.to(dtype).unsqueeze(2).unbind()

    def of_layer(self, layer: int) -> Tensor:
        """A layer's gradient [B, S, H] by itself."""
        states = self._states[layer]
        if self._weights is None:
            return self._add_states(layer, states.new_zeros(self._shape))
        return self._add_states(layer, self._weights * self._context[layer])

    def add(self, layer: int, grad: Tensor) -> Tensor:
        """The sum of a gradient [B, S, H], which is written to, and a layer's."""
        if self._weights is not None:
            grad.addcmul_(self._weights, self._context[layer])
        return self._add_states(layer, grad)

    def _add_states(self, layer: int, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        grad.view(-1, self._shape[2]).index_add_(0, self._positions, self._states[layer])
        return grad


def mean_weights(mask: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights [B, 1, S] whose product with the states, times the scale [B, 1], is the masked mean.

    The weights are a power of two near 1/count, so they are exact in half precision and the sum
    neither overflows there nor carries a rounded 1/count; the scale, in full precision, does the rest.
    """
    count = mask.sum(1, keepdim=True).clamp(min=1).to(torch.float64)
    power = torch.exp2(-torch.ceil(torch.log2(count)))
    weights = (mask * power).to(dtype).unsqueeze(1)
    return weights, 1 / (count * power)


class _Pool(torch.autograd.Function):
    """Backward writes each layer's gradient once, in the layer's own dtype."""

    @staticmethod
    def forward(
        ctx: Any, mask: Tensor | None, rows: Tensor, columns: Tensor, *hidden_states: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        first = hidden_states[0]
        batch, _, width = first.shape
        dtype = torch.promote_types(first.dtype, torch.float32)
        states = first.new_empty(len(hidden_states), rows.numel(), width, dtype=dtype)
        for i, hidden in enumerate(hidden_states):
            states[i] = hidden[rows, columns]
        context = weights = scale = None
        if mask is not None:
            weights, scale = mean_weights(mask, first.dtype)
            context = first.new_empty(len(hidden_states), batch, width, dtype=dtype)
            for i, hidden in enumerate(hidden_states):
                context[i] = torch.bmm(weights, hidden).squeeze(1)
            context *= scale.to(dtype)
        ctx.save_for_backward(weights, scale, rows, columns)
        ctx.like = first.shape, first.dtype
        return states, context

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        shares = Shares(*ctx.saved_tensors, *grads, like=ctx.like)
        needed = ctx.needs_input_grad[3:]
        return None, None, None, *(shares.of_layer(i) if n else None for i, n in enumerate(needed))


def pool_trajectory(
    hidden_states: Sequence[Tensor],
    mask: Tensor,
    rows: Tensor,
    columns: Tensor,
    *,
    in_order: bool = False,
) -> tuple[Tensor, Tensor]:
    """See `kernels.pooling.pool_trajectory`."""
    states, context = _Pool.apply(mask, rows, columns, *hidden_states)
    return states, context


def target_states(
    hidden_states: Sequence[Tensor], rows: Tensor, columns: Tensor, *, in_order: bool = False
) -> Tensor:
    """The states of `kernels.pooling.pool_trajectory` without the context."""
    states: Tensor = _Pool.apply(None, rows, columns, *hidden_states)[0]
    return states
