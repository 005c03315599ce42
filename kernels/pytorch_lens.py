"""The lens in PyTorch, a few layers at a time: what normalises the states stays in the cache.

Of many tokens one batched product over all layers would write and read copies of all states, which takes
longer; of few, a product for each layer takes as long to call as to do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.first_order import marked

CACHE = 2**20
"""Bytes of states that are read at once, unless one layer has more."""


def _parts(states: Tensor, dtype: torch.dtype) -> Iterator[slice]:
    """Layers of [L, N, H] that fit into the cache."""
    size = max(1, CACHE // max(1, states[:1].numel() * dtype.itemsize))
    for start in range(0, len(states), size):
        yield slice(start, start + size)


def _scaled(states: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The states over their largest magnitude, in a dtype, and the factor [L, N, 1] that did it.

    The factor is kept a normal number, which leaves the largest magnitude between 2^-23 and 4.
    """
    states = states.to(dtype)
    tiny = torch.finfo(dtype).tiny
    peak = torch.linalg.vector_norm(states, math.inf, dim=-1, keepdim=True)
    scale = peak.clamp(tiny, 1 / tiny).reciprocal()
    return states * scale, scale


def _project(states: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The latents [L, N, d], and ``scale`` and ``root`` [L, N, 1], whose product is 1 / rms."""
    layers, targets, width = states.shape
    latent = weight.new_empty(layers, targets, weight.shape[1])
    scale, root = (weight.new_empty(layers, targets, 1) for _ in range(2))
    for part in _parts(states, weight.dtype):
        scaled, scale[part] = _scaled(states[part], weight.dtype)
        norm = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
        root[part] = torch.where(norm == 0, 0, math.sqrt(width) / norm)
        torch.bmm(scaled, weight[part].mT, out=latent[part])
    return latent.mul_(root).add_(bias[:, None]), scale, root


def _to_states(
    grad: Tensor,
    states: Tensor,
    weight: Tensor,
    bias: Tensor,
    latent: Tensor,
    scale: Tensor,
    root: Tensor,
) -> Tensor:
    """The gradient of the states from that of the latents: ``(W'g - x (x . W'g) / H) / rms``.

    ``x . W'g`` is ``g . (p - b)``. Where the product of scale and root is beyond the numbers, each by
    itself is not.
    """
    grad = grad * root * scale
    along = (grad * (latent - bias[:, None])).sum(-1, keepdim=True) * root / -states.shape[-1]
    out = torch.empty_like(states)
    for part in _parts(states, weight.dtype):
        scaled = states[part].to(weight.dtype) * scale[part]
        out[part] = scaled.mul_(along[part]).baddbmm_(grad[part], weight[part])
    return out


class _LensProject(torch.autograd.Function):
    """Keeps the latents and 1 / rms beside the inputs."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        latent, scale, root = _project(states, weight, bias)
        ctx.save_for_backward(states, weight, bias, latent, scale, root)
        return latent

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        return _once(_project_backward, ctx, *outputs), None, None


class _LensNll(torch.autograd.Function):
    """Keeps the latents, not the residuals of every end point."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor,
        ends: Tensor,
        factor: Tensor,
        mean: Tensor,
        precision: Tensor,
    ) -> Tensor:
        latent, scale, root = _project(states, weight, bias)
        ctx.save_for_backward(states, weight, bias, latent, scale, root, ends, factor, mean, precision)
        # The residuals themselves, one end point at a time: |p|^2 - 2 p.v + |v|^2 would lose the digits
        # of a small cost, where the precision is largest, and save only the reading of [L, N, d].
        moved = factor[:, None, None] * latent
        values = moved.new_empty(len(ends), *moved.shape[:2])
        for value, end in zip(values, ends, strict=True):
            residual = torch.addcmul(moved, mean[:, None, None], end, value=-1)
            torch.linalg.vector_norm(residual, dim=-1, out=value)
        return values.square_().mul_(precision[:, None] / 2)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        return _once(_nll_backward, ctx, *outputs), *[None] * 6


def _once(backward: Any, ctx: Any, grad: Tensor) -> Tensor:
    """A backward of first order, in full precision though it be asked for under an autocast."""
    with torch.autocast(grad.device.type, enabled=False):
        found: Tensor = backward(ctx, marked(grad))
        return found


@once_differentiable
def _project_backward(ctx: Any, grad: Tensor) -> Tensor:
    return _to_states(grad, *ctx.saved_tensors)


@once_differentiable
def _nll_backward(ctx: Any, grad: Tensor) -> Tensor:
    """``sum_k g_k precision f (f p - m v_k)``: the end points are added up before they meet p."""
    *kept, ends, factor, mean, precision = ctx.saved_tensors
    latent = kept[3]
    pull = torch.zeros_like(latent)
    for of_end, end in zip(grad, ends, strict=True):
        pull.addcmul_(of_end[..., None], end)
    strength = precision * factor
    of_latent = (strength * factor)[:, None, None] * grad.sum(0)[..., None] * latent
    of_latent.addcmul_((strength * mean)[:, None, None], pull, value=-1)
    return _to_states(of_latent, *kept)


def _at_least_float32(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)


def lens_project(
    states: Tensor, weight: Tensor, bias: Tensor, *, source: torch.dtype | None = None
) -> Tensor:
    """[L, N, d] in float32 at least; see `kernels.lens.lens_project`."""
    dtype = _at_least_float32(weight)
    latent: Tensor = _LensProject.apply(states, weight.to(dtype), bias.to(dtype))
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
    """[L, N] or [K, L, N] in float32 at least; see `kernels.lens.lens_nll`."""
    dtype = _at_least_float32(weight)
    several = end if end.dim() == 3 else end[None]
    laws = (x.to(dtype) for x in (weight, bias, several, factor, mean, precision))
    values: Tensor = _LensNll.apply(states, *laws)
    return values if end.dim() == 3 else values[0]
