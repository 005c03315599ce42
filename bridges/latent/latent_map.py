"""What a cost reads states with, and the published form of it: the latent map g."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from bridges.errors import BadInput, is_whole, shown
from bridges.latent.trajectory import Trajectory
from kernels.bridge_nll import bridge_nll
from kernels.pytorch import project

PAPER_WIDTHS = (1024, 256, 128)
"""Layer widths of g in the paper, for models with H = 1024; the last is the latent dimension d."""

_MOST = 2**20  # of a width


def default_widths(hidden_size: int, latent_dim: int | None = None) -> tuple[int, ...]:
    """Layer widths of g for a model of width H: the paper's at H = 1024, scaled down below.

    The rule: ``(H, H/4, H/8)``, each at most the paper's ``(1024, 256, 128)``, and d at least 16 (or H
    where that is smaller). A given latent dimension replaces d, and widens the layer before it if
    that would be narrower.

    Raises:
        BadInput: for a latent dimension that is no whole number.
    """
    if latent_dim is not None and not is_whole(latent_dim, -_MOST, _MOST):
        raise BadInput(f"latent_dim={shown(latent_dim)}: expected 1 to {hidden_size}")
    first, second, last = PAPER_WIDTHS
    dim = min(last, hidden_size, max(16, hidden_size // 8)) if latent_dim is None else latent_dim
    return min(first, hidden_size), max(min(second, hidden_size // 4), dim), dim


class Reader(nn.Module):
    """What a cost reads a trajectory with: `LatentMap` or `bridges.latent.lens.Lens`, for example."""

    reads_context: ClassVar[bool] = True
    """Whether the mean state of a sequence is read beside the states."""
    makes_latents: ClassVar[bool] = True
    """Whether there is a latent trajectory, that of `forward`."""
    guesses: ClassVar[bool] = False
    """Whether what it reads are guesses of the end point, which the mean factors turn into latents."""

    normalises: bool = False
    """Whether what it reads is divided by its root mean square first."""

    centre: Tensor
    """[L+1, d], the mean guess of a reader that guesses."""

    @property
    def dim(self) -> int:
        """The latent dimension d."""
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in, and a cost through it is of."""
        raise NotImplementedError

    def forward(self, trajectory: Trajectory, factor: Tensor | None = None) -> Tensor:
        """Latents z, [L+1, N, d].

        Args:
            trajectory: of N tokens.
            factor: [L+1] or [L+1, d], a process's mean factors m(t_i): a reader that guesses the end
                point itself is multiplied by them; others are fitted to the process as they are.
        """
        raise NotImplementedError(f"{type(self).__name__} makes no latents")

    def fused_cost(
        self,
        trajectory: Trajectory,
        end: Tensor,
        carry: Tensor | None,
        mean: Tensor,
        precision: Tensor,
        factor: Tensor,
    ) -> Tensor | None:
        """Mean over layers of ``precision_i |z_i - carry_i z_{i-1} - mean_i v|^2 / 2`` in one operation.

        Args:
            trajectory: of N tokens.
            end: [N, d], or [K, N, d].
            carry, mean, precision, factor: [L+1]; no carry where each layer is by itself.

        Returns:
            [N] or [K, N]; None where there is no such operation.
        """
        return None


def as_latents(guess: Tensor, factor: Tensor | None) -> Tensor:
    """Guesses of the end point [L+1, N, d], turned into latents by a process's mean factors if given."""
    if factor is None:
        return guess
    return guess * factor.to(guess).reshape(len(guess), 1, -1)


class Layers(Reader):
    """A stack of linear layers that reads ``[context; state]`` in R^{2H}: what a cost's map is made of.

    Args:
        hidden_size: H.
        widths: widths of the layers; the last is d.

    Attributes:
        normalises: whether states and contexts are read over their root mean square; set once the map is
            made, before it is fitted.

    Raises:
        BadInput: for no widths, or one that is no whole number above 0.
    """

    def __init__(self, hidden_size: int, widths: Sequence[int]) -> None:
        super().__init__()
        if not widths or any(not is_whole(width, 1, _MOST) for width in widths):
            raise BadInput(
                f"latent map widths {shown(widths)}: expected one or more whole numbers above 0"
            )
        sizes = (2 * hidden_size, *widths)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def seen(self, trajectory: Trajectory) -> Trajectory:
        """The trajectory as it is to be read: whoever reads one with these layers asks for it first."""
        return trajectory.normalised() if self.normalises else trajectory

    @property
    def weights(self) -> list[Tensor]:
        return [layer.weight for layer in self.layers]  # type: ignore[misc]

    @property
    def biases(self) -> list[Tensor]:
        return [layer.bias for layer in self.layers]  # type: ignore[misc]

    @property
    def dim(self) -> int:
        return len(self.biases[-1])

    @property
    def dtype(self) -> torch.dtype:
        first = self.layers[0].weight
        assert isinstance(first, Tensor)
        return first.dtype


class LatentMap(Layers):
    """g: a linear-GELU stack from ``[context; state]`` in R^{2H} to R^d, shared by all layers.

    No activation after the last layer (arXiv 2305.17670, section 4). Arguments as `Layers`.
    """

    def forward(self, trajectory: Trajectory, factor: Tensor | None = None) -> Tensor:
        trajectory = self.seen(trajectory)
        states, context = trajectory.states.to(self.dtype), trajectory.context.to(self.dtype)
        return project(states, context, trajectory.rows, self.weights, self.biases)

    def fused_cost(
        self,
        trajectory: Trajectory,
        end: Tensor,
        carry: Tensor | None,
        mean: Tensor,
        precision: Tensor,
        factor: Tensor,
    ) -> Tensor | None:
        trajectory = self.seen(trajectory)
        return bridge_nll(
            trajectory.states,
            trajectory.context,
            trajectory.rows,
            self.weights,
            self.biases,
            end,
            carry,
            mean,
            precision,
            reduction="none",
            source=trajectory.source,
        )
