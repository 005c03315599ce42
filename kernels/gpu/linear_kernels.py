"""Triton kernels of a linear-activation stack: forward, gradients, sums over the targets of a sequence.

Matrices are row-major with the last dimension contiguous; a row is one (layer, target) pair, row
``layer * N + target``. Products accumulate in float32 and so are all intermediates; DOT is the dtype of
the operands and PRECISION what the tensor cores make of float32 ones. Offsets are 64 bit.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """The activation of a float32 tile: none, gelu (by erf) or silu."""
    if ACTIVATION == "gelu":
        x = 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    if ACTIVATION == "silu":
        x = x * tl.sigmoid(x)
    return x


@triton.jit
def activation_slope(x, ACTIVATION: tl.constexpr):
    """The derivative of `activate`."""
    slope = tl.full(x.shape, 1.0, tl.float32)
    if ACTIVATION == "gelu":
        density = 0.3989422804014327 * tl.exp(-0.5 * x * x)
        slope = 0.5 * (1 + tl.erf(x * 0.7071067811865476)) + x * density
    if ACTIVATION == "silu":
        s = tl.sigmoid(x)
        slope = s * (1 + x * (1 - s))
    return slope


@triton.jit
def project_tile(
    x,
    weight,
    bias,
    bias_rows,
    m,
    m_valid,
    j,
    J,
    K,
    weight_stride,
    ACTIVATION: tl.constexpr,
    GATHER: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """``act(x[m]) @ weight[j].T + bias`` as a float32 tile [m, j]; GATHER: each row has its own bias."""
    j_valid = j < J
    k = tl.arange(0, BLOCK_K)
    x_rows = x + m.to(tl.int64)[:, None] * K
    weight_rows = weight + j.to(tl.int64)[:, None] * weight_stride
    total = tl.zeros([BLOCK_M, BLOCK_J], tl.float32)
    for start in range(0, K, BLOCK_K):
        column = start + k
        k_valid = (column < K)[None, :]
        a = tl.load(x_rows + column[None, :], mask=m_valid[:, None] & k_valid, other=0.0)
        w = tl.load(weight_rows + column[None, :], mask=j_valid[:, None] & k_valid, other=0.0)
        a = activate(a.to(tl.float32), ACTIVATION)
        total = tl.dot(a.to(DOT), tl.trans(w.to(DOT)), total, input_precision=PRECISION)
    if GATHER:
        at = bias + bias_rows.to(tl.int64)[:, None] * J + j[None, :]
        total += tl.load(at, mask=m_valid[:, None] & j_valid[None, :], other=0.0)
    else:
        total += tl.load(bias + j, mask=j_valid, other=0.0).to(tl.float32)[None, :]
    return total


@triton.jit(do_not_specialize=["M", "N", "B"])
def linear_kernel(
    x,  # [M, K]
    weight,  # [J, K]
    bias,  # [J]; GATHER: float32 [M / N, B, J]
    rows,  # [N]
    out,  # [M, J] float32
    M,
    N,
    B,
    J,
    K,
    weight_stride,
    ACTIVATION: tl.constexpr,
    GATHER: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """``out = act(x) @ weight.T + bias``; GATHER: the bias of the target's sequence."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    j = tl.program_id(1) * BLOCK_J + tl.arange(0, BLOCK_J)
    m_valid = m < M
    bias_rows = m
    if GATHER:
        bias_rows = (m // N) * B + tl.load(rows + m % N, mask=m_valid, other=0)
    # fmt: off
    y = project_tile(
        x, weight, bias, bias_rows, m, m_valid, j, J, K, weight_stride,
        ACTIVATION, GATHER, DOT, PRECISION, BLOCK_M, BLOCK_J, BLOCK_K,
    )
    # fmt: on
    tl.store(out + m.to(tl.int64)[:, None] * J + j[None, :], y, mask=m_valid[:, None] & (j < J)[None, :])


@triton.jit(do_not_specialize=["M"])
def linear_backward_kernel(
    grad_out,  # [M, J] float32
    weight,  # [K, J], the transposed one of `linear_kernel`
    before,  # [M, K] float32, what the activation was applied to
    grad,  # [M, K]
    M,
    J,
    K,
    ACTIVATION: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """``grad = (grad_out @ weight.T) * act'(before)``.

    Hopper's TF32 products read both operands along the terms of their sums: of a weight that lies the
    other way each number would be copied by itself.
    """
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    j = tl.arange(0, BLOCK_J)
    m_valid = (m < M)[:, None]
    k_valid = (k < K)[None, :]
    k_rows_valid = (k < K)[:, None]
    grad_out_rows = grad_out + m.to(tl.int64)[:, None] * J
    weight_rows = weight + k.to(tl.int64)[:, None] * J
    total = tl.zeros([BLOCK_M, BLOCK_K], tl.float32)
    for start in range(0, J, BLOCK_J):
        row = start + j
        j_valid = row < J
        w = tl.load(weight_rows + row[None, :], mask=k_rows_valid & j_valid[None, :], other=0.0)
        w = w.to(tl.float32)
        g = tl.load(grad_out_rows + row[None, :], mask=m_valid & j_valid[None, :], other=0.0)
        total = tl.dot(g.to(DOT), tl.trans(w.to(DOT)), total, input_precision=PRECISION)
    at = m.to(tl.int64)[:, None] * K + k[None, :]
    if ACTIVATION != "none":
        total *= activation_slope(tl.load(before + at, mask=m_valid & k_valid, other=0.0), ACTIVATION)
    tl.store(grad + at, total.to(grad.dtype.element_ty), mask=m_valid & k_valid)


@triton.jit(do_not_specialize=["M", "chunk"])
def weight_gradient_kernel(
    grad_out,  # [M, J] float32
    x,  # [M, K]
    grad,  # [parts, J, K], row stride grad_stride
    M,
    J,
    K,
    chunk,  # rows of a part, a multiple of BLOCK_M
    grad_stride,
    ACTIVATION: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """``grad[p] = grad_out[rows of part p].T @ act(x[rows of part p])``, always in the same order."""
    part = tl.program_id(2)
    j = tl.program_id(0) * BLOCK_J + tl.arange(0, BLOCK_J)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    j_valid = (j < J)[None, :]
    k_valid = (k < K)[None, :]
    first = part * chunk
    last = tl.minimum(first + chunk, M)
    total = tl.zeros([BLOCK_J, BLOCK_K], tl.float32)
    for start in range(first, last, BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        m_valid = (m < last)[:, None]
        row = m.to(tl.int64)[:, None]
        g = tl.load(grad_out + row * J + j[None, :], mask=m_valid & j_valid, other=0.0)
        a = tl.load(x + row * K + k[None, :], mask=m_valid & k_valid, other=0.0)
        a = activate(a.to(tl.float32), ACTIVATION)
        total = tl.dot(tl.trans(g.to(DOT)), a.to(DOT), total, input_precision=PRECISION)
    row = part.to(tl.int64) * J + j.to(tl.int64)[:, None]
    mask = (j < J)[:, None] & k_valid
    tl.store(grad + row * grad_stride + k[None, :], total.to(grad.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["N", "B"])
def segment_sum_kernel(
    values,  # [L, N, J] float32
    rows,  # [N]
    out,  # [L, B, J] float32
    N,
    B,
    J,
    BLOCK_N: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """``out[l, b] = sum of values[l, n] over the targets n with rows[n] = b``, in the order of n.

    Every program looks at all N rows but loads only the values that are its own.
    """
    b = tl.program_id(0)
    j = tl.program_id(1) * BLOCK_J + tl.arange(0, BLOCK_J)
    layer = tl.program_id(2).to(tl.int64)
    j_valid = j < J
    total = tl.zeros([BLOCK_N, BLOCK_J], tl.float32)
    for start in range(0, N, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        mine = tl.load(rows + n, mask=n < N, other=-1) == b
        at = (layer * N + n)[:, None] * J + j[None, :]
        total += tl.load(values + at, mask=mine[:, None] & j_valid[None, :], other=0.0)
    tl.store(out + (layer * B + b) * J + j, tl.sum(total, 0), mask=j_valid)
