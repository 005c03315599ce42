"""Triton kernels of trajectory pooling: one launch forward, one launch backward, over all layers.

The hidden states of the layers are separate tensors. A kernel finds them through an int64 table of
addresses on the device; the pointer `like` only lends its element type. Offsets are 64 bit.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["B", "S", "N"])
def pool_kernel(
    table,  # [L+1, 3]: address, stride of a sequence, stride of a position
    like,
    mask,  # [B, S] uint8
    rows,  # [N]
    columns,  # [N]
    states,  # [L+1, N, H] float32
    context,  # [L+1, B, H] float32
    counts,  # [B] float32
    B,
    S,
    N,
    H,
    ALIGNED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """Programs below B write the masked mean of one sequence, the others gather BLOCK_N targets.

    Where no mean is wanted B is 0.
    """
    block = tl.program_id(0)
    layer = tl.program_id(2).to(tl.int64)
    h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    h_valid = (h < H)[None, :]
    hidden = tl.load(table + 3 * layer).to(like.dtype)
    sequence_stride = tl.load(table + 3 * layer + 1)
    position_stride = tl.load(table + 3 * layer + 2)
    if ALIGNED:
        hidden = tl.multiple_of(hidden, 16)
        sequence_stride = tl.multiple_of(sequence_stride, 8)
        position_stride = tl.multiple_of(position_stride, 8)
    if block < B:
        sequence = hidden + block * sequence_stride
        total = tl.zeros([BLOCK_S, BLOCK_H], tl.float32)
        kept = tl.zeros([BLOCK_S], tl.float32)
        for start in range(0, S, BLOCK_S):
            s = start + tl.arange(0, BLOCK_S)
            keep = tl.load(mask + block.to(tl.int64) * S + s, mask=s < S, other=0) != 0
            at = s.to(tl.int64)[:, None] * position_stride + h[None, :]
            tile = tl.load(sequence + at, mask=keep[:, None] & h_valid, other=0.0)
            total += tile.to(tl.float32)
            kept += keep.to(tl.float32)
        count = tl.maximum(tl.sum(kept, 0), 1.0)
        tl.store(context + (layer * B + block) * H + h, tl.sum(total, 0) / count, mask=h < H)
        tl.store(counts + block, count, mask=(layer == 0) & (tl.program_id(1) == 0))
    else:
        n = (block - B) * BLOCK_N + tl.arange(0, BLOCK_N)
        row = tl.load(rows + n, mask=n < N, other=0)
        column = tl.load(columns + n, mask=n < N, other=0)
        at = (row * sequence_stride + column * position_stride)[:, None] + h[None, :]
        valid = (n < N)[:, None] & h_valid
        tile = tl.load(hidden + at, mask=valid, other=0.0).to(tl.float32)
        tl.store(states + (layer * N + n)[:, None] * H + h[None, :], tile, mask=valid)


@triton.jit(do_not_specialize=["B", "S", "N"])
def pool_backward_kernel(
    table,  # [layers that need a gradient, 2]: address, layer
    like,
    mask,  # [B, S] uint8
    counts,  # [B] float32
    order,  # [N], the targets sorted by position, stable
    offsets,  # [B * S + 1], where the targets of a position begin in order
    grad_states,  # [L+1, N, H] float32
    grad_context,  # [L+1, B, H] float32
    B,
    S,
    N,
    H,
    MEANS: tl.constexpr,  # whether there were any; else counts and grad_context are empty
    ALIGNED: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """Every element of the gradient once: the share in the mean plus the targets at the position."""
    blocks = tl.cdiv(S, BLOCK_S)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    s = (tl.program_id(0) % blocks) * BLOCK_S + tl.arange(0, BLOCK_S)
    h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    h_valid = h < H
    grad = tl.load(table + 2 * tl.program_id(2)).to(like.dtype)
    if ALIGNED:
        grad = tl.multiple_of(grad, 16)
    layer = tl.load(table + 2 * tl.program_id(2) + 1)

    position = b * S + s
    total = tl.zeros([BLOCK_S, BLOCK_H], tl.float32)
    if MEANS:
        keep = tl.load(mask + position, mask=s < S, other=0) != 0
        share = tl.load(grad_context + (layer * B + b) * H + h, mask=h_valid, other=0.0)
        share /= tl.load(counts + b)
        total = tl.where(keep[:, None], share[None, :], 0.0)

    start = tl.load(offsets + position, mask=s < S, other=0)
    count = tl.load(offsets + position + 1, mask=s < S, other=0) - start
    for k in range(tl.max(count, 0)):
        n = tl.load(order + start + k, mask=k < count, other=0)
        at = (layer * N + n)[:, None] * H + h[None, :]
        total += tl.load(grad_states + at, mask=(k < count)[:, None] & h_valid[None, :], other=0.0)
    valid = (s < S)[:, None] & h_valid[None, :]
    tl.store(grad + position[:, None] * H + h[None, :], total.to(like.dtype.element_ty), mask=valid)
