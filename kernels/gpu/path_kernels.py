"""Triton kernels of the sequential path solver: all steps of some tokens in one program, in one launch.

A program goes through the nodes in order. What its threads hand each other, the layers' values at the
node, goes through global memory (it is needed for the gradient anyway) with a barrier after each layer.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.gpu.linear_kernels import activation_slope, project_tile


@triton.jit
def layer_at_node(
    x,
    weight,
    bias,
    out,
    m,
    m_valid,
    J,
    K,
    weight_stride,
    ACTIVATION: tl.constexpr,
    GATHER: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """``out[m] = act(x[m]) @ weight.T + bias``, visible to the whole program afterwards."""
    for start in range(0, J, BLOCK_J):
        j = start + tl.arange(0, BLOCK_J)
        # fmt: off
        value = project_tile(
            x, weight, bias, m, m, m_valid, j, J, K, weight_stride,
            ACTIVATION, GATHER, tl.float32, "tf32x3", BLOCK_M, BLOCK_J, BLOCK_K,
        )
        # fmt: on
        at = out + m.to(tl.int64)[:, None] * J + j[None, :]
        tl.store(at, value, mask=m_valid[:, None] & (j < J)[None, :])
    tl.debug_barrier()


@triton.jit
def layer_backward_at_node(
    grad_out,
    weight,
    before,
    out,
    m,
    m_valid,
    J,
    K,
    weight_stride,
    ACTIVATION: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """``out[m] = (grad_out[m] @ weight) * act'(before[m])``, or added to what is there."""
    rows = m.to(tl.int64)[:, None]
    for k_start in range(0, K, BLOCK_K):
        k = k_start + tl.arange(0, BLOCK_K)
        valid = m_valid[:, None] & (k < K)[None, :]
        total = tl.zeros([BLOCK_M, BLOCK_K], tl.float32)
        for j_start in range(0, J, BLOCK_J):
            j = j_start + tl.arange(0, BLOCK_J)
            g = tl.load(
                grad_out + rows * J + j[None, :], mask=m_valid[:, None] & (j < J)[None, :], other=0.0
            )
            at = weight + j.to(tl.int64)[:, None] * weight_stride + k[None, :]
            w = tl.load(at, mask=(j < J)[:, None] & (k < K)[None, :], other=0.0)
            total = tl.dot(g, w, total, input_precision="tf32x3")
        place = rows * K + k[None, :]
        if ACTIVATION != "none":
            total *= activation_slope(tl.load(before + place, mask=valid, other=0.0), ACTIVATION)
        if ADD:
            total += tl.load(out + place, mask=valid, other=0.0)
        tl.store(out + place, total, mask=valid)
    tl.debug_barrier()


@triton.jit(do_not_specialize=["N", "STEPS"])
def path_kernel(
    inputs,  # [T+1, N, J0]
    path_weight,  # [J0, D]
    weight1,  # [J1, J0]
    bias1,
    weight2,  # [J2, J1]
    bias2,
    weight3,  # [J3, J2]
    bias3,
    forcing,  # [T, N, D]
    decay,  # [T]
    gain,  # [T]
    y,  # [T+1, N, D], zero at node 0
    value0,  # [T+1, N, J0]
    value1,
    value2,
    value3,
    last,  # the deepest of them, p
    N,
    STEPS,
    D,
    J0,
    J1,
    J2,
    J3,
    path_stride,
    DEPTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """``y_{j+1} = decay_j y_j + gain_j p_j + forcing_j`` for BLOCK_M tokens, node after node."""
    n = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n_valid = n < N
    for node in range(0, STEPS + 1):
        m = node * N + n
        # fmt: off
        layer_at_node(y, path_weight, inputs, value0, m, n_valid, J0, D, path_stride,
                      "none", True, BLOCK_M, BLOCK_J, BLOCK_K)
        if DEPTH > 0:
            layer_at_node(value0, weight1, bias1, value1, m, n_valid, J1, J0, J0,
                          "silu", False, BLOCK_M, BLOCK_J, BLOCK_K)
        if DEPTH > 1:
            layer_at_node(value1, weight2, bias2, value2, m, n_valid, J2, J1, J1,
                          "silu", False, BLOCK_M, BLOCK_J, BLOCK_K)
        if DEPTH > 2:
            layer_at_node(value2, weight3, bias3, value3, m, n_valid, J3, J2, J2,
                          "silu", False, BLOCK_M, BLOCK_J, BLOCK_K)
        # fmt: on
        if node < STEPS:
            of_y = tl.load(decay + node)
            of_p = tl.load(gain + node)
            for start in range(0, D, BLOCK_K):
                d = start + tl.arange(0, BLOCK_K)
                valid = n_valid[:, None] & (d < D)[None, :]
                place = m.to(tl.int64)[:, None] * D + d[None, :]
                step = of_y * tl.load(y + place, mask=valid, other=0.0)
                step += of_p * tl.load(last + place, mask=valid, other=0.0)
                step += tl.load(forcing + place, mask=valid, other=0.0)
                tl.store(y + place + N.to(tl.int64) * D, step, mask=valid)
            tl.debug_barrier()


@triton.jit(do_not_specialize=["N", "STEPS"])
def path_backward_kernel(
    grad_y,  # [T+1, N, D]
    grad_p,  # [T+1, N, D]
    path_weight,
    weight1,
    weight2,
    weight3,
    decay,
    gain,
    value0,
    value1,
    value2,
    total,  # [T+1, N, D], the whole gradient of y
    grad0,  # [T+1, N, J0], gradients of the values
    grad1,
    grad2,
    grad3,
    last,  # the deepest of them, that of p
    N,
    STEPS,
    D,
    J0,
    J1,
    J2,
    J3,
    path_stride,
    DEPTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The adjoint of `path_kernel`, from the last node to the first."""
    n = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n_valid = n < N
    for back in range(0, STEPS + 1):
        node = STEPS - back
        m = node * N + n
        has_next = node < STEPS
        of_y = tl.load(decay + node, mask=has_next, other=0.0)
        of_p = tl.load(gain + node, mask=has_next, other=0.0)
        for start in range(0, D, BLOCK_K):
            d = start + tl.arange(0, BLOCK_K)
            valid = n_valid[:, None] & (d < D)[None, :]
            place = m.to(tl.int64)[:, None] * D + d[None, :]
            after = tl.load(total + place + N.to(tl.int64) * D, mask=valid & has_next, other=0.0)
            of_value = tl.load(grad_p + place, mask=valid, other=0.0) + of_p * after
            tl.store(last + place, of_value, mask=valid)
            of_state = tl.load(grad_y + place, mask=valid, other=0.0) + of_y * after
            tl.store(total + place, of_state, mask=valid)
        tl.debug_barrier()
        # fmt: off
        if DEPTH > 2:
            layer_backward_at_node(grad3, weight3, value2, grad2, m, n_valid, J3, J2, J2,
                                   "silu", False, BLOCK_M, BLOCK_J, BLOCK_K)
        if DEPTH > 1:
            layer_backward_at_node(grad2, weight2, value1, grad1, m, n_valid, J2, J1, J1,
                                   "silu", False, BLOCK_M, BLOCK_J, BLOCK_K)
        if DEPTH > 0:
            layer_backward_at_node(grad1, weight1, value0, grad0, m, n_valid, J1, J0, J0,
                                   "silu", False, BLOCK_M, BLOCK_J, BLOCK_K)
        layer_backward_at_node(grad0, path_weight, grad0, total, m, n_valid, J0, D, path_stride,
                               "none", True, BLOCK_M, BLOCK_J, BLOCK_K)
        # fmt: on
