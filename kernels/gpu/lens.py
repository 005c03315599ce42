"""The lens on Triton kernels: what is launched when and kept for the gradient."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.first_order import marked
from kernels.gpu import launch as run
from kernels.gpu.lens_kernels import (
    lens_backward_kernel,
    lens_kernel,
    lens_latent_gradient_kernel,
    row_scale_kernel,
)

Laws = tuple[Tensor, ...]
"""End points [K, N, d], factor, mean and precision [L]; or nothing, for the latents alone."""


def _scales(states: Tensor) -> tuple[Tensor, Tensor]:
    """``scale`` and ``root`` [L, N] of `lens_kernels`, whose product is 1 / rms."""
    rows, width = states.shape[0] * states.shape[1], states.shape[2]
    scale, root = (states.new_empty(states.shape[:2], dtype=torch.float32) for _ in range(2))
    run.launch(
        row_scale_kernel,
        (triton.cdiv(rows, 4), 1, 1),
        states=states,
        scale=scale,
        root=root,
        M=rows,
        H=width,
        BLOCK_M=4,
        BLOCK_H=256,
    )
    return scale, root


def _read(
    states: Tensor, weight: Tensor, bias: Tensor, laws: Laws, *, keep: bool, digits: run.Digits
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Costs [K, L, N], latents [L, N, d] or, where they are not to be kept, empty, scale and root."""
    layers, targets, width = states.shape
    dim = weight.shape[1]
    scale, root = _scales(states)
    block = run.tile(targets, dim, products=layers)
    parts = triton.cdiv(dim, block[1])
    end, factor, mean, precision = laws or (scale, scale, scale, scale)
    count = len(end) if laws else 0
    latent = scale.new_empty((layers, targets, dim) if keep else (0,))
    value = scale.new_empty(count, layers, targets, parts)
    run.launch(
        lens_kernel,
        (layers * triton.cdiv(targets, block[0]), parts, 1),
        states=states,
        weight=weight,
        bias=bias,
        scale=scale,
        root=root,
        end=end,
        factor=factor,
        mean=mean,
        precision=precision,
        latent=latent,
        value=value,
        N=targets,
        D=dim,
        H=width,
        COUNT=count,
        LATENT=keep,
        **run.operands(weight.dtype, digits),
        BLOCK_N=block[0],
        BLOCK_D=block[1],
        BLOCK_H=run.INNER,
        num_warps=run.warps(block),
    )
    return value.sum(3), latent, scale, root


def _to_states(
    grad: Tensor,
    states: Tensor,
    weight: Tensor,
    bias: Tensor,
    latent: Tensor,
    scale: Tensor,
    root: Tensor,
    *laws: Tensor,
    digits: run.Digits,
) -> Tensor:
    """The states' gradient from that of the latents [L, N, d], or with laws from that of the costs."""
    layers, targets, width = states.shape
    dim = weight.shape[1]
    end, factor, mean, precision = laws or (scale, scale, scale, scale)
    of_latent, along = torch.empty_like(latent), torch.empty_like(scale)
    run.launch(
        lens_latent_gradient_kernel,
        (layers * triton.cdiv(targets, 16), 1, 1),
        grad_out=grad.float().contiguous(),
        latent=latent,
        bias=bias,
        root=root,
        end=end,
        factor=factor,
        mean=mean,
        precision=precision,
        grad=of_latent,
        along=along,
        N=targets,
        D=dim,
        H=width,
        COUNT=len(end) if laws else 0,
        BLOCK_N=16,
        BLOCK_D=64,
    )
    out = torch.empty_like(states)
    block = run.tile(targets, width, products=layers)
    run.launch(
        lens_backward_kernel,
        (layers * triton.cdiv(targets, block[0]), triton.cdiv(width, block[1]), 1),
        grad=of_latent,
        along=along,
        states=states,
        weight=weight,
        scale=scale,
        out=out,
        N=targets,
        D=dim,
        H=width,
        **run.operands(weight.dtype, digits, backward=True),
        BLOCK_N=block[0],
        BLOCK_H=block[1],
        BLOCK_D=run.INNER,
        num_warps=run.warps(block),
    )
    return out


class _Lens(torch.autograd.Function):
    """Latents, or with laws costs; keeps the latents and the scales beside the inputs."""

    @staticmethod
    def forward(
        ctx: Any, digits: run.Digits, states: Tensor, weight: Tensor, bias: Tensor, *laws: Tensor
    ) -> Tensor:
        value, latent, scale, root = _read(states, weight, bias, laws, keep=True, digits=digits)
        ctx.digits = digits
        ctx.save_for_backward(states, weight, bias, latent, scale, root, *laws)
        return value if laws else latent

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = outputs
        return None, _first_order(ctx, marked(grad)), *[None] * (len(ctx.needs_input_grad) - 2)


@once_differentiable
def _first_order(ctx: Any, grad: Tensor) -> Tensor:
    with run.on(grad.device):
        return _to_states(grad, *ctx.saved_tensors, digits=ctx.digits)


def _readable(states: Tensor) -> Tensor:
    """Contiguous, and not in float64, which no kernel reads."""
    return (states.float() if states.dtype == torch.float64 else states).contiguous()


def lens_project(
    states: Tensor, weight: Tensor, bias: Tensor, *, source: torch.dtype | None = None
) -> Tensor:
    """[L, N, d] in float32; see `kernels.lens.lens_project`. The weight is not in float64."""
    states, weight, bias = _readable(states), weight.contiguous(), bias.contiguous()
    with run.on(states.device):
        latent: Tensor = _Lens.apply(run.digits(source), states, weight, bias)
        return latent


def lens_nll(
    states: Tensor,
    weight: Tensor,
    bias: Tensor,
    end: Tensor,
    factor: Tensor,
    mean: Tensor,
    precision: Tensor,
    *,
    source: torch.dtype | None = None,
) -> Tensor:
    """[L, N] or [K, L, N] in float32; see `kernels.lens.lens_nll`. The weight is not in float64."""
    several = end if end.dim() == 3 else end[None]
    states, weight, bias = _readable(states), weight.contiguous(), bias.contiguous()
    laws = tuple(_readable(x) for x in (several, factor, mean, precision))
    digits = run.digits(source)
    with run.on(states.device):
        if torch.is_grad_enabled() and states.requires_grad:
            values: Tensor = _Lens.apply(digits, states, weight, bias, *laws)
        else:
            values = _read(states, weight, bias, laws, keep=False, digits=digits)[0]
    return values if end.dim() == 3 else values[0]
