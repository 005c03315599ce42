"""What the first layers of a trajectory say of its end point under a Gaussian law: filtering."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bridges.latent.label_ends import LabelEnds
from bridges.processes.likelihood import Whitened


@dataclass(frozen=True)
class Evidence:
    """Of a latent trajectory's first k layers for an end point v, quadratic in v.

        log p(z_1 .. z_k | v) = const + sum over i <= k of a_ki (z_i . v) - e_k |v|^2 / 2

    Of a Markov process conditioned to end at v (Brownian, OU, a clock's) only the layer itself is left
    in the sum: what came before tells nothing more of the end. Not so of "alpha", Markov as it is: it is
    drawn to v with a strength of its own, so that every step tells of v. It is that of the layer by
    itself too where ``likelihood`` is "marginal".

    Attributes:
        toward: a, float64 [L, L, D], a layer's own row first; 0 beyond it. D is d, or 1 where all
            dimensions are alike.
        away: e, float64 [L, D].
    """

    toward: Tensor
    away: Tensor

    @classmethod
    def of_law(cls, unit: Whitened, *, joint: bool) -> Evidence:
        """From the law's answer to unit latents.

        Args:
            unit: the whitened trajectories [L, L, D], of which number n is 1 in layer n and 0 elsewhere.
            joint: whether evidence adds up over layers; else each is by itself.
        """
        pull = unit.precision * unit.mean
        toward, away = pull[:, None] * unit.value, pull * unit.mean
        if joint:
            toward, away = toward.cumsum(0), away.cumsum(0)
        return cls(toward, away.expand(-1, toward.shape[-1]))

    def log_odds(self, latent: Tensor, labels: LabelEnds) -> Tensor:
        """Of each label, from the latents up to each layer, up to what is the same for all labels.

        Args:
            latent: [L, N, d].
            labels: C of them; of several words the mixture.

        Returns:
            float64 [L, N, C].
        """
        words = labels.vectors.flatten(0, 1).double()  # [C K, d]
        gathered = torch.einsum(
            "kid,ind->knd", self.toward.expand(-1, -1, words.shape[1]), latent.double()
        )
        evidence = gathered @ words.T - (self.away @ self._squares(words) / 2)[:, None]
        each = evidence.unflatten(-1, labels.log_weights.shape) + labels.log_weights.double()
        return torch.logsumexp(each, -1)

    def _squares(self, words: Tensor) -> Tensor:
        """Of words [W, d], as the law's dimensions are: [D, W]."""
        squares = words.square()
        return squares.T if self.away.shape[1] > 1 else squares.sum(1)[None]
