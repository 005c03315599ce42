"""What a bridge is: a process on [0, 1] that starts at 0 and ends at a given point."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bridges.errors import BadInput
from bridges.latent import LatentMap
from bridges.registry import constructor_defaults, register
from bridges.trajectory import Trajectory
from kernels.bridge_nll import bridge_nll


class Bridge(nn.Module, ABC):
    """A process pinned at 0 at t = 0 and at an end point at t = 1, in d independent dimensions.

    A subclass that names itself, ``class Late(GaussianBridge, name="late")``, is registered and found
    by `bridges.get`. Every constructor argument must be kept as an attribute of the same name: that
    is how a bridge is saved.
    """

    registered_name: ClassVar[str | None] = None
    formula: ClassVar[str] = ""

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.registered_name = name
        if name is not None:
            register(name, cls)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The constructor's arguments with their present values."""
        return {name: getattr(self, name) for name in constructor_defaults(type(self))}

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.hyperparameters.items())

    @abstractmethod
    def mean(self, t: Tensor, end: Tensor) -> Tensor:
        """Mean at times t [T] for end points [N, d]: [T, N, d]."""

    @abstractmethod
    def variance(self, t: Tensor) -> Tensor:
        """Variance of each dimension at times t [T]: [T]."""

    @abstractmethod
    def sample(self, t: Tensor, end: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Joint samples at increasing times t [T] for end points [N, d]: [T, N, d]."""

    @abstractmethod
    def log_prob(self, z: Tensor, t: Tensor, end: Tensor) -> Tensor:
        """Normalised log-density of z [T, N, d] at each time t [T] by itself: [T, N]."""

    @abstractmethod
    def cost(
        self,
        latent_map: LatentMap,
        trajectory: Trajectory,
        end: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The running cost of each token's trajectory, a mean over layers where layers are summed over.

        Args:
            latent_map: made by `make_map`.
            trajectory: of N tokens.
            end: [N, d] end points, or [K, N, d]: K of them for each token.
            generator: fixes the noise of a cost that draws any; the others take no notice of it. All K
                end points see the same noise.

        Returns:
            [N] or [K, N].
        """

    def terms(self, trajectory: Trajectory) -> int:
        """How many log-likelihoods `cost` is the mean of: 1 unless it is a mean over layers."""
        return 1

    def make_map(self, hidden_size: int, widths: Sequence[int]) -> LatentMap:
        """The trainable map that `cost` reads the states with: g, unless the bridge needs another."""
        return LatentMap(hidden_size, widths)


class GaussianBridge(Bridge):
    """A bridge whose law at every time is Gaussian with mean ``m(t) v`` and variance ``s2(t)``.

    `marginal` alone makes a bridge: the running cost, `mean`, `variance` and `log_prob` follow. With
    `covariance` it can also `sample`.

    Example:
        >>> class Late(GaussianBridge, name="late"):
        ...     def marginal(self, t):
        ...         return t**3, t * (1 - t)
    """

    @abstractmethod
    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean factor m(t) and variance s2(t) at times t [T] in [0, 1]: two [T]."""

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        """Covariance of one dimension between times s and t, elementwise with broadcasting.

        Raises:
            NotImplementedError: if the subclass gives its marginal law only.
        """
        raise NotImplementedError(
            f"{type(self).__name__} defines marginal only; define covariance(s, t) for joint samples"
        )

    def mean(self, t: Tensor, end: Tensor) -> Tensor:
        factor, _ = self.marginal(check_times(t))
        return factor[:, None, None] * check_end(end)

    def variance(self, t: Tensor) -> Tensor:
        return self.marginal(check_times(t))[1]

    def sample(self, t: Tensor, end: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Exact joint samples, [T, N, d]; times must increase strictly. 0 and 1 are the pinned ends.

        The dtype is that of ``end``; the law is computed in float64.

        Raises:
            BadInput: for times outside [0, 1] or not increasing.
            NotImplementedError: if the bridge has no `covariance`.
        """
        t, end = check_times(t), check_end(end)
        if (t.diff() <= 0).any():
            raise BadInput(f"times must increase strictly, got {t.tolist()}")
        exact = t.to(torch.float64)
        free = (exact > 0) & (exact < 1)
        inner = exact[free]
        root = torch.linalg.cholesky(self.covariance(inner[:, None], inner[None, :]))
        noise = torch.randn(
            len(inner), *end.shape, generator=generator, dtype=torch.float64, device=end.device
        )
        path = self.mean(exact, end.to(torch.float64))
        path[free] += torch.tensordot(root, noise, 1)
        path[exact == 0] = 0
        path[exact == 1] = end.to(torch.float64)  # a mean factor of 1 up to rounding is not enough
        return path.to(end.dtype)

    def log_prob(self, z: Tensor, t: Tensor, end: Tensor) -> Tensor:
        """Normalised log-density of z [T, N, d] at each time by itself, summed over d: [T, N].

        Raises:
            BadInput: for times not strictly inside (0, 1), where the bridge has no density, and for
                shapes that do not fit.
        """
        t, end = check_times(t), check_end(end)
        if ((t <= 0) | (t >= 1)).any():
            raise BadInput(f"log_prob needs times inside (0, 1), got {t.tolist()}")
        if z.shape != (len(t), *end.shape):
            raise BadInput(f"z has shape {tuple(z.shape)}, expected {(len(t), *end.shape)}, [T, N, d]")
        factor, variance = (x[:, None, None] for x in self.marginal(t))
        square = (z - factor * end).square() / variance
        return -0.5 * (square + variance.log() + math.log(2 * math.pi)).sum(-1)

    def transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The law at t given the state y at s < t of a Markov bridge: decay y + gain v, and variance.

        Elementwise over s and t, in float64; only for bridges where `is_markov`.
        """
        s, t = s.to(torch.float64), t.to(torch.float64)
        start, between = self.covariance(s, s), self.covariance(s, t)
        decay = torch.where(start > 0, between / start.where(start > 0, 1), 0)
        gain = self.marginal(t)[0] - decay * self.marginal(s)[0]
        return decay, gain, self.covariance(t, t) - decay * between

    def is_markov(self) -> bool:
        """Whether the covariance is that of a Markov process: c(s,u) c(t,t) = c(s,t) c(t,u)."""
        s, t, u = torch.tensor(
            [[0.1, 0.3, 0.6], [0.2, 0.5, 0.9], [0.05, 0.5, 0.55]], dtype=torch.float64
        ).T
        try:
            left = self.covariance(s, u) * self.covariance(t, t)
            right = self.covariance(s, t) * self.covariance(t, u)
        except NotImplementedError:
            return False
        return bool(torch.allclose(left, right, rtol=1e-6, atol=0))

    def terms(self, trajectory: Trajectory) -> int:
        return len(trajectory.states)

    def cost(
        self,
        latent_map: LatentMap,
        trajectory: Trajectory,
        end: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Mean over layers of ``sum_d (z_i - m(t_i) v)^2 / (2 s2(t_i))``, for each token.

        The published cost (arXiv 2305.17670, section 3.2): the normaliser is left out, which changes
        no gradient while the bridge's parameters are fixed.
        """
        t = trajectory.times()
        mean, variance = self.marginal(t)
        return bridge_nll(
            trajectory.states,
            trajectory.context,
            trajectory.rows,
            latent_map.weights,
            latent_map.biases,
            end,
            None,
            mean,
            1 / variance,
            reduction="none",
        )


def check_times(t: Tensor) -> Tensor:
    """Times are a floating vector [T] in [0, 1]."""
    if t.dim() != 1 or not t.is_floating_point() or not ((t >= 0) & (t <= 1)).all():
        raise BadInput(f"times must be a floating vector [T] in [0, 1], got {t!r}")
    return t


def check_end(end: Tensor) -> Tensor:
    """End points are [N, d]."""
    if end.dim() != 2:
        raise BadInput(f"end points must be [N, d], got {tuple(end.shape)}")
    return end


def check_positive(**values: float) -> None:
    """Constructor check: every value is a finite number above zero."""
    for name, value in values.items():
        if not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
            raise BadInput(f"{name}={value!r}: expected a finite number above 0")
