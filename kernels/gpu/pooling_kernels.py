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
        # Asynchronous copies: the compiler orders ordinary loads one behind the use of the other.
        for start in tl.range(0, S, BLOCK_S, num_stages=3):
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


@triton.jit
def target_position(k, valid, order, rows, columns, S, IN_ORDER: tl.constexpr):
    """``row * S + column`` of the k-th target in rising order; 0 where not valid."""
    n = k
    if not IN_ORDER:
        n = tl.load(order + k, mask=valid, other=0)
    row = tl.load(rows + n, mask=valid, other=0)
    return row * S + tl.load(columns + n, mask=valid, other=0)


@triton.jit
def targets_before(position, order, rows, columns, S, N, SEARCH, IN_ORDER: tl.constexpr):
    """How many targets lie before each position: SEARCH halvings of the N there may be."""
    low = tl.zeros_like(position).to(tl.int32)
    high = low + N
    for _ in range(SEARCH):
        middle = (low + high) // 2
        at = target_position(middle, low < high, order, rows, columns, S, IN_ORDER)
        before = (low < high) & (at < position)
        high = tl.where(before, high, middle)
        low = tl.where(before, middle + 1, low)
    return low


@triton.jit(do_not_specialize=["B", "S", "N", "SEARCH"])
def pool_backward_kernel(
    table,  # [layers that need a gradient, 2]: address, layer
    like,
    mask,  # [B, S] uint8
    counts,  # [B] float32
    order,  # [N], the targets sorted by position, stable; not read where they are in order
    rows,  # [N]
    columns,  # [N]
    grad_states,  # [L+1, N, H] float32
    grad_context,  # [L+1, B, H] float32
    B,
    S,
    N,
    H,
    SEARCH,  # the least with N < 2**SEARCH
    MEANS: tl.constexpr,  # whether there were any; else counts and grad_context are empty
    IN_ORDER: tl.constexpr,  # the targets rise by position and none is there twice
    ALIGNED: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """Every element of the gradient once: the share in the mean plus the targets at the position.

    A program finds the targets of its positions once and then goes along H.
    """
    blocks = tl.cdiv(S, BLOCK_S)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    s = (tl.program_id(0) % blocks) * BLOCK_S + tl.arange(0, BLOCK_S)
    grad = tl.load(table + 2 * tl.program_id(1)).to(like.dtype)
    if ALIGNED:
        grad = tl.multiple_of(grad, 16)
    layer = tl.load(table + 2 * tl.program_id(1) + 1)

    position = b * S + s
    start = targets_before(position, order, rows, columns, S, N, SEARCH, IN_ORDER)
    if IN_ORDER:
        found = target_position(start, start < N, order, rows, columns, S, IN_ORDER)
        count = ((start < N) & (found == position)).to(tl.int32)
    else:
        count = targets_before(position + 1, order, rows, columns, S, N, SEARCH, IN_ORDER) - start
    count = tl.where(s < S, count, 0)
    most = tl.max(count, 0)
    if MEANS:
        keep = tl.load(mask + position, mask=s < S, other=0) != 0
        kept = tl.load(counts + b)

    for first in range(0, H, BLOCK_H):
        h = first + tl.arange(0, BLOCK_H)
        h_valid = h < H
        total = tl.zeros([BLOCK_S, BLOCK_H], tl.float32)
        if MEANS:
            share = tl.load(grad_context + (layer * B + b) * H + h, mask=h_valid, other=0.0)
            total = tl.where(keep[:, None], (share / kept)[None, :], 0.0)
        for k in range(most):
            n = (start + k).to(tl.int64)
            if not IN_ORDER:
                n = tl.load(order + n, mask=k < count, other=0)
            at = (layer * N + n)[:, None] * H + h[None, :]
            valid = (k < count)[:, None] & h_valid[None, :]
            total += tl.load(grad_states + at, mask=valid, other=0.0)
        at = position[:, None] * H + h[None, :]
        valid = (s < S)[:, None] & h_valid[None, :]
        tl.store(grad + at, total.to(like.dtype.element_ty), mask=valid)
