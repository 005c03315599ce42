"""Integrated Brownian motion, pinned."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bridges.processes.formulas import exact, ordered
from bridges.processes.gaussian import GaussianBridge
from bridges.processes.parameters import Scale


class SmoothBridge(GaussianBridge, name="smooth"):
    """Integrated Brownian motion pinned in value at both ends, with its velocity free at both.

        m(t) = t
        s2(t) = sigma^2 t^2 (1 - t)^2 / 3
        cov(s, t) = sigma^2 s (1 - t) (1 - s^2 - (1 - t)^2) / 6,  s <= t

    The free process is ``X(t) = V t + I(t)``, I(t) the integral of W up to t, with a first velocity V
    of which nothing is known beforehand (a normal whose variance goes to infinity). Given X(1) = v this
    is ``V = v - I(1)``, so ``X(t) = t v + I(t) - t I(1)``; with ``cov(I(s), I(t)) = s^2 (3 t - s) / 6``
    the covariance follows, the Green's function of a simply supported beam. X has a velocity, and
    without it its past is needed: it is not Markov. Its mean given points on the way is their natural
    cubic spline.

    The last bracket is computed as ``2 s (1 - t) + (t - s) (2 - t + s)``, a sum of positive terms.

    Source: Wahba, "Improper priors, spline smoothing and the problem of guarding against model errors in
    regression", J. R. Statist. Soc. B 40 (1978).

    Args:
        sigma: scale of the acceleration, above 0, or a list of d; learned from 0.001 to 10.
        **options: of `GaussianBridge`.

    Raises:
        BadInput: for a number out of range; and as `GaussianBridge`.

    Examples:
        >>> bridges.get("smooth").variance(torch.tensor([0.5])).item()  # a Brownian bridge has 1/4
        0.020833...
    """

    formula = "m(t) = t,  s2(t) = sigma^2 t^2 (1 - t)^2 / 3"
    purpose = (
        "Layers that hardly bend: a path of random acceleration, nearly straight, with a tube less than"
        " a third as wide as that of `brownian`. Not Markov."
    )

    sigma = Scale(1e-3, 10)

    def __init__(self, sigma: float | list[float] = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.sigma = sigma

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.per_dimension(t), self.covariance(t, t)

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        early, late = (self.per_dimension(x) for x in ordered(s, t))
        left = 1 - late
        bracket = 2 * early * left + (late - early) * (1 + left + early)
        value = exact(self.sigma) ** 2 * early * left * bracket / 6
        return value
