"""The launches of the likelihood kernels: the last projection and the costs, the latents' gradient."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from kernels.gpu import launch as run
from kernels.gpu.likelihood_kernels import latent_gradient_kernel, likelihood_kernel

Laws = tuple[Tensor, Tensor | None, Tensor, Tensor]
"""End points [K, N, d], carry, if there is one, mean and precision [L]."""


def likelihood(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    activation: str,
    rows: Tensor | None,
    laws: Laws,
    *,
    keep: bool,
    learned: bool,
    digits: run.Digits,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The last projection and the costs of x [L, N, F].

    Args:
        keep: whether the latents are wanted for a gradient.
        learned: whether the sums are wanted, for that of the laws.

    Returns:
        The terms of the costs, [K, L, N, parts]; ``z_i - carry_i z_{i-1}``, [L, N, d]; and the sums
        [3, K, L, N, parts] of ``r^2 / 2``, ``r v``, ``r z_{i-1}``, r the residuals.
    """
    end, carry, mean, precision = laws
    weight = run.as_matrix(weight)
    layers, targets, inner = x.shape
    dim, count = weight.shape[0], len(end)
    # With a carry two projections are held at a time: too much for the registers at the largest tile.
    block_m, block_d = run.tile(layers * targets, dim, largest=int(carry is not None))
    parts = triton.cdiv(dim, block_d)
    value = x.new_empty(count, layers, targets, parts, dtype=torch.float32)
    moved = x.new_empty(layers, targets, dim, dtype=torch.float32) if keep else None
    sums = x.new_empty(3, count, layers, targets, parts, dtype=torch.float32) if learned else None
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
        moved=value if moved is None else moved,
        sums=value if sums is None else sums,
        scale=1 / layers,
        M=layers * targets,
        N=targets,
        B=bias.shape[-2] if rows is not None else 0,
        D=dim,
        K=inner,
        COUNT=count,
        weight_stride=weight.stride(0),
        ACTIVATION=activation,
        GATHER=rows is not None,
        HAS_CARRY=carry is not None,
        KEEP=keep,
        SUMS=learned,
        **run.operands(weight.dtype, digits),
        BLOCK_M=block_m,
        BLOCK_D=block_d,
        BLOCK_K=run.INNER,
        num_warps=run.warps((block_m, block_d)),
    )
    return value, moved, sums


def latent_gradient(grad_value: Tensor, moved: Tensor, laws: Laws) -> Tensor:
    """The gradient of the latents [L, N, d] from that of the costs [K, N], in float32."""
    end, carry, mean, precision = laws
    layers, targets, dim = moved.shape
    grad = torch.empty_like(moved)
    run.launch(
        latent_gradient_kernel,
        (triton.cdiv(layers * targets, 16), triton.cdiv(dim, 64), 1),
        moved=moved,
        end=end,
        grad_value=grad_value,
        carry=mean if carry is None else carry,
        mean=mean,
        precision=precision,
        grad=grad,
        scale=1 / layers,
        M=layers * targets,
        N=targets,
        D=dim,
        COUNT=len(end),
        HAS_CARRY=carry is not None,
        BLOCK_M=16,
        BLOCK_D=64,
    )
    return grad
