"""Ornstein-Uhlenbeck bridge."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bridges.processes.formulas import exact, ordered
from bridges.processes.gaussian import GaussianBridge
from bridges.processes.parameters import Positive, Scale


class OUBridge(GaussianBridge, name="ou"):
    """Ornstein-Uhlenbeck process, dX = -theta X dt + sigma dW, conditioned to end at v.

        m(t) = sinh(theta t) / sinh(theta)
        s2(t) = sigma^2 / theta  sinh(theta t) sinh(theta (1 - t)) / sinh(theta)
        cov(s, t) = sigma^2 / theta  sinh(theta s) sinh(theta (1 - t)) / sinh(theta),  s <= t

    theta -> 0 gives the Brownian bridge. The formulas are evaluated through expm1, so that neither a
    tiny nor a large theta loses digits or overflows.

    Source: arXiv 2305.17670, section 3.2.

    Args:
        theta: mean reversion, above 0, or a list of d; learned from 0.01 to 50. Below about 1/2 it
            changes the law by its square, too little for a few thousand trajectories to tell it from 0.
        sigma: diffusion, above 0, or a list of d; learned from 0.001 to 10.
        **options: of `GaussianBridge`.

    Raises:
        BadInput: for a number out of range; and as `GaussianBridge`.
    """

    formula = (
        "m(t) = sinh(theta t) / sinh(theta),  "
        "s2(t) = sigma^2 / theta sinh(theta t) sinh(theta (1 - t)) / sinh(theta)"
    )
    purpose = (
        "Late commitment: the larger theta, the longer the path stays around 0 and the later it turns "
        "to v. Small theta gives `brownian`. Markov."
    )
    markov = True
    theta = Positive(1e-2, 50)
    sigma = Scale(1e-3, 10)

    def __init__(
        self,
        theta: float | list[float] = 1.0,
        sigma: float | list[float] = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.theta = theta
        self.sigma = sigma

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # sinh(theta t) / sinh(theta) with the growing exponentials divided out
        at = self.per_dimension(t.to(torch.float64))  # theta t may underflow in t's own dtype
        theta = exact(self.theta)
        rise = torch.expm1(-2 * theta * at) / torch.expm1(-2 * theta)
        factor = torch.exp(-theta * (1 - at)) * rise
        return factor, self.covariance(t, t)

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        early, late = (self.per_dimension(x) for x in ordered(s, t))
        theta = exact(self.theta)
        rise = torch.expm1(-2 * theta * early) / torch.expm1(-2 * theta)
        fall = torch.expm1(-2 * theta * (1 - late)) / (-2 * theta)
        value: Tensor = self.sigma**2 * torch.exp(theta * (early - late)) * rise * fall
        return value
