"""Triton kernels of the lens: the scale of each state, projection and cost, gradients.

A row is one (layer, target) pair, row ``layer * N + target``, and the rows of a program are of one
layer, so that it reads one layer's weight. Products accumulate in float32 and so are all intermediates;
DOT and PRECISION are those of `linear_kernels`. Offsets are 64 bit.

1 / rms of a row is ``scale * root``: the state times ``scale`` has magnitudes that can be squared, and
``root`` is 1 / rms of that. Where the product is beyond the numbers, each by itself is not.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rows_of_program(N, BLOCK_N: tl.constexpr):
    """Layer, rows and whether they are there, of the blocks of N along the first axis of the grid."""
    blocks = tl.cdiv(N, BLOCK_N)
    layer = (tl.program_id(0) // blocks).to(tl.int64)
    n = (tl.program_id(0) % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    return layer, n, n < N


@triton.jit(do_not_specialize=["M"])
def row_scale_kernel(
    states,  # [M, H]
    scale,  # [M] float32
    root,  # [M] float32, 0 for a row of zeros
    M,
    H,
    BLOCK_M: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """``scale = 1 / max |h|``, kept a normal number, and ``root = 1 / rms(h * scale)``."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    m_valid = m < M
    h = tl.arange(0, BLOCK_H)
    rows = states + m.to(tl.int64)[:, None] * H
    peak = tl.zeros([BLOCK_M], tl.float32)
    for start in range(0, H, BLOCK_H):
        column = start + h
        valid = m_valid[:, None] & (column < H)[None, :]
        x = tl.load(rows + column[None, :], mask=valid, other=0.0).to(tl.float32)
        peak = tl.maximum(peak, tl.max(tl.abs(x), 1))
    one = 1.0 / tl.minimum(tl.maximum(peak, 1.1754943508222875e-38), 8.507059173023462e37)
    total = tl.zeros([BLOCK_M, BLOCK_H], tl.float32)
    for start in range(0, H, BLOCK_H):
        column = start + h
        valid = m_valid[:, None] & (column < H)[None, :]
        x = tl.load(rows + column[None, :], mask=valid, other=0.0).to(tl.float32) * one[:, None]
        total += x * x
    square = tl.sum(total, 1) / H
    inverse = tl.where(square == 0.0, 0.0, tl.rsqrt(tl.where(square == 0.0, 1.0, square)))
    tl.store(scale + m, one, mask=m_valid)
    tl.store(root + m, inverse, mask=m_valid)


@triton.jit(do_not_specialize=["N", "COUNT"])
def lens_kernel(
    states,  # [L, N, H]
    weight,  # [L, D, H]
    bias,  # [L, D]
    scale,  # [L, N] float32
    root,  # [L, N] float32
    end,  # [COUNT, N, D]
    factor,  # [L]
    mean,  # [L]
    precision,  # [L]
    latent,  # [L, N, D] float32
    value,  # [COUNT, L, N, parts of D] float32
    N,
    D,
    H,
    COUNT,  # end points of each target; 0 for the latents alone
    LATENT: tl.constexpr,  # whether they are written
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """``p = (h scale) @ weight.T root + bias`` and ``value = precision |factor p - mean v|^2 / 2``."""
    layer, n, n_valid = rows_of_program(N, BLOCK_N)
    m = layer * N + n
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    d_valid = d < D
    valid = n_valid[:, None] & d_valid[None, :]
    h = tl.arange(0, BLOCK_H)
    state_rows = states + m[:, None] * H
    weight_rows = weight + (layer * D + d)[:, None] * H
    of_row = tl.load(scale + m, mask=n_valid, other=0.0)[:, None]
    p = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start in range(0, H, BLOCK_H):
        column = start + h
        h_valid = (column < H)[None, :]
        x = tl.load(state_rows + column[None, :], mask=n_valid[:, None] & h_valid, other=0.0)
        w = tl.load(weight_rows + column[None, :], mask=d_valid[:, None] & h_valid, other=0.0)
        x = x.to(tl.float32) * of_row
        w = w.to(tl.float32)
        p = tl.dot(x.to(DOT), tl.trans(w.to(DOT)), p, input_precision=PRECISION)
    p *= tl.load(root + m, mask=n_valid, other=0.0)[:, None]
    p += tl.load(bias + layer * D + d, mask=d_valid, other=0.0).to(tl.float32)[None, :]
    if LATENT:
        tl.store(latent + m[:, None] * D + d[None, :], p, mask=valid)
    if COUNT > 0:
        p *= tl.load(factor + layer).to(tl.float32)
        m_of = tl.load(mean + layer).to(tl.float32)
        half = tl.load(precision + layer).to(tl.float32) / 2
        size = (tl.num_programs(0) // tl.cdiv(N, BLOCK_N)).to(tl.int64) * N
        for k in range(COUNT):
            at = end + (k * N.to(tl.int64) + n)[:, None] * D + d[None, :]
            v = tl.load(at, mask=valid, other=0.0).to(tl.float32)
            # The residual itself: |p|^2 - 2 p.v + |v|^2 would lose the digits of a small cost.
            r = tl.where(valid, p - m_of * v, 0.0)
            part = (k * size + m) * tl.num_programs(1) + tl.program_id(1)
            tl.store(value + part, half * tl.sum(r * r, 1), mask=n_valid)


@triton.jit(do_not_specialize=["N", "COUNT"])
def lens_latent_gradient_kernel(
    grad_out,  # COUNT: [COUNT, L, N] float32; else [L, N, D] float32
    latent,  # [L, N, D] float32
    bias,  # [L, D]
    root,  # [L, N] float32
    end,  # [COUNT, N, D]
    factor,  # [L]
    mean,  # [L]
    precision,  # [L]
    grad,  # [L, N, D] float32
    along,  # [L, N] float32
    N,
    D,
    H,
    COUNT,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """``grad = g root`` with the gradient g of p, and ``along = -(g . (p - bias)) root^2 / H``.

    For costs g is ``sum_k grad_k precision factor (factor p - mean v_k)``. The states' gradient is
    ``(grad @ weight + (h scale) along) scale``: what normalising takes out of it lies along the state,
    and ``x . W'g`` is ``g . (p - bias)``.
    """
    layer, n, n_valid = rows_of_program(N, BLOCK_N)
    m = layer * N + n
    of_root = tl.load(root + m, mask=n_valid, other=0.0)
    total = tl.zeros([BLOCK_N], tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        d_valid = d < D
        valid = n_valid[:, None] & d_valid[None, :]
        at = m[:, None] * D + d[None, :]
        p = tl.load(latent + at, mask=valid, other=0.0)
        if COUNT > 0:
            f_of = tl.load(factor + layer).to(tl.float32)
            m_of = tl.load(mean + layer).to(tl.float32)
            strength = tl.load(precision + layer).to(tl.float32) * f_of
            size = (tl.num_programs(0) // tl.cdiv(N, BLOCK_N)).to(tl.int64) * N
            g = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
            for k in range(COUNT):
                of_end = tl.load(grad_out + k * size + m, mask=n_valid, other=0.0) * strength
                end_rows = end + (k * N.to(tl.int64) + n)[:, None] * D
                v = tl.load(end_rows + d[None, :], mask=valid, other=0.0).to(tl.float32)
                g += of_end[:, None] * (f_of * p - m_of * v)
        else:
            g = tl.load(grad_out + at, mask=valid, other=0.0)
        g *= of_root[:, None]
        b = tl.load(bias + layer * D + d, mask=d_valid, other=0.0).to(tl.float32)
        total += tl.sum(tl.where(valid, g * (p - b[None, :]), 0.0), 1)
        tl.store(grad + at, g, mask=valid)
    tl.store(along + m, -total * of_root / H, mask=n_valid)


@triton.jit(do_not_specialize=["N"])
def lens_backward_kernel(
    grad,  # [L, N, D] float32
    along,  # [L, N] float32
    states,  # [L, N, H]
    weight,  # [L, D, H]
    scale,  # [L, N] float32
    out,  # [L, N, H]
    N,
    D,
    H,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """``out = (grad @ weight + (h * scale) * along) * scale``: see `lens_latent_gradient_kernel`."""
    layer, n, n_valid = rows_of_program(N, BLOCK_N)
    m = layer * N + n
    h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    h_valid = (h < H)[None, :]
    d = tl.arange(0, BLOCK_D)
    grad_rows = grad + m[:, None] * D
    total = tl.zeros([BLOCK_N, BLOCK_H], tl.float32)
    for start in range(0, D, BLOCK_D):
        row = start + d
        d_valid = row < D
        g = tl.load(grad_rows + row[None, :], mask=n_valid[:, None] & d_valid[None, :], other=0.0)
        weight_rows = weight + (layer * D + row)[:, None] * H
        w = tl.load(weight_rows + h[None, :], mask=d_valid[:, None] & h_valid, other=0.0)
        w = w.to(tl.float32)
        total = tl.dot(g.to(DOT), w.to(DOT), total, input_precision=PRECISION)
    valid = n_valid[:, None] & h_valid
    at = m[:, None] * H + h[None, :]
    of_scale = tl.load(scale + m, mask=n_valid, other=0.0)[:, None]
    x = tl.load(states + at, mask=valid, other=0.0).to(tl.float32) * of_scale
    total += x * tl.load(along + m, mask=n_valid, other=0.0)[:, None]
    tl.store(out + at, (total * of_scale).to(out.dtype.element_ty), mask=valid)
