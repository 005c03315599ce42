"""The launches of the linear-activation kernels, one function each.

Rows are (layer, target) pairs: tensors [L, N, *] and [L, B, *] are passed as they are
and read as matrices.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from kernels.gpu import launch as run
from kernels.gpu.linear_kernels import (
    linear_backward_kernel,
    linear_kernel,
    segment_sum_kernel,
    weight_gradient_kernel,
)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    activation: str = "none",
    rows: Tensor | None = None,
    *,
    digits: run.Digits = "tf32x3",
) -> Tensor:
    """``act(x) @ weight.T + bias``, [L, N, K] -> [L, N, J] in float32.

    With ``rows`` [N] the bias is float32 [L, B, J], and a target takes that of its sequence.
    """
    weight = run.as_matrix(weight)
    layers, targets, inner = x.shape
    out = x.new_empty(layers, targets, weight.shape[0], dtype=torch.float32)
    block_m, block_j = run.tile(layers * targets, weight.shape[0], wide=digits == "tf32")
    run.launch(
        linear_kernel,
        (triton.cdiv(layers * targets, block_m), triton.cdiv(weight.shape[0], block_j), 1),
        x=x,
        weight=weight,
        bias=bias,
        rows=out if rows is None else rows,
        out=out,
        M=layers * targets,
        N=targets,
        B=bias.shape[-2] if rows is not None else 0,
        J=weight.shape[0],
        K=inner,
        weight_stride=weight.stride(0),
        ACTIVATION=activation,
        GATHER=rows is not None,
        **run.operands(weight.dtype, digits),
        BLOCK_M=block_m,
        BLOCK_J=block_j,
        BLOCK_K=run.INNER,
        num_warps=run.warps((block_m, block_j)),
    )
    return out


def linear_backward(
    grad: Tensor,
    weight: Tensor,
    before: Tensor | None = None,
    activation: str = "none",
    *,
    digits: run.Digits = "tf32x3",
) -> Tensor:
    """``(grad @ weight) * act'(before)``, [L, N, J] -> [L, N, K].

    In float32 for an activation's input ``before``, in the dtype of the weight for the stack's.
    """
    layers, targets, inner = grad.shape
    width = weight.shape[1]
    dtype = weight.dtype if before is None else torch.float32
    out = grad.new_empty(layers, targets, width, dtype=dtype)
    block_m, block_k = run.tile(layers * targets, width, wide=digits == "tf32")
    run.launch(
        linear_backward_kernel,
        (triton.cdiv(layers * targets, block_m), triton.cdiv(width, block_k), 1),
        grad_out=grad,
        weight=weight.T.contiguous(),
        before=grad if before is None else before,
        grad=out,
        M=layers * targets,
        J=inner,
        K=width,
        ACTIVATION=activation,
        **run.operands(weight.dtype, digits, backward=True),
        BLOCK_M=block_m,
        BLOCK_K=block_k,
        BLOCK_J=run.INNER,
        num_warps=run.warps((block_m, block_k)),
    )
    return out


def weight_gradient(
    grad: Tensor,
    x: Tensor,
    out: Tensor,
    activation: str = "none",
    *,
    digits: run.Digits = "tf32x3",
) -> None:
    """``out = grad.T @ act(x)`` over all rows: [L, N, J] and [L, N, K] into [J, K] or a part of one.

    A small matrix is cut into parts of the rows, which are summed in a second step.
    """
    rows, (width, inner) = grad.shape[0] * grad.shape[1], out.shape
    block = run.WIDE if digits == "tf32" and rows >= run.MANY else run.TILES[0]
    tiles = triton.cdiv(width, block[0]) * triton.cdiv(inner, block[1])
    parts = max(1, min(run.PROGRAMS // max(tiles, 1), rows // (4 * run.INNER)))
    chunk = run.INNER * triton.cdiv(triton.cdiv(rows, parts), run.INNER)
    target = out.unsqueeze(0) if parts == 1 else grad.new_empty(parts, width, inner)
    run.launch(
        weight_gradient_kernel,
        (triton.cdiv(width, block[0]), triton.cdiv(inner, block[1]), parts),
        grad_out=grad,
        x=x,
        grad=target,
        M=rows,
        J=width,
        K=inner,
        chunk=chunk,
        grad_stride=target.stride(1),
        ACTIVATION=activation,
        **run.operands(out.dtype, digits, backward=True),
        BLOCK_J=block[0],
        BLOCK_K=block[1],
        BLOCK_M=run.INNER,
        num_warps=run.warps(block),
    )
    if parts > 1:
        out.copy_(target.sum(0))


def segment_sum(values: Tensor, rows: Tensor, batch: int) -> Tensor:
    """The sum over the targets of each sequence: float32 [L, N, J] -> [L, B, J]."""
    layers, targets, width = values.shape
    out = values.new_empty(layers, batch, width)
    run.launch(
        segment_sum_kernel,
        (batch, triton.cdiv(width, 128), layers),
        values=values,
        rows=rows,
        out=out,
        N=targets,
        B=batch,
        J=width,
        BLOCK_N=16,
        BLOCK_J=128,
    )
    return out
