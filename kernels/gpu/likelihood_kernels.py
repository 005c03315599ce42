"""Triton kernel of the last projection of the latent map, fused with the bridge likelihood."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.gpu.linear_kernels import project_tile


@triton.jit(do_not_specialize=["M", "N", "B"])
def likelihood_kernel(
    x,  # [M, K]
    weight,  # [D, K]
    bias,  # [D]; GATHER: float32 [M / N, B, D]
    rows,  # [N]
    end,  # [N, D]
    carry,  # [M / N]
    mean,  # [M / N]
    precision,  # [M / N]
    value,  # [M, parts of D] float32
    weighted,  # [M, D] float32
    sums,  # [3, M, parts of D] float32
    scale,
    M,
    N,
    B,
    D,
    K,
    weight_stride,
    ACTIVATION: tl.constexpr,
    GATHER: tl.constexpr,
    HAS_CARRY: tl.constexpr,
    HAS_GRADIENT: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """``z = act(x) @ weight.T + bias`` and what the cost and its gradients need of it.

    With ``r_i = z_i - carry_i z_{i-1} - mean_i v`` a program writes, for its rows and its part of the
    latent dimensions, ``value = scale precision_i |r|^2 / 2``; with HAS_GRADIENT also
    ``weighted = scale precision_i r`` and the sums ``|r|^2 / 2``, ``r . v`` and ``r . z_{i-1}``.
    The latents are never stored: the previous layer's row is N rows up, and projecting it again is
    cheaper than a second pass, needs no bound on the layers and gives it bit for bit.
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
    at_end = end + n.to(tl.int64)[:, None] * D + d[None, :]
    v = tl.load(at_end, mask=tile_valid, other=0.0).to(tl.float32)
    m_of = tl.load(mean + layer, mask=m_valid, other=0.0).to(tl.float32)
    p_of = tl.load(precision + layer, mask=m_valid, other=0.0).to(tl.float32)
    r = z - m_of[:, None] * v
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
        r -= c_of[:, None] * previous

    # Padding stays out of the sums even where its zero weights met an infinite activation.
    r = tl.where(tile_valid, r, 0.0)
    half_square = 0.5 * tl.sum(r * r, 1)
    part = m.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    tl.store(value + part, scale * p_of * half_square, mask=m_valid)
    if HAS_GRADIENT:
        at = weighted + m.to(tl.int64)[:, None] * D + d[None, :]
        tl.store(at, (scale * p_of)[:, None] * r, mask=tile_valid)
        size = tl.num_programs(1).to(tl.int64) * M
        tl.store(sums + part, half_square, mask=m_valid)
        tl.store(sums + size + part, tl.sum(r * v, 1), mask=m_valid)
        tl.store(sums + 2 * size + part, tl.sum(r * previous, 1), mask=m_valid)
