"""The launches of the latent map and the likelihood kernels, one function each.

Tiles follow from shapes by the small rules below, never by measurement, so that `benchmarks.aot`
compiles ahead of time exactly what runs, and the order of every sum depends on shapes alone. Rows are
(layer, target) pairs: tensors [L, N, *] and [L, B, *] are passed as they are and read as matrices.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.gpu.likelihood_kernels import likelihood_kernel
from kernels.gpu.linear_kernels import (
    linear_backward_kernel,
    linear_kernel,
    segment_sum_kernel,
    weight_gradient_kernel,
)

PROGRAMS = 128
"""About one program for each multiprocessor of an A100 (108) or H100 (132)."""

TILES = ((64, 64), (32, 64), (32, 32), (16, 32))
"""Output tiles of the matrix products, large to small: a large one reuses more of what it loads."""

INNER = 32
"""Terms of a product that are loaded at a time."""


def launch(kernel: Any, grid: tuple[int, int, int], *arguments: Any, **constants: Any) -> None:
    """Every launch goes through here. A grid without programs is none."""
    if 0 not in grid:
        kernel[grid](*arguments, **constants)


def on(device: torch.device) -> Any:
    """The context to launch in: Triton launches on the current CUDA device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def tile(rows: int, columns: int, *, largest: int = 0) -> tuple[int, int]:
    """The largest tile from TILES[largest] on that gives every multiprocessor work, or the smallest."""
    for block in TILES[largest:]:
        if triton.cdiv(rows, block[0]) * triton.cdiv(columns, block[1]) >= PROGRAMS:
            return block
    return TILES[-1]


def warps(block: tuple[int, int]) -> int:
    """Eight for the largest tile: on four, float32 products made of three spill registers."""
    return 8 if block == TILES[0] else 4


def operands(dtype: torch.dtype, *, backward: bool = False) -> dict[str, Any]:
    """What a product is made of: 16-bit operands as they are, float32 in three TF32 products.

    One TF32 product would be good to 1e-3 only. The gradients of a mean over layers and tokens leave
    the range of float16, and the interpreter knows no bfloat16 products: both are made in float32.
    """
    interpreted = triton.knobs.runtime.interpret
    if dtype == torch.bfloat16 and not interpreted:
        return {"DOT": tl.bfloat16, "PRECISION": "ieee"}
    if dtype == torch.float16 and not backward:
        return {"DOT": tl.float16, "PRECISION": "ieee"}
    return {"DOT": tl.float32, "PRECISION": "tf32x3"}


def as_matrix(weight: Tensor) -> Tensor:
    """A weight, or a part of one, whose last dimension is contiguous."""
    return weight if weight.stride(1) == 1 else weight.contiguous()


def linear(
    x: Tensor, weight: Tensor, bias: Tensor, activation: str = "none", rows: Tensor | None = None
) -> Tensor:
    """``act(x) @ weight.T + bias``, [L, N, K] -> [L, N, J] in float32.

    With ``rows`` [N] the bias is float32 [L, B, J], and a target takes that of its sequence.
    """
    weight = as_matrix(weight)
    layers, targets, inner = x.shape
    out = x.new_empty(layers, targets, weight.shape[0], dtype=torch.float32)
    block_m, block_j = tile(layers * targets, weight.shape[0])
    launch(
        linear_kernel,
        (triton.cdiv(layers * targets, block_m), triton.cdiv(weight.shape[0], block_j), 1),
        *(x, weight, bias, out if rows is None else rows, out),
        *(layers * targets, targets, bias.shape[-2] if rows is not None else 0),
        *(weight.shape[0], inner, weight.stride(0)),
        ACTIVATION=activation,
        GATHER=rows is not None,
        **operands(weight.dtype),
        BLOCK_M=block_m,
        BLOCK_J=block_j,
        BLOCK_K=INNER,
        num_warps=warps((block_m, block_j)),
    )
    return out


def linear_backward(
    grad: Tensor, weight: Tensor, before: Tensor | None = None, activation: str = "none"
) -> Tensor:
    """``(grad @ weight) * act'(before)``, [L, N, J] -> [L, N, K].

    In float32 for an activation's input ``before``, in the dtype of the weight for the stack's.
    """
    weight = as_matrix(weight)
    layers, targets, inner = grad.shape
    width = weight.shape[1]
    dtype = weight.dtype if before is None else torch.float32
    out = grad.new_empty(layers, targets, width, dtype=dtype)
    block_m, block_k = tile(layers * targets, width)
    launch(
        linear_backward_kernel,
        (triton.cdiv(layers * targets, block_m), triton.cdiv(width, block_k), 1),
        *(grad, weight, grad if before is None else before, out),
        *(layers * targets, inner, width, weight.stride(0)),
        ACTIVATION=activation,
        **operands(weight.dtype, backward=True),
        BLOCK_M=block_m,
        BLOCK_K=block_k,
        BLOCK_J=INNER,
        num_warps=warps((block_m, block_k)),
    )
    return out


def weight_gradient(grad: Tensor, x: Tensor, out: Tensor, activation: str = "none") -> None:
    """``out = grad.T @ act(x)`` over all rows: [L, N, J] and [L, N, K] into [J, K] or a part of one.

    A small matrix is cut into parts of the rows, which are summed in a second step.
    """
    rows, (width, inner) = grad.shape[0] * grad.shape[1], out.shape
    block = TILES[0]
    tiles = triton.cdiv(width, block[0]) * triton.cdiv(inner, block[1])
    parts = max(1, min(PROGRAMS // max(tiles, 1), rows // (4 * INNER)))
    chunk = INNER * triton.cdiv(triton.cdiv(rows, parts), INNER)
    target = out.unsqueeze(0) if parts == 1 else grad.new_empty(parts, width, inner)
    launch(
        weight_gradient_kernel,
        (triton.cdiv(width, block[0]), triton.cdiv(inner, block[1]), parts),
        *(grad, x, target, rows, width, inner, chunk, target.stride(1)),
        ACTIVATION=activation,
        **operands(out.dtype, backward=True),
        BLOCK_J=block[0],
        BLOCK_K=block[1],
        BLOCK_M=INNER,
        num_warps=warps(block),
    )
    if parts > 1:
        out.copy_(target.sum(0))


def segment_sum(values: Tensor, rows: Tensor, batch: int) -> Tensor:
    """The sum over the targets of each sequence: float32 [L, N, J] -> [L, B, J]."""
    layers, targets, width = values.shape
    out = values.new_empty(layers, batch, width)
    launch(
        segment_sum_kernel,
        (batch, triton.cdiv(width, 128), layers),
        *(values, rows, out, targets, batch, width),
        BLOCK_N=16,
        BLOCK_J=128,
    )
    return out


def likelihood(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    activation: str,
    rows: Tensor | None,
    laws: tuple[Tensor, Tensor | None, Tensor, Tensor],
    *,
    gradient: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The last projection and the cost: x [L, N, K] and laws (end, carry, mean, precision).

    Returns:
        The terms of the costs, [L, N, parts]; for the gradients also the weighted residuals [L, N, d],
        scaled like the costs, and the sums [3, L, N, parts] of ``r^2 / 2``, ``r v``, ``r z_{i-1}``.
    """
    end, carry, mean, precision = laws
    weight = as_matrix(weight)
    layers, targets, inner = x.shape
    dim = weight.shape[0]
    # With a carry two projections are held at a time: too much for the registers at the largest tile.
    block_m, block_d = tile(layers * targets, dim, largest=int(carry is not None))
    parts = triton.cdiv(dim, block_d)
    value = x.new_empty(layers, targets, parts, dtype=torch.float32)
    weighted = sums = None
    if gradient:
        weighted = x.new_empty(layers, targets, dim, dtype=torch.float32)
        sums = x.new_empty(3, layers, targets, parts, dtype=torch.float32)
    launch(
        likelihood_kernel,
        (triton.cdiv(layers * targets, block_m), parts, 1),
        *(x, weight, bias, value if rows is None else rows),
        *(end, mean if carry is None else carry, mean, precision),
        *(value, value if weighted is None else weighted, value if sums is None else sums),
        1 / layers,
        *(layers * targets, targets, bias.shape[-2] if rows is not None else 0),
        *(dim, inner, weight.stride(0)),
        ACTIVATION=activation,
        GATHER=rows is not None,
        HAS_CARRY=carry is not None,
        HAS_GRADIENT=gradient,
        **operands(weight.dtype),
        BLOCK_M=block_m,
        BLOCK_D=block_d,
        BLOCK_K=INNER,
        num_warps=warps((block_m, block_d)),
    )
    return value, weighted, sums
