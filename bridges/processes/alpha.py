"""Alpha-pinned Brownian motion."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bridges.processes.formulas import exact, fall, ordered
from bridges.processes.gaussian import GaussianBridge
from bridges.processes.parameters import Positive, Scale


class AlphaBridge(GaussianBridge, name="alpha"):
    """Brownian motion drawn to v with force alpha: dX = alpha (v - X) / (1 - t) dt + sigma dW.

        m(t) = 1 - (1 - t)^alpha
        s2(t) = sigma^2 ((1 - t) - (1 - t)^(2 alpha)) / (2 alpha - 1)
        cov(s, t) = ((1 - t) / (1 - s))^alpha s2(s),  s <= t

    A strong force (alpha above 1) brings the path near v early, a weak one keeps it free until the last
    layers; alpha = 1 is the Brownian bridge. At alpha = 1/2 the variance is its limit,
    ``-sigma^2 (1 - t) log(1 - t)``. With ``l = -log(1 - t)`` and ``delta = |alpha - 1/2|`` it is
    ``sigma^2 exp(-(alpha + 1/2 - delta) l) (1 - exp(-2 delta l)) / (2 delta)``: no digit is lost there
    and nothing overflows.

    Source: Mansuy, "On a one-parameter generalization of the Brownian bridge and associated quadratic
    functionals", J. Theoret. Probab. 17 (2004).

    Args:
        alpha: force, above 0, or a list of d; learned from 0.01 to 50.
        sigma: diffusion, above 0, or a list of d; learned from 0.001 to 10.
        **options: of `GaussianBridge`.

    Raises:
        BadInput: for a number out of range; and as `GaussianBridge`.

    Examples:
        >>> bridges.get("alpha", alpha=3.0).mean(torch.tensor([0.5]), torch.ones(1, 1)).item()
        0.875
    """

    formula = "m(t) = 1 - (1 - t)^alpha,  s2(t) = sigma^2 ((1 - t) - (1 - t)^(2 alpha)) / (2 alpha - 1)"
    purpose = (
        "How early the layers should commit: alpha above 1 brings the mean near v early and narrows the"
        " last layers, alpha below 1 leaves them free until the end. alpha 1 is `brownian`. Markov."
    )

    markov = True
    alpha = Positive(1e-2, 50)
    sigma = Scale(1e-3, 10)

    def __init__(
        self, alpha: float | list[float] = 2.0, sigma: float | list[float] = 1.0, **options: Any
    ) -> None:
        super().__init__(**options)
        self.alpha = alpha
        self.sigma = sigma

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        open_, age = _age(self.per_dimension(t.to(torch.float64)))
        factor = torch.where(open_, -torch.expm1(-exact(self.alpha) * age), 1)
        return factor, self.covariance(t, t)

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        early, late = (self.per_dimension(x) for x in ordered(s, t))
        alpha, (_, start), (open_, end) = exact(self.alpha), _age(early), _age(late)
        distance = (alpha - 0.5).abs()
        variance = torch.exp(-(alpha + 0.5 - distance) * start) * start * fall(2 * distance * start)
        value = exact(self.sigma) ** 2 * variance * torch.exp(-alpha * (end - start))
        return torch.where(open_, value, 0)


def _age(t: Tensor) -> tuple[Tensor, Tensor]:
    """Whether t is below 1, and -log(1 - t) where it is; the force is constant in this time."""
    open_ = t < 1
    return open_, -torch.log1p(-torch.where(open_, t, 0))
