"""Trajectory pooling on Triton kernels: one launch forward, one backward, for all layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.gpu import launch as run
from kernels.gpu.pooling_kernels import pool_backward_kernel, pool_kernel


def _pool(
    hidden_states: Sequence[Tensor], mask: Tensor, rows: Tensor, columns: Tensor, means: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """States [L+1, N, H], context [L+1, B, H] and the number of kept positions [B], at least 1.

    Without ``means`` B is 0 in the latter two.
    """
    layers = [h if h.stride(2) == 1 else h.contiguous() for h in hidden_states]
    first = layers[0]
    _, length, width = first.shape
    batch = len(first) if means else 0
    states = first.new_empty(len(layers), rows.numel(), width, dtype=torch.float32)
    context = first.new_empty(len(layers), batch, width, dtype=torch.float32)
    counts = first.new_empty(batch, dtype=torch.float32)
    table = [(h.data_ptr(), h.stride(0), h.stride(1)) for h in layers]
    run.launch(
        pool_kernel,
        (batch + triton.cdiv(rows.numel(), 16), triton.cdiv(width, 128), len(layers)),
        table=_to_device(table, first.device),
        like=first,
        mask=mask,
        rows=rows,
        columns=columns,
        states=states,
        context=context,
        counts=counts,
        B=batch,
        S=length,
        N=rows.numel(),
        H=width,
        ALIGNED=all(a % 16 == 0 and b % 8 == 0 and s % 8 == 0 for a, b, s in table),
        BLOCK_N=16,
        BLOCK_S=16,
        BLOCK_H=128,
    )
    return states, context, counts


def _pool_backward(
    grads: Sequence[Tensor],
    layers: Sequence[int],
    mask: Tensor,
    counts: Tensor,
    targets: tuple[Tensor, Tensor],
    grad_states: Tensor,
    grad_context: Tensor,
) -> None:
    """Fill the gradients [B, S, H] of the given layers; targets: see `pool_backward_kernel`."""
    batch, length, width = grads[0].shape
    order, offsets = targets
    table = [(g.data_ptr(), layer) for g, layer in zip(grads, layers, strict=True)]
    run.launch(
        pool_backward_kernel,
        (batch * triton.cdiv(length, 16), triton.cdiv(width, 128), len(grads)),
        table=_to_device(table, mask.device),
        like=grads[0],
        mask=mask,
        counts=counts,
        order=order,
        offsets=offsets,
        grad_states=grad_states,
        grad_context=grad_context,
        B=batch,
        S=length,
        N=order.numel(),
        H=width,
        MEANS=len(counts) > 0,
        ALIGNED=width % 8 == 0 and all(address % 16 == 0 for address, _ in table),
        BLOCK_S=16,
        BLOCK_H=128,
    )


def _to_device(table: Sequence[tuple[int, ...]], device: torch.device) -> Tensor:
    """A table of numbers on the device; from pinned memory, so that the host does not wait."""
    pinned = torch.tensor(table, dtype=torch.int64, pin_memory=device.type == "cuda")
    return pinned.to(device, non_blocking=True)


class _PoolTrajectory(torch.autograd.Function):
    """One launch each way; the gradient of a layer is written once, in the layer's own dtype."""

    @staticmethod
    def forward(
        ctx: Any, means: bool, mask: Tensor, rows: Tensor, columns: Tensor, *hidden_states: Tensor
    ) -> tuple[Tensor, Tensor]:
        mask = mask.contiguous().view(torch.uint8)
        rows, columns = rows.contiguous(), columns.contiguous()
        states, context, counts = _pool(hidden_states, mask, rows, columns, means)
        ctx.save_for_backward(mask, rows, columns, counts)
        ctx.shape, ctx.dtype = hidden_states[0].shape, hidden_states[0].dtype
        return states, context

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        mask, rows, columns, counts = ctx.saved_tensors
        grad_states, grad_context = (g.contiguous() for g in outputs)
        # Where the targets of each position are in the sorted list; the host never sees a number.
        batch, length, _ = ctx.shape
        positions, order = torch.sort(rows * length + columns, stable=True)
        offsets = torch.searchsorted(positions, torch.arange(batch * length + 1, device=rows.device))
        needed = [i for i, need in enumerate(ctx.needs_input_grad[4:]) if need]
        grads = [mask.new_empty(ctx.shape, dtype=ctx.dtype) for _ in needed]
        with run.on(mask.device):
            _pool_backward(grads, needed, mask, counts, (order, offsets), grad_states, grad_context)
        found: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        for i, grad in zip(needed, grads, strict=True):
            found[4 + i] = grad
        return tuple(found)


def pool_trajectory(
    hidden_states: Sequence[Tensor], mask: Tensor, rows: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """See `kernels.pooling.pool_trajectory`."""
    with run.on(mask.device):
        states, context = _PoolTrajectory.apply(True, mask, rows, columns, *hidden_states)
    return states, context


def target_states(hidden_states: Sequence[Tensor], rows: Tensor, columns: Tensor) -> Tensor:
    """The states of `kernels.pooling.pool_trajectory` without the context."""
    unread = rows.new_empty(0, dtype=torch.bool)
    with run.on(rows.device):
        states: Tensor = _PoolTrajectory.apply(False, unread, rows, columns, *hidden_states)[0]
    return states
