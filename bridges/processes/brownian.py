"""Brownian bridge."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bridges.processes.gaussian import GaussianBridge
from bridges.processes.parameters import Scale


class BrownianBridge(GaussianBridge, name="brownian"):
    """Brownian motion conditioned to end at v.

        m(t) = t
        s2(t) = sigma^2 t (1 - t)
        cov(s, t) = sigma^2 s (1 - t),  s <= t

    Source: arXiv 2305.17670, section 3.2.

    Args:
        sigma: diffusion, above 0, or a list of d; learned from 0.001 to 10.
        **options: of `GaussianBridge`.

    Raises:
        BadInput: for a number out of range; and as `GaussianBridge`.
    """

    formula = "m(t) = t,  s2(t) = sigma^2 t (1 - t)"
    purpose = "The paper's bridge: even progress through depth. Markov."
    markov = True
    sigma = Scale(1e-3, 10)

    def __init__(self, sigma: float | list[float] = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.sigma = sigma

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = self.per_dimension(t)
        variance: Tensor = self.sigma**2 * t * (1 - t)
        return t, variance

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        s, t = self.per_dimension(s), self.per_dimension(t)
        value: Tensor = self.sigma**2 * torch.minimum(s, t) * (1 - torch.maximum(s, t))
        return value
