"""Brownian bridge that runs by a clock of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bridges.errors import BadInput, is_number, is_whole, shown
from bridges.processes.gaussian import GaussianBridge
from bridges.processes.parameters import Learnable, Scale

_SLOWEST = 0.05  # of the mean speed: a clock that stands still would ask for states that do too

_PARTS = 4096  # at most


class Speeds(Learnable):
    """Speeds of a clock in equal parts of [0, 1], of mean 1, each at least 0.05 of it.

    The free numbers' softmax shares out what is above the slowest speed.
    """

    def checked(self, value: Any, *, learned: bool) -> list[float]:
        if isinstance(value, int) and is_whole(value, 1, _PARTS):
            return [1.0] * value
        numbers = isinstance(value, (list, tuple)) and all(map(is_number, value))
        mean = sum(value) / len(value) if numbers and value else 0.0
        if mean <= 0 or min(value) < _SLOWEST * mean * (1 - 1e-4):  # written speeds are rounded
            raise BadInput(
                f"{self.name}={shown(value)}: expected a whole number of parts above 0, or the speed in "
                f"each part, none below {_SLOWEST} of their mean; {_PARTS} parts at most"
            )
        return [x / mean for x in value]

    def written(self, bridge: nn.Module) -> Any:
        value = super().written(bridge)
        return len(value) if set(value) == {1.0} else value

    def free(self, value: Tensor) -> Tensor:
        share = (value - _SLOWEST) / (1 - _SLOWEST)
        return share.clamp(min=1e-6).log()

    def constrained(self, free: Tensor) -> Tensor:
        return 1 + (1 - _SLOWEST) * (len(free) * torch.softmax(free, 0) - 1)


class ClockBridge(GaussianBridge, name="clock"):
    """Brownian bridge by a learned clock: layers need not progress evenly.

        m(t) = tau(t)
        s2(t) = sigma^2 tau(t) (1 - tau(t))
        cov(s, t) = sigma^2 tau(s) (1 - tau(t)),  s <= t

    The clock tau is piecewise linear, rises from tau(0) = 0 to tau(1) = 1 and is learned unless
    ``learn`` says otherwise. At an even speed it is the Brownian bridge.

    Args:
        clock: how many equal parts of [0, 1] have a speed of their own, all even at first; or a list of
            those speeds, of which only the proportions count, none below 0.05 of their mean. A model
            with L layers has L + 2 gaps between its times: parts finer than these cannot be learned.
        sigma: diffusion, above 0, or a list of d; learned from 0.001 to 10.
        learn: as `GaussianBridge`; "clock" and "sigma" can be learned.
        **options: of `GaussianBridge`.

    Raises:
        BadInput: for a number out of range; and as `GaussianBridge`.
    """

    formula = "m(t) = tau(t),  s2(t) = sigma^2 tau(t) (1 - tau(t)),  tau piecewise linear, increasing"
    purpose = (
        "Layers that need not progress evenly: the clock is learned with the map, unless `learn` says "
        "otherwise. Markov."
    )
    markov = True
    clock = Speeds()
    sigma = Scale(1e-3, 10)

    def __init__(
        self,
        clock: int | list[float] = 8,
        sigma: float | list[float] = 1.0,
        *,
        learn: str | Sequence[str] = "clock",
        **options: Any,
    ) -> None:
        super().__init__(learn=learn, **options)
        self.clock = clock
        self.sigma = sigma

    def tau(self, t: Tensor) -> Tensor:
        """The clock at times t, elementwise, in float64."""
        t = t.to(torch.float64)
        speeds = torch.as_tensor(self.clock, dtype=torch.float64, device=t.device)
        # As a deviation from t, so that an even clock is t to the last digit and the ends are exact.
        excess, zero = speeds - 1, speeds.new_zeros(1)
        ahead = torch.cat([zero, excess.cumsum(0)[:-1], zero]) / len(speeds)
        part = (t.detach() * len(speeds)).floor().long()
        into = t - part.to(t.dtype) / len(speeds)
        return t + ahead[part] + torch.cat([excess, zero])[part] * into

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        tau = self.per_dimension(self.tau(t))
        variance: Tensor = self.sigma**2 * tau * (1 - tau)
        return tau, variance

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        at = [self.per_dimension(self.tau(x)) for x in (s, t)]
        value: Tensor = self.sigma**2 * torch.minimum(*at) * (1 - torch.maximum(*at))
        return value
