"""The launch of the likelihood kernel: the last projection of the latent map and the cost of it."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from kernels.gpu import launch as run
from kernels.gpu.likelihood_kernels import likelihood_kernel


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
    weight = run.as_matrix(weight)
    layers, targets, inner = x.shape
    dim = weight.shape[0]
    # With a carry two projections are held at a time: too much for the registers at the largest tile.
    block_m, block_d = run.tile(layers * targets, dim, largest=int(carry is not None))
    parts = triton.cdiv(dim, block_d)
    value = x.new_empty(layers, targets, parts, dtype=torch.float32)
    weighted = sums = None
    if gradient:
        weighted = x.new_empty(layers, targets, dim, dtype=torch.float32)
        sums = x.new_empty(3, layers, targets, parts, dtype=torch.float32)
    run.launch(
        likelihood_kernel,
        (triton.cdiv(layers * targets, block_m), parts, 1),
        x=x,
        weight=weight,
        bias=bias,
        rows=value if rows is None else rows,
        end=end,
        carry=mean if carry is None else carry,
        mean=mean,
        precision=precision,
        value=value,
        weighted=value if weighted is None else weighted,
        sums=value if sums is None else sums,
        scale=1 / layers,
        M=layers * targets,
        N=targets,
        B=bias.shape[-2] if rows is not None else 0,
        D=dim,
        K=inner,
        weight_stride=weight.stride(0),
        ACTIVATION=activation,
        GATHER=rows is not None,
        HAS_CARRY=carry is not None,
        HAS_GRADIENT=gradient,
        **run.operands(weight.dtype),
        BLOCK_M=block_m,
        BLOCK_D=block_d,
        BLOCK_K=run.INNER,
        num_warps=run.warps((block_m, block_d)),
    )
    return value, weighted, sums
