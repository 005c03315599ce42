"""Ornstein-Uhlenbeck bridge."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bridges.base import GaussianBridge, check_positive


class OUBridge(GaussianBridge, name="ou"):
    r"""Ornstein-Uhlenbeck process, dX = -theta X dt + sigma dW, conditioned to end at v.

    .. math:: m(t) = \frac{\sinh \theta t}{\sinh \theta}, \quad
              s^2(t) = \frac{\sigma^2}{\theta}
                       \frac{\sinh \theta t \, \sinh \theta (1 - t)}{\sinh \theta}

    theta -> 0 gives the Brownian bridge. The formulas are evaluated through expm1, so that neither a
    tiny nor a large theta loses digits or overflows.

    Source: arXiv 2305.17670, section 3.2.

    Args:
        theta: mean reversion, above 0.
        sigma: diffusion, above 0.
    """

    formula = (
        "m(t) = sinh(theta t) / sinh(theta),  "
        "s2(t) = sigma^2 / theta sinh(theta t) sinh(theta (1 - t)) / sinh(theta)"
    )

    def __init__(self, theta: float = 1.0, sigma: float = 1.0) -> None:
        super().__init__()
        check_positive(theta=theta, sigma=sigma)
        self.theta = theta
        self.sigma = sigma

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # sinh(theta t) / sinh(theta) with the growing exponentials divided out
        rise = torch.expm1(-2 * self.theta * t) / math.expm1(-2 * self.theta)
        return torch.exp(-self.theta * (1 - t)) * rise, self.covariance(t, t)

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        early, late = torch.minimum(s, t), torch.maximum(s, t)
        rise = torch.expm1(-2 * self.theta * early) / math.expm1(-2 * self.theta)
        fall = torch.expm1(-2 * self.theta * (1 - late)) / (-2 * self.theta)
        return self.sigma**2 * torch.exp(self.theta * (early - late)) * rise * fall
