"""Brownian bridge."""

from __future__ import annotations

import torch
from torch import Tensor

from bridges.base import GaussianBridge, check_positive


class BrownianBridge(GaussianBridge, name="brownian"):
    r"""Brownian motion conditioned to end at v.

    .. math:: m(t) = t, \quad s^2(t) = \sigma^2 t (1 - t), \quad
              \operatorname{cov}(s, t) = \sigma^2 \min(s, t) (1 - \max(s, t))

    Source: arXiv 2305.17670, section 3.2.

    Args:
        sigma: diffusion, above 0.
    """

    formula = "m(t) = t,  s2(t) = sigma^2 t (1 - t)"

    def __init__(self, sigma: float = 1.0) -> None:
        super().__init__()
        check_positive(sigma=sigma)
        self.sigma = sigma

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return t, self.sigma**2 * t * (1 - t)

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        return self.sigma**2 * torch.minimum(s, t) * (1 - torch.maximum(s, t))
