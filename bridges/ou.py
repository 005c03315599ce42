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
        exact = t.to(torch.float64)  # theta t may underflow in t's own dtype
        rise = torch.expm1(-2 * self.theta * exact) / math.expm1(-2 * self.theta)
        factor = torch.exp(-self.theta * (1 - exact)) * rise
        return factor.to(t.dtype), self.covariance(t, t)

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        exact = s.to(torch.float64), t.to(torch.float64)
        early, late = torch.minimum(*exact), torch.maximum(*exact)
        rise = torch.expm1(-2 * self.theta * early) / math.expm1(-2 * self.theta)
        fall = torch.expm1(-2 * self.theta * (1 - late)) / (-2 * self.theta)
        value = self.sigma**2 * torch.exp(self.theta * (early - late)) * rise * fall
        return value.to(torch.promote_types(s.dtype, t.dtype))
