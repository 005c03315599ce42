"""Likelihoods of a latent trajectory under a Gaussian law: layer by layer, by steps, or as a whole."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bridges.errors import BadInput
from bridges.latent.latent_map import Layers
from bridges.latent.trajectory import Trajectory
from kernels.bridge_nll import bridge_nll

LIKELIHOODS = ("marginal", "path")


@dataclass(frozen=True)
class Steps:
    """``z_i ~ N(carry_i z_{i-1} + mean_i v, variance_i)`` in every dimension, z_0 = 0.

    Attributes:
        carry: [L] or [L, d]; None where each layer is by itself.
        mean, variance: [L], or [L, d] where the dimensions differ.
    """

    carry: Tensor | None
    mean: Tensor
    variance: Tensor


def steps_cost(latent_map: Layers, trajectory: Trajectory, end: Tensor, steps: Steps) -> Tensor:
    """Mean over layers of ``sum_d (z_i - carry_i z_{i-1} - mean_i v)^2 / (2 variance_i)``.

    Returns:
        [N], or [K, N] for end points [K, N, d].
    """
    if steps.variance.dim() == 1:
        return bridge_nll(
            trajectory.states,
            trajectory.context,
            trajectory.rows,
            latent_map.weights,
            latent_map.biases,
            end,
            steps.carry,
            steps.mean,
            1 / steps.variance,
            reduction="none",
        )
    latent = _latent(latent_map, trajectory)
    moved = latent
    if steps.carry is not None:  # carry_0 multiplies the start, which is zero
        moved = torch.cat([latent[:1], latent[1:] - columns(steps.carry)[1:] * latent[:-1]])
    residual = moved - columns(steps.mean) * end.to(latent.dtype).unsqueeze(-3)
    square = residual.square() / columns(steps.variance)
    return (square.sum((-3, -1)) / (2 * len(latent))).to(latent_map.weights[0].dtype)


def joint_cost(
    latent_map: Layers, trajectory: Trajectory, end: Tensor, mean: Tensor, root: Tensor
) -> Tensor:
    """Mean over layers of ``sum_d (K^-1/2 (z - mean v))_i^2 / 2``; arguments and shape as `whiten`.

    In float64: neighbouring layers of a smooth process hardly differ, and the whitening divides by that.
    """
    latent = whiten(root, _latent(latent_map, trajectory))
    # Whitening is linear, so one solve does for all K end points.
    factor = whiten(root, columns(mean).expand(-1, 1, end.shape[-1]))
    residual = latent - factor * end.to(latent.dtype).unsqueeze(-3)
    return (residual.square().sum((-3, -1)) / (2 * len(latent))).to(latent_map.weights[0].dtype)


def normaliser(variance: Tensor, dim: int) -> Tensor:
    """Mean over layers of ``sum_d log(2 pi variance_i) / 2``, for variances [L] or [L, d]."""
    each = (variance.log() + math.log(2 * math.pi)) / 2
    return each.reshape(len(each), -1).expand(-1, dim).sum(1).mean()


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


def _latent(latent_map: Layers, trajectory: Trajectory) -> Tensor:
    """The latent trajectory [L, N, d] in float64, of a map that computes in its own dtype."""
    with torch.autocast(trajectory.states.device.type, enabled=False):
        latent: Tensor = latent_map(trajectory)
    return latent.double()
