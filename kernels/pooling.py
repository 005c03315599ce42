"""Trajectory pooling: what the running cost reads of the hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Literal, overload

import torch
from torch import Tensor

from kernels.checks import check_devices
from kernels.deferred import may_defer, pool_deferred
from kernels.dispatch import choose


@overload
def pool_trajectory(
    hidden_states: Sequence[Tensor],
    mask: Tensor,
    rows: Tensor,
    columns: Tensor,
    *,
    context: Literal[True] = True,
    in_order: bool = ...,
    defer: bool = ...,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...


@overload
def pool_trajectory(
    hidden_states: Sequence[Tensor],
    mask: Tensor | None,
    rows: Tensor,
    columns: Tensor,
    *,
    context: bool,
    in_order: bool = ...,
    defer: bool = ...,
    backend: str | None = None,
) -> tuple[Tensor, Tensor | None]: ...


def pool_trajectory(
    hidden_states: Sequence[Tensor],
    mask: Tensor | None,
    rows: Tensor,
    columns: Tensor,
    *,
    context: bool = True,
    in_order: bool = False,
    defer: bool = True,
    backend: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The states at the targets and the mean state of each sequence, for every layer.

    Args:
        hidden_states: L+1 tensors [B, S, H] of one floating dtype; read where they lie, never stacked.
        mask: bool [B, S], the positions the mean runs over; a row without any has mean zero.
            States at other positions have no influence, but must be finite. None where ``context`` is
            False, if there is no need for one.
        rows: int64 [N], the sequence of every target; N may be 0.
        columns: int64 [N], its position there.
        context: False where nobody reads the mean states: they are most of the work. No position but the
            targets' is read then, and none but theirs has a gradient other than zero.
        in_order: rows and columns are those of a mask's `nonzero`: rising by row, then by column, each
            position once. They are not sorted for the gradient then, which is wrong if they are not.
        defer: whether the gradient of a state that a model computed may wait for the model's own (see
            `kernels.deferred`). Of no use where the states are copies of the model's.
        backend: the implementation, by name; by default `kernels.dispatch` chooses.

    Returns:
        states [L+1, N, H] and context [L+1, B, H] or None, in float32 (float64 for float64 input).

    Differentiable once, with respect to the hidden states. The result does not depend on an enclosing
    autocast.

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit together, or a backend that cannot run.
        RuntimeError: on Triton's kernels while a CUDA graph is captured, forward and backward.
    """
    if not hidden_states:
        raise ValueError("hidden_states is empty: expected L+1 tensors [B, S, H]")
    first = hidden_states[0]
    if first.dim() != 3:
        raise ValueError(f"hidden_states[0] has shape {tuple(first.shape)}: expected [B, S, H]")
    shape, dtype = first.shape, first.dtype
    other = [i for i, h in enumerate(hidden_states) if h.shape != shape or h.dtype != dtype]
    if other:
        hidden = hidden_states[other[0]]
        raise ValueError(
            f"hidden_states[{other[0]}] is {hidden.dtype} {tuple(hidden.shape)}, hidden_states[0] is "
            f"{dtype} {tuple(shape)}: all layers must be alike"
        )
    if mask is None:
        if context:
            raise ValueError("mask is None: expected the positions that the mean runs over, bool [B, S]")
    elif mask.shape != shape[:2] or mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype} {tuple(mask.shape)}: expected bool {tuple(shape[:2])}")
    if rows.shape != columns.shape or rows.dim() != 1:
        raise ValueError(
            f"rows {tuple(rows.shape)} and columns {tuple(columns.shape)}: expected two vectors [N]"
        )
    check_devices(hidden_states=hidden_states, mask=mask, rows=rows, columns=columns)
    kind = first.device.type
    with torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext():
        chosen = choose(first, backend).backend.operations
        if in_order and defer and may_defer(hidden_states, len(rows)):
            read = mask if context else None
            return pool_deferred(chosen, hidden_states, read, rows, columns)
        if not context:
            return chosen.target_states(hidden_states, rows, columns, in_order=in_order), None
        pooled: tuple[Tensor, Tensor] = chosen.pool_trajectory(
            hidden_states, mask, rows, columns, in_order=in_order
        )
        return pooled
