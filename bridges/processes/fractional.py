"""Fractional Brownian bridge."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bridges.processes.formulas import exact, mirrored
from bridges.processes.gaussian import GaussianBridge
from bridges.processes.parameters import Between, Scale


class FractionalBridge(GaussianBridge, name="fractional"):
    """Fractional Brownian motion conditioned to end at v: rough below Hurst 1/2, persistent above.

        K(s, t) = (s^(2 h) + t^(2 h) - |t - s|^(2 h)) / 2
        m(t) = K(t, 1)
        cov(s, t) = sigma^2 (K(s, t) - K(s, 1) K(t, 1))

    Hurst 1/2 is the Brownian bridge; any other is not Markov: what a path did tells where it goes. The
    covariance is the same read backwards in time, and is computed from whichever end is nearer, so that
    the variance keeps its digits at both ends.

    Source: arXiv 2305.17670, section 3.2 (marginals); Gasbarra, Sottinen, Valkeila, "Gaussian bridges",
    Stochastic Analysis and Applications, Abel Symposia 2 (2007).

    Args:
        hurst: h, from 0.05 to 0.95, or a list of d.
        sigma: scale, above 0, or a list of d; learned from 0.001 to 10. The free process has variance
            sigma^2 at t = 1.
        **options: of `GaussianBridge`.

    Raises:
        BadInput: for a number out of range; and as `GaussianBridge`.

    Examples:
        >>> bridges.get("fractional", hurst=0.9).variance(torch.tensor([0.5])).item()  # 1/4 at h = 1/2
        0.03717...
    """

    formula = "m(t) = (t^(2 hurst) + 1 - (1 - t)^(2 hurst)) / 2,  s2(t) = sigma^2 (t^(2 hurst) - m(t)^2)"
    purpose = (
        "Rough paths (hurst below 1/2) that forgive single layers, or persistent ones (above) that go "
        "on as they began. hurst 1/2 is `brownian`; any other is not Markov."
    )

    hurst = Between(0.05, 0.95)
    sigma = Scale(1e-3, 10)

    def __init__(
        self, hurst: float | list[float] = 0.75, sigma: float | list[float] = 1.0, **options: Any
    ) -> None:
        super().__init__(**options)
        self.hurst = hurst
        self.sigma = sigma

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        factor = self._free(self.per_dimension(t.to(torch.float64)), exact(1.0))
        return factor, self.covariance(t, t)

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        early, late = (self.per_dimension(x) for x in mirrored(s, t))
        one = exact(1.0)
        value = self._free(early, late) - self._free(early, one) * self._free(late, one)
        return exact(self.sigma) ** 2 * value

    def _free(self, early: Tensor, late: Tensor) -> Tensor:
        """K at early <= late; late^2h - (late - early)^2h is computed as one."""
        power = 2 * exact(self.hurst)
        share = early / torch.where(late > 0, late, 1)
        apart = share < 1  # at 1 the logarithm is infinite and its gradient no number
        lost = torch.expm1(power * torch.log1p(-torch.where(apart, share, 0)))
        return (early**power - late**power * torch.where(apart, lost, -1)) / 2
