"""The latent map g and the end points: where trajectories live and where they should end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from bridges.errors import BadInput, is_whole, shown
from bridges.latent.trajectory import Trajectory
from kernels.pytorch import project

PAPER_WIDTHS = (1024, 256, 128)
"""Layer widths of g in the paper, for models with H = 1024; the last is the latent dimension d."""

_MOST = 2**20  # of a width


def default_widths(hidden_size: int, latent_dim: int | None = None) -> tuple[int, ...]:
    """Layer widths of g for a model of width H: the paper's at H = 1024, scaled down below.

    The rule: ``(H, H/4, H/8)``, each at most the paper's ``(1024, 256, 128)``, and d at least 16 (or H
    where that is smaller). A given latent dimension replaces d, and widens the layer before it if
    that would be narrower.
    """
    if latent_dim is not None and not is_whole(latent_dim, -_MOST, _MOST):
        raise BadInput(f"latent_dim={shown(latent_dim)}: expected 1 to {hidden_size}")
    first, second, last = PAPER_WIDTHS
    dim = min(last, hidden_size, max(16, hidden_size // 8)) if latent_dim is None else latent_dim
    return min(first, hidden_size), max(min(second, hidden_size // 4), dim), dim


class Layers(nn.Module):
    """A stack of linear layers that reads ``[context; state]`` in R^{2H}: what a cost's map is made of.

    Args:
        hidden_size: H.
        widths: widths of the layers; the last is d.

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

    @property
    def weights(self) -> list[Tensor]:
        return [layer.weight for layer in self.layers]  # type: ignore[misc]

    @property
    def biases(self) -> list[Tensor]:
        return [layer.bias for layer in self.layers]  # type: ignore[misc]


class LatentMap(Layers):
    """g: a linear-GELU stack from ``[context; state]`` in R^{2H} to R^d, shared by all layers.

    No activation after the last layer (arXiv 2305.17670, section 4). Arguments as `Layers`.
    """

    def forward(self, trajectory: Trajectory) -> Tensor:
        """Latent trajectory, [L+1, N, d]."""
        dtype = self.weights[0].dtype
        states, context = trajectory.states.to(dtype), trajectory.context.to(dtype)
        return project(states, context, trajectory.rows, self.weights, self.biases)


class EndPoints(nn.Module):
    """End points of the vocabulary: one unit vector [d] a word, [V, d] in all.

    Args:
        vectors: [V, d], rows of unit length.
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors)

    @classmethod
    def from_embeddings(cls, embeddings: Tensor, latent_dim: int) -> EndPoints:
        """PCA to d dimensions of the centred word embeddings [V, E], rows scaled to unit length.

        Deterministic: computed in float64 on the CPU from the covariance, and each axis points where
        its largest loading is positive.

        Raises:
            BadInput: if d exceeds the rank the matrix can have, or an embedding is not finite.
        """
        vocabulary, width = embeddings.shape
        if not is_whole(latent_dim, 1, min(vocabulary - 1, width)):
            raise BadInput(
                f"latent_dim={shown(latent_dim)}: expected 1 to {min(vocabulary - 1, width)} for word "
                f"embeddings of shape {(vocabulary, width)}"
            )
        table = embeddings.detach().to("cpu", torch.float64)
        if not table.isfinite().all():
            bad = int((~table.isfinite()).any(1).nonzero()[0])
            raise BadInput(f"the word embedding of token {bad} is not finite: is the model loaded?")
        table = table - table.mean(0)
        _, axes = torch.linalg.eigh(table.T @ table)
        axes = axes[:, -latent_dim:].flip(1)
        largest = axes.abs().argmax(0, keepdim=True)
        axes = axes * axes.gather(0, largest).sign()
        projected = table @ axes
        length = projected.norm(dim=1, keepdim=True)
        tiny = torch.finfo(torch.float64).tiny
        return cls((projected / length.clamp(min=tiny)).to(torch.float32))

    def shuffled(self, seed: int) -> EndPoints:
        """The same points dealt out to other words, by a permutation of the vocabulary."""
        rng = torch.Generator().manual_seed(seed)
        return EndPoints(self.vectors[torch.randperm(len(self.vectors), generator=rng)])

    def forward(self, tokens: Tensor) -> Tensor:
        """End points of token ids [N]: [N, d]. Only these rows are touched."""
        return self.vectors[tokens]
