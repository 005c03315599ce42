"""Likelihoods of a latent trajectory under a Gaussian law: layer by layer, by steps, or as a whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from bridges.errors import BadInput
from bridges.latent.latent_map import Reader
from bridges.latent.trajectory import Trajectory

LIKELIHOODS = ("marginal", "path")


class LayerLaws(NamedTuple):
    """``z_i ~ N(carry_i z_{i-1} + mean_i v, 1 / precision_i)``, and ``E z_i = factor_i v``."""

    carry: Tensor | None
    mean: Tensor
    precision: Tensor
    factor: Tensor


@dataclass(frozen=True)
class Steps:
    """``z_i ~ N(carry_i z_{i-1} + mean_i v, variance_i)`` in every dimension, z_0 = 0.

    Attributes:
        carry: [L] or [L, d]; None where each layer is by itself.
        mean, variance: [L], or [L, d] where the dimensions differ.
        factor: likewise, of the marginal mean: ``E z_i = factor_i v``.
    """

    carry: Tensor | None
    mean: Tensor
    variance: Tensor
    factor: Tensor

    @cached_property
    def precision(self) -> Tensor:
        """1 / variance."""
        return 1 / self.variance

    @cached_property
    def _cast(self) -> dict[torch.dtype, LayerLaws]:
        return {}

    def laws(self, dtype: torch.dtype) -> LayerLaws:
        """As `Reader.fused_cost` takes them, for a reader of this dtype: cast once.

        What is learned, and what a reader of half precision rounds itself, stays in float64.
        """
        if dtype not in self._cast:
            with torch.inference_mode(False):  # kept with the rest, and used in training later
                laws = LayerLaws(self.carry, self.mean, self.precision, self.factor)
                learned = any(x is not None and x.requires_grad for x in laws)
                if dtype == torch.float32 and not learned:
                    carry = None if laws.carry is None else laws.carry.to(dtype)
                    laws = LayerLaws(carry, *(x.to(dtype) for x in laws[1:]))
                self._cast[dtype] = laws
        return self._cast[dtype]

    def whiten(self, latent: Tensor) -> Whitened:
        """Of a latent trajectory [L, N, d]."""
        carry, mean, precision, _ = self.laws(latent.dtype)
        value, count = latent, len(latent)
        if carry is not None:  # carry_0 multiplies the start, which is zero
            carried = columns(carry).to(latent.dtype)
            value = torch.cat([latent[:1], latent[1:] - carried[1:] * latent[:-1]])
        mean, precision = (x.reshape(count, -1).to(latent.dtype) for x in (mean, precision))
        return Whitened(value, mean, precision)


@dataclass(frozen=True)
class Joint:
    """The law of all layers at once, in float64; see `whiten`.

    In float64: neighbouring layers of a smooth process hardly differ, and the whitening divides by that.

    Attributes:
        root: of the covariance, [L, L] or [d, L, L].
        pivots: [L, 1, 1] or [L, 1, d]: what is new in a layer has its own scale, not the unit.
        mean, precision: of `Whitened`.
    """

    root: Tensor
    pivots: Tensor
    mean: Tensor
    precision: Tensor

    @classmethod
    def of(cls, factor: Tensor, root: Tensor, dim: int) -> Joint:
        """From the mean factors [L] or [L, d] and the root, for d dimensions."""
        variance = diagonal(root)
        pivots = columns(variance.sqrt())
        # Whitening is linear, so one solve does for every end point.
        mean = pivots * whiten(root, columns(factor).expand(-1, 1, dim))
        return cls(root, pivots, mean.squeeze(1), 1 / variance.reshape(len(variance), -1))

    @property
    def variance(self) -> Tensor:
        """Of what is new in each layer."""
        return 1 / self.precision

    def whiten(self, latent: Tensor) -> Whitened:
        """Of a latent trajectory [L, N, d]."""
        value = self.pivots * whiten(self.root, latent.double())
        return Whitened(value, self.mean, self.precision)


@dataclass(frozen=True)
class Whitened:
    """A trajectory under a Gaussian law, its layers made independent of each other.

    Minus its log-likelihood is ``sum_i sum_d precision_i (value_i - mean_i v)^2 / 2``, and that of its
    first k layers the sum up to k, but for the normaliser ``sum_i sum_d log(2 pi / precision_i) / 2``.

    Attributes:
        value: [L, N, d].
        mean, precision: [L, 1] or [L, d].
    """

    value: Tensor
    mean: Tensor
    precision: Tensor


def steps_cost(reader: Reader, trajectory: Trajectory, end: Tensor, steps: Steps) -> Tensor:
    """Mean over layers of ``sum_d (z_i - carry_i z_{i-1} - mean_i v)^2 / (2 variance_i)``.

    Returns:
        [N], or [K, N] for end points [K, N, d].
    """
    if steps.variance.dim() == 1:
        fused = reader.fused_cost(trajectory, end, *steps.laws(reader.dtype))
        if fused is not None:
            return fused
    latent = latents(reader, trajectory, steps.laws(reader.dtype).factor)
    return whitened_cost(steps.whiten(latent), end).to(reader.dtype)


def whitened_cost(path: Whitened, end: Tensor) -> Tensor:
    """Mean over layers of ``sum_d precision_i (value_i - mean_i v)^2 / 2``: [N] or [K, N]."""
    end = end.to(path.value.dtype).unsqueeze(-3)
    residual = path.value - path.mean.unsqueeze(1) * end
    square = residual.square() * path.precision.unsqueeze(1)
    return square.sum((-3, -1)) / (2 * len(path.value))


def whitened_costs(path: Whitened, end: Tensor) -> Tensor:
    """What `whitened_cost` is the mean of, for end points [N, d]: [L, N]."""
    residual = path.value - path.mean.unsqueeze(1) * end.to(path.value.dtype)
    return (residual.square() * path.precision.unsqueeze(1)).sum(-1) / 2


def normaliser(variance: Tensor, dim: int, factor: Tensor | None = None) -> Tensor:
    """Mean over layers of ``sum_d log(2 pi variance_i) / 2``, for variances [L] or [L, d].

    Args:
        variance: of what is new in each layer.
        dim: d.
        factor: [L] or [L, d], of a reader that guesses. Its guesses p are what is given, and the density
            is of them, not of the latents m(t) p: else a process that learns its mean would shrink them.
    """
    return normalisers(variance, dim, factor).mean()


def normalisers(variance: Tensor, dim: int, factor: Tensor | None = None) -> Tensor:
    """What `normaliser` is the mean of, [L]; arguments as there."""
    each = over_dimensions((variance.log() + math.log(2 * math.pi)) / 2, dim)
    return each if factor is None else each - over_dimensions(factor.log(), dim)


def over_dimensions(x: Tensor, dim: int) -> Tensor:
    """The sum over d dimensions, of [L], [L, 1] or [L, d]: [L]."""
    return x.reshape(len(x), -1).expand(-1, dim).sum(1)


def cholesky(covariance: Tensor) -> Tensor:
    """The lower root of a covariance [T, T], or [T, T, d] into [d, T, T].

    Raises:
        BadInput: if it is not positive definite as far as its digits reach.
    """
    matrix = covariance if covariance.dim() == 2 else covariance.movedim(-1, 0)
    root: Tensor
    root, failed = torch.linalg.cholesky_ex(matrix)
    if failed.any():
        raise BadInput(
            f"the covariance at these {matrix.shape[-1]} times is not positive definite in "
            f"{matrix.dtype}: use fewer times, a rougher process, or likelihood='marginal'"
        )
    return root


def diagonal(root: Tensor) -> Tensor:
    """Variances of the whitened steps of a root, [T] or [T, d]: the pivots, squared."""
    return root.diagonal(dim1=-2, dim2=-1).square().movedim(-1, 0)


def whiten(root: Tensor, x: Tensor) -> Tensor:
    """``root^-1 x`` along the first dimension of x [T, N, d], for a root [T, T] or [d, T, T]."""
    if root.dim() == 2:
        flat: Tensor = torch.linalg.solve_triangular(root, x.reshape(len(x), -1), upper=False)
        return flat.reshape(x.shape)
    each: Tensor = torch.linalg.solve_triangular(root, x.permute(2, 0, 1), upper=False)
    return each.permute(1, 2, 0)


def colour(root: Tensor, x: Tensor) -> Tensor:
    """``root x``, the inverse of `whiten`."""
    if root.dim() == 2:
        whole: Tensor = torch.tensordot(root, x, 1)
        return whole
    return (root @ x.permute(2, 0, 1)).permute(1, 2, 0)


def columns(x: Tensor) -> Tensor:
    """[T] or [T, d] against [T, N, d]: [T, 1, 1] or [T, 1, d]."""
    return x.reshape(len(x), 1, -1)


def latents(reader: Reader, trajectory: Trajectory, factor: Tensor | None) -> Tensor:
    """A reader's latents [L, N, d], or its guesses where no factor is given; in float32 at least."""
    with torch.autocast(trajectory.states.device.type, enabled=False):
        latent: Tensor = reader(trajectory, factor)
    return latent.to(torch.promote_types(latent.dtype, torch.float32))
