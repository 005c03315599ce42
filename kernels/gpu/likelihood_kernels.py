"""Triton kernels of the bridge likelihood, fused with the last projection, and of its gradient."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.gpu.linear_kernels import project_tile


@triton.jit(do_not_specialize=["M", "N", "B", "COUNT"])
def likelihood_kernel(
    x,  # [M, K]
    weight,  # [D, K]
    bias,  # [D]; GATHER: float32 [M / N, B, D]
    rows,  # [N]
    end,  # [COUNT, N, D]
    carry,  # [M / N]
    mean,  # [M / N]
    precision,  # [M / N]
    value,  # [COUNT, M, parts of D] float32
    moved,  # [M, D] float32
    sums,  # [3, COUNT, M, parts of D] float32
    scale,
    M,
    N,
    B,
    D,
    K,
    COUNT,  # end points of each target
    weight_stride,
    ACTIVATION: tl.constexpr,
    GATHER: tl.constexpr,
    HAS_CARRY: tl.constexpr,
    KEEP: tl.constexpr,  # whether moved is written
    SUMS: tl.constexpr,  # whether the sums are
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """``z = act(x) @ weight.T + bias`` and what the costs and their gradients need of it.

    With ``moved_i = z_i - carry_i z_{i-1}`` and ``r = moved_i - mean_i v`` for each of the end points v
    a program writes, for its rows and its part of the latent dimensions, ``value = scale precision_i
    |r|^2 / 2``; with KEEP also moved, with SUMS ``|r|^2 / 2``, ``r . v`` and ``r . z_{i-1}``.
    The previous layer's row is N rows up, and projecting it again is cheaper than a second pass, needs
    no bound on the layers and gives it bit for bit.
    """
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    m_valid = m < M
    tile_valid = m_valid[:, None] & (d < D)[None, :]
    layer = m // N
    n = m % N
    bias_rows = m
    if GATHER:
        bias_rows = layer * B + tl.load(rows + n, mask=m_valid, other=0)
    # fmt: off
    z = project_tile(
        x, weight, bias, bias_rows, m, m_valid, d, D, K, weight_stride,
        ACTIVATION, GATHER, DOT, PRECISION, BLOCK_M, BLOCK_D, BLOCK_K,
    )
    # fmt: on
    previous = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    if HAS_CARRY:
        follows = m_valid & (layer > 0)
        # fmt: off
        previous = project_tile(
            x, weight, bias, bias_rows - B, m - N, follows, d, D, K, weight_stride,
            ACTIVATION, GATHER, DOT, PRECISION, BLOCK_M, BLOCK_D, BLOCK_K,
        )
        # fmt: on
        previous = tl.where(follows[:, None], previous, 0.0)
        c_of = tl.load(carry + layer, mask=follows, other=0.0).to(tl.float32)
        z -= c_of[:, None] * previous
    if KEEP:
        tl.store(moved + m.to(tl.int64)[:, None] * D + d[None, :], z, mask=tile_valid)
    m_of = tl.load(mean + layer, mask=m_valid, other=0.0).to(tl.float32)
    p_of = tl.load(precision + layer, mask=m_valid, other=0.0).to(tl.float32)
    rows_of_count = M.to(tl.int64)
    size = COUNT * rows_of_count * tl.num_programs(1)
    for k in range(COUNT):
        at_end = end + (k * N.to(tl.int64) + n)[:, None] * D + d[None, :]
        v = tl.load(at_end, mask=tile_valid, other=0.0).to(tl.float32)
        # Padding stays out of the sums even where its zero weights met an infinite activation.
        r = tl.where(tile_valid, z - m_of[:, None] * v, 0.0)
        half_square = 0.5 * tl.sum(r * r, 1)
        part = (k * rows_of_count + m) * tl.num_programs(1) + tl.program_id(1)
        tl.store(value + part, scale * p_of * half_square, mask=m_valid)
        if SUMS:
            tl.store(sums + part, half_square, mask=m_valid)
            tl.store(sums + size + part, tl.sum(r * v, 1), mask=m_valid)
            tl.store(sums + 2 * size + part, tl.sum(r * previous, 1), mask=m_valid)


@triton.jit
def pulled(
    moved,
    end,
    grad_value,
    mean,
    precision,
    layer,
    m,
    n,
    d,
    valid,
    N,
    D,
    COUNT,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """``precision_i sum_k g_k (moved_i - mean_i v_k)`` of rows m, a tile [m, d]."""
    tile_valid = valid[:, None] & (d < D)[None, :]
    at = m.to(tl.int64)[:, None] * D + d[None, :]
    z = tl.load(moved + at, mask=tile_valid, other=0.0)
    m_of = tl.load(mean + layer, mask=valid, other=0.0).to(tl.float32)
    p_of = tl.load(precision + layer, mask=valid, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for k in range(COUNT):
        at_end = end + (k * N.to(tl.int64) + n)[:, None] * D + d[None, :]
        v = tl.load(at_end, mask=tile_valid, other=0.0).to(tl.float32)
        g = tl.load(grad_value + k * N.to(tl.int64) + n, mask=valid, other=0.0)
        total += g[:, None] * (z - m_of[:, None] * v)
    return p_of[:, None] * total


@triton.jit(do_not_specialize=["M", "N", "COUNT"])
def latent_gradient_kernel(
    moved,  # [M, D] float32, of `likelihood_kernel`
    end,  # [COUNT, N, D]
    grad_value,  # [COUNT, N] float32
    carry,  # [M / N]
    mean,  # [M / N]
    precision,  # [M / N]
    grad,  # [M, D] float32
    scale,
    M,
    N,
    D,
    COUNT,
    HAS_CARRY: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The gradient of the latents: that of moved_i, less ``carry_{i+1}`` times that of moved_{i+1}."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    m_valid = m < M
    layer = m // N
    n = m % N
    # fmt: off
    total = pulled(
        moved, end, grad_value, mean, precision, layer, m, n, d, m_valid, N, D, COUNT, BLOCK_M, BLOCK_D,
    )
    # fmt: on
    if HAS_CARRY:
        leads = m_valid & (m + N < M)
        # fmt: off
        after = pulled(
            moved, end, grad_value, mean, precision, layer + 1, m + N, n, d, leads, N, D, COUNT,
            BLOCK_M, BLOCK_D,
        )
        # fmt: on
        c_of = tl.load(carry + layer + 1, mask=leads, other=0.0).to(tl.float32)
        # What does not follow has no weight, not even that of an infinite number.
        total -= tl.where(leads[:, None], c_of[:, None] * after, 0.0)
    at = grad + m.to(tl.int64)[:, None] * D + d[None, :]
    tl.store(at, scale * total, mask=m_valid[:, None] & (d < D)[None, :])
