"""Gaussian laws in time: moments, samples and densities of a bridge, from m(t), s2(t) and c(s, t)."""

from __future__ import annotations

import functools
import itertools
import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from bridges.processes.base import Process, check_density, check_end, check_increasing, check_times
from bridges.processes.law_checks import check_covariance, check_marginal, check_values
from bridges.processes.likelihood import cholesky, colour, columns, diagonal, normaliser, whiten


class GaussianLaw(Process):
    """A process whose law at every time is Gaussian with mean ``m(t) v`` and variance ``s2(t)``.

    What `bridges.GaussianBridge` makes a cost of; it is that class that is subclassed.
    """

    markov: ClassVar[bool] = False
    """Markov whatever its parameters are: the path likelihood of a learned one may go by steps."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, check in (("marginal", check_marginal), ("covariance", check_covariance)):
            if name in vars(cls):
                setattr(cls, name, _in_dtype_of_times(vars(cls)[name], check))
        if "covariance" in vars(cls) and "markov" not in vars(cls):
            cls.markov = False  # what is said of one covariance is not inherited by another

    @property
    def dims(self) -> int | None:
        """The number of latent dimensions where a parameter has one value for each; else None."""
        return self.__dict__.get("_dims")

    def per_dimension(self, t: Tensor) -> Tensor:
        """Times to compute with: [..., 1] where a parameter is [d], else as they are."""
        return t if self.dims is None else t.unsqueeze(-1)

    @abstractmethod
    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean factor m(t) and variance s2(t) at times t [T] in [0, 1]: two [T].

        Where a parameter is given per dimension each is [T, d] or [T, 1]. The mean is the factor times
        v, so one that is not 0 where v is 0 has no bridge here. A subclass computes in the dtype of t,
        float64 where it matters, or in another: who calls gets that of t.
        """

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        """Covariance of one dimension between times s and t, elementwise with broadcasting.

        Where a parameter is given per dimension the result has a last axis more, of d. As `marginal`, a
        subclass may compute in any dtype.

        Raises:
            NotImplementedError: if the subclass gives its marginal law only.
        """
        raise NotImplementedError(
            f"{type(self).__name__} defines marginal only; define covariance(s, t) for joint samples"
        )

    def verify(self, times: Tensor) -> None:
        super().verify(times)
        check_values(self, times.to(self._device))

    @property
    def _device(self) -> torch.device:
        return next(itertools.chain(self.parameters(), self.buffers()), torch.empty(0)).device

    @property
    def joint(self) -> bool:
        return type(self).covariance is not GaussianLaw.covariance

    def mean_factor(self, t: Tensor) -> Tensor:
        return self.marginal(t)[0]

    def mean(self, t: Tensor, end: Tensor) -> Tensor:
        factor, _ = self.marginal(check_times(t))
        return columns(factor) * check_end(end)

    def variance(self, t: Tensor) -> Tensor:
        """Variance at times t [T]: [T], or [T, d] where a parameter is given per dimension."""
        return self.marginal(check_times(t))[1]

    def sample(self, t: Tensor, end: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Exact joint samples, [T, N, d]; times must increase strictly. 0 and 1 are the pinned ends.

        The dtype is that of ``end``; the law is computed in float64.

        Raises:
            BadInput: for times outside [0, 1] or not increasing.
            NotImplementedError: if the bridge has no `covariance`.
        """
        t, end = check_times(t), check_end(end)
        check_increasing(t)
        exact = t.to(torch.float64)
        free = (exact > 0) & (exact < 1)
        inner = exact[free]
        root = cholesky(self.covariance(inner[:, None], inner[None, :]))
        noise = torch.randn(
            len(inner), *end.shape, generator=generator, dtype=torch.float64, device=end.device
        )
        path = self.mean(exact, end.to(torch.float64))
        path[free] += colour(root, noise)
        path[exact == 0] = 0
        path[exact == 1] = end.to(torch.float64)  # a mean factor of 1 up to rounding is not enough
        return path.to(end.dtype)

    def log_prob(self, z: Tensor, t: Tensor, end: Tensor) -> Tensor:
        """Normalised log-density of z [T, N, d] at each time by itself, summed over d: [T, N].

        Raises:
            BadInput: for times not strictly inside (0, 1), where the bridge has no density, and for
                shapes that do not fit.
        """
        check_density(z, t, end)
        factor, variance = (columns(x) for x in self.marginal(t))
        square = (z - factor * end).square() / variance
        return -0.5 * (square + variance.log() + math.log(2 * math.pi)).sum(-1)

    def log_prob_path(self, z: Tensor, t: Tensor, end: Tensor) -> Tensor:
        """Normalised joint log-density of paths z [T, N, d] at increasing times t [T]: [N].

        In float64, returned in the dtype of z.

        Raises:
            BadInput: as `log_prob`, for times that do not increase strictly, and where the covariance is
                not positive definite in float64.
            NotImplementedError: if the bridge has no `covariance`.
        """
        check_density(z, t, end)
        check_increasing(t)
        exact = t.to(torch.float64)
        factor, _ = self.marginal(exact)
        root = cholesky(self.covariance(exact[:, None], exact[None]))
        white = whiten(root, z.double() - columns(factor) * end.double())
        norm = len(t) * normaliser(diagonal(root), z.shape[-1])
        return (-0.5 * white.square().sum((0, 2)) - norm).to(z.dtype)

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
            [[0.1, 0.3, 0.6], [0.2, 0.5, 0.9], [0.05, 0.5, 0.55]],
            dtype=torch.float64,
            device=self._device,
        ).T
        try:
            left = self.covariance(s, u) * self.covariance(t, t)
            right = self.covariance(s, t) * self.covariance(t, u)
        except NotImplementedError:
            return False
        return bool(torch.allclose(left, right, rtol=1e-6, atol=0))


def _in_dtype_of_times(formula: Callable[..., Any], check: Callable[..., None]) -> Callable[..., Any]:
    """A method of times whose result is checked, and in their dtype, whatever it computes in."""

    @functools.wraps(formula)
    def cast(law: GaussianLaw, *times: Tensor) -> Any:
        dtype = functools.reduce(torch.promote_types, (t.dtype for t in times))
        result = formula(law, *times)
        check(law, result, times)
        return tuple(x.to(dtype) for x in result) if isinstance(result, tuple) else result.to(dtype)

    return cast
