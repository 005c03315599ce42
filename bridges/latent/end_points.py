"""End points of the vocabulary: where trajectories should end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bridges.errors import BadInput, is_whole, shown

ENDS = ("pca", "white")

_GRID = 2.0**-16
"""Digits of an end point beyond this depend on the machine: they stay out of its hash."""


class EndPoints(nn.Module):
    """End points of the vocabulary: one unit vector [d] a word, [V, d] in all.

    Args:
        vectors: [V, d], rows of unit length.
        axes: float64 [E, d], the principal axes that they were made on, where that is known: they are
            no part of what is saved.
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor, axes: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors)
        self.axes = axes

    @classmethod
    def from_embeddings(cls, embeddings: Tensor, latent_dim: int, *, ends: str = "pca") -> EndPoints:
        """The centred word embeddings [V, E] on their d principal axes, rows scaled to unit length.

        Deterministic: computed in float64 on the CPU from the covariance, and each axis points where
        its largest loading is positive.

        Args:
            embeddings: [V, E].
            latent_dim: d.
            ends: "pca" takes the axes as they are (arXiv 2305.17670, section 3.2); "white" divides each
                by its standard deviation, so that what all words share, which lies on a few long axes,
                does not hide in what they differ.

        Raises:
            BadInput: if d exceeds the rank the matrix can have, an embedding is not finite or all are
                the same, or ``ends`` is neither.
        """
        if ends not in ENDS:
            raise BadInput(f"ends={shown(ends)}: expected {' or '.join(map(repr, ENDS))}")
        vocabulary, width = embeddings.shape
        if not is_whole(latent_dim, 1, min(vocabulary - 1, width)):
            raise BadInput(
                f"latent_dim={shown(latent_dim)}: expected 1 to {min(vocabulary - 1, width)} for word "
                f"embeddings of shape {(vocabulary, width)}"
            )
        table = centred(embeddings)
        spread, axes = principal_axes(table, latent_dim)
        projected = table @ axes
        if ends == "white":
            # An axis without any spread has nothing to divide by, and no word goes along it.
            empty = spread <= spread[0] * width * torch.finfo(torch.float64).eps
            projected = projected * torch.where(empty, 0, spread.clamp(min=spread[0] * 1e-300).rsqrt())
        length = projected.norm(dim=1, keepdim=True)
        if not length.any():
            raise BadInput("the word embeddings are all the same: is the model loaded?")
        tiny = torch.finfo(torch.float64).tiny
        return cls((projected / length.clamp(min=tiny)).to(torch.float32), axes)

    @property
    def rounded(self) -> Tensor:
        """To the digits that are the same on every machine: what a hash is made of, int32 [V, d]."""
        return (self.vectors.detach().double() / _GRID).round().to(torch.int32)

    def shuffled(self, seed: int) -> EndPoints:
        """The same points dealt out to other words, by a permutation of the vocabulary."""
        rng = torch.Generator().manual_seed(seed)
        return EndPoints(self.vectors[torch.randperm(len(self.vectors), generator=rng)], self.axes)

    def forward(self, tokens: Tensor) -> Tensor:
        """End points of token ids [N]: [N, d]. Only these rows are touched."""
        return self.vectors[tokens]


def centred(embeddings: Tensor) -> Tensor:
    """A table [V, E] about its mean row, in float64 on the CPU.

    Raises:
        BadInput: for an embedding that is not finite.
    """
    table = embeddings.detach().to("cpu", torch.float64)
    if not table.isfinite().all():
        bad = int((~table.isfinite()).any(1).nonzero()[0])
        raise BadInput(f"the word embedding of token {bad} is not finite: is the model loaded?")
    return table - table.mean(0)


def principal_axes(table: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Of a centred table [V, E]: the sums of squares [d] along its d principal axes, and these, [E, d].

    The longest axis comes first, and each points where its largest loading is positive.
    """
    spread, axes = torch.linalg.eigh(table.T @ table)
    spread, axes = spread[-dim:].flip(0), axes[:, -dim:].flip(1)
    largest = axes.abs().argmax(0, keepdim=True)
    return spread, axes * axes.gather(0, largest).sign()


def contrasts_kept(words: Tensor, axes: Tensor) -> float:
    """Which share of what tells words apart is left on some axes: no reader can see the rest.

    The mean over pairs of words of ``|P (e_a - e_b)|^2 / |e_a - e_b|^2``, P the projection; words that
    are the same do not count, and of no pair the share is 1.

    Args:
        words: embeddings [K, E].
        axes: [E, d], orthonormal.
    """
    words = words.detach().to("cpu", torch.float64)
    kept, whole = torch.pdist(words @ axes).square(), torch.pdist(words).square()
    apart = whole > 0
    return float((kept[apart] / whole[apart]).mean()) if apart.any() else 1.0
