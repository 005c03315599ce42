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
    weights,  # of each layer: [J0, D], then [J1, J0], [J2, J1], ...
    biases,  # [T+1, N, J0], one for each node and token, then [J1], [J2], ...
    values,  # [T+1, N, J0], [T+1, N, J1], ...; the last is p
    widths,  # J0, J1, ...
    forcing,  # [T, N, D]
    decay,  # [T]
    gain,  # [T]
    y,  # [T+1, N, D], zero at node 0
    N,
    STEPS,
    D,
    path_stride,  # of the rows of the first weight
    BLOCK_M: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """``y_{j+1} = decay_j y_j + gain_j p_j + forcing_j`` for BLOCK_M tokens, node after node."""
    n = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n_valid = n < N
    for node in range(0, STEPS + 1):
        m = node * N + n
        for i in tl.static_range(len(widths)):
            layer_at_node(
                x=y if i == 0 else values[i - 1],
                weight=weights[i],
                bias=biases[i],
                out=values[i],
                m=m,
                m_valid=n_valid,
                J=widths[i],
                K=D if i == 0 else widths[i - 1],
                weight_stride=path_stride if i == 0 else widths[i - 1],
                ACTIVATION="none" if i == 0 else "silu",
                GATHER=i == 0,
                BLOCK_M=BLOCK_M,
                BLOCK_J=BLOCK_J,
                BLOCK_K=BLOCK_K,
            )
        if node < STEPS:
            of_y = tl.load(decay + node)
            of_p = tl.load(gain + node)
            for start in range(0, D, BLOCK_K):
                d = start + tl.arange(0, BLOCK_K)
                valid = n_valid[:, None] & (d < D)[None, :]
                place = m.to(tl.int64)[:, None] * D + d[None, :]
                step = of_y * tl.load(y + place, mask=valid, other=0.0)
                step += of_p * tl.load(values[-1] + place, mask=valid, other=0.0)
                step += tl.load(forcing + place, mask=valid, other=0.0)
                tl.store(y + place + N.to(tl.int64) * D, step, mask=valid)
            tl.debug_barrier()


@triton.jit(do_not_specialize=["N", "STEPS"])
def path_backward_kernel(
    weights,  # as in `path_kernel`
    values,
    grads,  # [T+1, N, J0], ..., gradients of the values, to be filled
    widths,
    decay,
    gain,
    grad_y,  # [T+1, N, D]
    grad_p,  # [T+1, N, D]
    total,  # [T+1, N, D], the whole gradient of y, to be filled
    N,
    STEPS,
    D,
    path_stride,
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
            tl.store(grads[-1] + place, of_value, mask=valid)
            of_state = tl.load(grad_y + place, mask=valid, other=0.0) + of_y * after
            tl.store(total + place, of_state, mask=valid)
        tl.debug_barrier()
        for i in tl.static_range(len(widths) - 1, -1, -1):
            layer_backward_at_node(
                grad_out=grads[i],
                weight=weights[i],
                before=grads[i] if i == 0 else values[i - 1],
                out=total if i == 0 else grads[i - 1],
                m=m,
                m_valid=n_valid,
                J=widths[i],
                K=D if i == 0 else widths[i - 1],
                weight_stride=path_stride if i == 0 else widths[i - 1],
                ACTIVATION="none" if i == 0 else "silu",
                ADD=i == 0,
                BLOCK_M=BLOCK_M,
                BLOCK_J=BLOCK_J,
                BLOCK_K=BLOCK_K,
            )
