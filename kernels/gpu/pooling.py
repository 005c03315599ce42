"""Trajectory pooling on Triton kernels: one launch forward, one backward, for all layers."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.gpu import launch as run
from kernels.gpu.pooling_kernels import pool_backward_kernel, pool_kernel

BACKWARD_POSITIONS = 32
"""Of a program of the gradient, which finds their targets once; fewer would search more often."""


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
    table: list[int] = []
    addresses = strides = 0
    for h in layers:
        address, (of_sequence, of_position, _) = h.data_ptr(), h.stride()
        table += (address, of_sequence, of_position)
        addresses, strides = addresses | address, strides | of_sequence | of_position
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
        ALIGNED=addresses % 16 == 0 and strides % 8 == 0,
        BLOCK_N=16,
        BLOCK_S=32,
        BLOCK_H=128,
        num_warps=4,
    )
    return states, context, counts


def _pool_backward(
    grads: Sequence[Tensor],
    layers: Sequence[int],
    mask: Tensor,
    counts: Tensor,
    targets: tuple[Tensor, Tensor, Tensor | None],
    grad_states: Tensor,
    grad_context: Tensor,
) -> None:
    """Fill the gradients [B, S, H] of the given layers.

    Args:
        targets: rows, columns and the order that sorts them by position, or None where they are sorted
            and differ.
    """
    batch, length, width = grads[0].shape
    rows, columns, order = targets
    addresses = [g.data_ptr() for g in grads]
    run.launch(
        pool_backward_kernel,
        (batch * triton.cdiv(length, BACKWARD_POSITIONS), len(grads), 1),
        table=_to_device([x for row in zip(addresses, layers, strict=True) for x in row], mask.device),
        like=grads[0],
        mask=mask,
        counts=counts,
        order=rows if order is None else order,
        rows=rows,
        columns=columns,
        grad_states=grad_states,
        grad_context=grad_context,
        B=batch,
        S=length,
        N=rows.numel(),
        H=width,
        SEARCH=rows.numel().bit_length(),
        MEANS=len(counts) > 0,
        IN_ORDER=order is None,
        ALIGNED=width % 8 == 0 and all(address % 16 == 0 for address in addresses),
        BLOCK_S=BACKWARD_POSITIONS,
        BLOCK_H=256 // grads[0].element_size(),  # twice that spills registers in float32
        num_warps=8,
    )


_tables: dict[tuple[object, ...], Tensor] = {}
_MOST = 64  # that are kept


def _to_device(table: Sequence[int], device: torch.device) -> Tensor:
    """Numbers on the device; from pinned memory, so that the host does not wait.

    The last ones are kept there: in a loop over batches of one shape states lie where they lay before.

    Raises:
        RuntimeError: while a CUDA graph is captured.
    """
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "the pooling of hidden states cannot be captured in a CUDA graph: it tells its kernel where "
            "the states are through host memory, and a replay would read what lies there by then; "
            "compute the running cost, forward and backward, outside of the captured region"
        )
    # On another stream the copy might not have been made yet.
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    key = device, stream, *table
    found = _tables.get(key)
    if found is None:
        numbers = torch.frombuffer(array("q", table), dtype=torch.int64)
        if device.type == "cuda":
            numbers = numbers.pin_memory()
        if len(_tables) >= _MOST:
            _tables.clear()
        found = _tables[key] = numbers.to(device, non_blocking=True)
    return found


class _PoolTrajectory(torch.autograd.Function):
    """One launch each way; the gradient of a layer is written once, in the layer's own dtype."""

    @staticmethod
    def forward(
        ctx: Any,
        means: bool,
        in_order: bool,
        mask: Tensor,
        rows: Tensor,
        columns: Tensor,
        *hidden_states: Tensor,
    ) -> tuple[Tensor, Tensor]:
        mask = mask.contiguous().view(torch.uint8)
        rows, columns = rows.contiguous(), columns.contiguous()
        states, context, counts = _pool(hidden_states, mask, rows, columns, means)
        ctx.save_for_backward(mask, rows, columns, counts)
        ctx.shape, ctx.dtype = hidden_states[0].shape, hidden_states[0].dtype
        ctx.in_order = in_order
        return states, context

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        mask, rows, columns, counts = ctx.saved_tensors
        grad_states, grad_context = (g.contiguous() for g in outputs)
        # The host never sees a number of these: it would wait for the device.
        order = None
        if not ctx.in_order:
            order = torch.sort(torch.add(columns, rows, alpha=ctx.shape[1]), stable=True).indices
        inputs = len(ctx.needs_input_grad) - grad_states.shape[0]
        needed = [i for i, need in enumerate(ctx.needs_input_grad[inputs:]) if need]
        first = mask.new_empty(ctx.shape, dtype=ctx.dtype)
        grads = [first, *(torch.empty_like(first) for _ in needed[1:])]
        with run.on(mask.device):
            targets = rows, columns, order
            _pool_backward(grads, needed, mask, counts, targets, grad_states, grad_context)
        found: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        for i, grad in zip(needed, grads, strict=True):
            found[inputs + i] = grad
        return tuple(found)


def pool_trajectory(
    hidden_states: Sequence[Tensor],
    mask: Tensor,
    rows: Tensor,
    columns: Tensor,
    *,
    in_order: bool = False,
) -> tuple[Tensor, Tensor]:
    """See `kernels.pooling.pool_trajectory`."""
    with run.on(mask.device):
        states, context = _PoolTrajectory.apply(True, in_order, mask, rows, columns, *hidden_states)
    return states, context


def target_states(
    hidden_states: Sequence[Tensor], rows: Tensor, columns: Tensor, *, in_order: bool = False
) -> Tensor:
    """The states of `kernels.pooling.pool_trajectory` without the context."""
    unread = rows.new_empty(0, dtype=torch.bool)
    with run.on(rows.device):
        both = _PoolTrajectory.apply(False, in_order, unread, rows, columns, *hidden_states)
    states: Tensor = both[0]
    return states
