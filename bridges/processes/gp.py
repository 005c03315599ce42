"""Any stationary Gaussian process, pinned."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bridges.errors import check_name
from bridges.processes.formulas import exact, mirrored
from bridges.processes.gaussian import GaussianBridge
from bridges.processes.parameters import Between, Scale


class StationaryBridge(GaussianBridge):
    """A stationary Gaussian process with any kernel, conditioned to be 0 at 0 and v at 1.

    With r the kernel's correlation and ``q(x) = 1 - r(x)``, conditioning on the value 0 at 0, then
    on the value at 1, gives

        g(s, t) = r(t - s) - r(s) r(t) = q(s) + q(t) - q(t - s) - q(s) q(t),  s <= t
        m(t) = g(t, 1) / g(1, 1)
        cov(s, t) = sigma^2 (g(s, t) - g(s, 1) g(t, 1) / g(1, 1))

    computed from q, not from r, and from the nearer end: where all correlations are nearly 1 the digits
    are in q. What is still lost grows towards the ends; the times of 128 layers are far enough.

    Args:
        sigma: the free process's standard deviation, above 0; much less is left between the ends of a
            process that varies slowly.

    Raises:
        BadInput: for a number out of range; and as `GaussianBridge`.

    Examples:
        A kernel of one's own is a subclass with `drop`.

        >>> class Rational(StationaryBridge, name="rational"):
        ...     def drop(self, lag):  # for the kernel r = 1 / (1 + lag^2)
        ...         return lag**2 / (1 + lag**2)
        >>> bridges.get("rational", sigma=2.0)
        Rational(sigma=2.0, likelihood=marginal)
    """

    formula = "m(t) = g(t, 1) / g(1, 1),  s2(t) = sigma^2 (g(t, t) - g(t, 1)^2 / g(1, 1))"

    nugget = 1e-6
    """Share of the variance that is white noise. Without any, layers close in time determine each other
    as far as float64 can tell where the process is smooth: their joint law has no Cholesky root."""

    sigma = Scale(1e-3, 10)

    def __init__(self, sigma: float | list[float] = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.sigma = sigma

    @abstractmethod
    def drop(self, lag: Tensor) -> Tensor:
        """How far correlation has dropped at a lag >= 0 in float64: q = 1 - r(lag), so 0 at 0."""

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        at = self.per_dimension(t.to(torch.float64))
        one = torch.ones_like(at)
        factor = self._pinned(at, one) / self._pinned(one, one)
        return factor, self.covariance(t, t)

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        early, late = (self.per_dimension(x) for x in mirrored(s, t))
        one = torch.ones_like(early)
        known = self._pinned(early, one) * self._pinned(late, one) / self._pinned(one, one)
        white = 1 + self.nugget * (early == late).to(torch.float64)
        value = exact(self.sigma) ** 2 * (self._pinned(early, late) - known) * white
        return value

    def _pinned(self, early: Tensor, late: Tensor) -> Tensor:
        """g: the correlation given the value at 0 alone."""
        first, second, between = self.drop(early), self.drop(late), self.drop(late - early)
        return first + (second - between) - first * second


class GPBridge(StationaryBridge, name="gp"):
    """A stationary Gaussian process with a kernel by name, conditioned to be 0 at 0 and v at 1.

    `StationaryBridge` has the formulas, and says how to bring a kernel of one's own. By name, with
    x = lag / lengthscale:

    - "matern12": ``r = exp(-x)``, the OU bridge with theta = 1 / lengthscale and the diffusion
      sqrt(2 theta) sigma; the only Markov one.
    - "matern32": ``r = (1 + sqrt(3) x) exp(-sqrt(3) x)``, once differentiable.
    - "matern52": ``r = (1 + sqrt(5) x + 5 x^2 / 3) exp(-sqrt(5) x)``, twice.
    - "rbf": ``r = exp(-x^2 / 2)``, smooth.

    The last two carry a millionth of their variance as white noise, see `StationaryBridge.nugget`.

    Source: Rasmussen, Williams, "Gaussian Processes for Machine Learning" (2006), chapters 2 and 4.

    Args:
        kernel: "matern12", "matern32", "matern52" or "rbf".
        lengthscale: from 0.05, where layers hardly know each other, to 10, beyond which the bridge
            changes in little but its scale. Learned too: of a "matern12" above about 2 a few thousand
            trajectories tell sigma^2 / lengthscale, but neither by itself.
        sigma: the free process's standard deviation, above 0.

    Raises:
        BadInput: for an unknown kernel, or a number out of range; and as `GaussianBridge`.
    """

    formula = f"{StationaryBridge.formula},  g(s, t) = r(|t - s|) - r(s) r(t),  r the kernel"
    purpose = (
        "A path as smooth as the kernel says, over the lengthscale that it says, in units of the whole "
        "depth. `matern12` is an `ou` with theta = 1 / lengthscale and is Markov, the others are not. "
        "Kernels of your own: subclass `bridges.StationaryBridge`."
    )

    lengthscale = Between(0.05, 10)

    def __init__(
        self,
        kernel: str = "matern32",
        lengthscale: float | list[float] = 0.5,
        sigma: float | list[float] = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(sigma, **options)
        self.kernel = check_name("kernel", kernel, _DROPS)
        self.lengthscale = lengthscale
        self.nugget = 0.0 if kernel in ("matern12", "matern32") else StationaryBridge.nugget

    def drop(self, lag: Tensor) -> Tensor:
        return _DROPS[self.kernel](lag / exact(self.lengthscale))


# The incomplete gamma function P(n, y) is 1 - e^-y times the first n terms of e^y, with all digits kept.
def _incomplete_gamma(n: int, y: Tensor) -> Tensor:
    value: Tensor = torch.special.gammainc(torch.full_like(y, n), y)
    return value


def _matern52(x: Tensor) -> Tensor:
    y = math.sqrt(5) * x
    return _incomplete_gamma(3, y) + y.square() * torch.exp(-y) / 6


_DROPS: dict[str, Callable[[Tensor], Tensor]] = {
    "matern12": lambda x: -torch.expm1(-x),
    "matern32": lambda x: _incomplete_gamma(2, math.sqrt(3) * x),
    "matern52": _matern52,
    "rbf": lambda x: -torch.expm1(-x.square() / 2),
}
