"""Bridges whose law at every time is Gaussian: what a new process subclasses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bridges.errors import BadInput, check_name
from bridges.latent.latent_map import Layers, Reader
from bridges.latent.lens import Lens
from bridges.latent.trajectory import Times, Trajectory
from bridges.processes.constants import constant
from bridges.processes.evidence import Evidence
from bridges.processes.gaussian_law import GaussianLaw
from bridges.processes.law_checks import check_parameters
from bridges.processes.likelihood import (
    LIKELIHOODS,
    Joint,
    Steps,
    Whitened,
    cholesky,
    latents,
    normaliser,
    normalisers,
    steps_cost,
    whitened_cost,
    whitened_costs,
)
from bridges.processes.parameters import checked_names


class GaussianBridge(GaussianLaw):
    """A bridge whose law at every time is Gaussian with mean ``m(t) v`` and variance ``s2(t)``.

    `marginal` alone makes a bridge: the running cost, `mean`, `variance` and `log_prob` follow. With
    `covariance` it can also `sample`, has a `log_prob_path`, and its cost can be the path likelihood.
    A constructor of its own hands on what it does not know: ``def __init__(self, sigma=1.0, **options)``
    with ``super().__init__(**options)`` first.

    Args:
        likelihood: of the cost. "marginal": each layer by itself, the published cost. "path": the joint
            law of the trajectory at all layers' times, on the same scale, over the number of layers.
        learn: names of parameters that `RunningCost.fit` learns with the latent map, "theta+sigma" or a
            list; the others stay as given. See `bridges.processes.parameters`. With any learned
            the normaliser is in the cost, which may then be negative.

    Raises:
        BadInput: for an unknown likelihood, a path likelihood without `covariance`, or a name in
            ``learn`` that the class cannot learn.

    Examples:
        >>> class Late(GaussianBridge, name="late"):
        ...     def marginal(self, t):
        ...         return t**3, t * (1 - t)
    """

    graphs = True

    def __init__(self, *, likelihood: str = "marginal", learn: str | Sequence[str] = "") -> None:
        super().__init__()
        check_name("likelihood", likelihood, LIKELIHOODS)
        if likelihood == "path" and not self.joint:
            raise BadInput(
                f"likelihood='path': {type(self).__name__} defines marginal only; define "
                "covariance(s, t), or use likelihood='marginal'"
            )
        self.likelihood = likelihood
        self.learn = checked_names(type(self), learn)
        self._by_steps: bool | None = None

    def verify(self, times: Tensor) -> None:
        if not self.learn:
            check_parameters(self)
        super().verify(times)

    def make_map(self, hidden_size: int, widths: Sequence[int]) -> Layers:
        self._check_dim(widths[-1])
        return super().make_map(hidden_size, widths)

    def make_lens(self, num_states: int, hidden_size: int, dim: int) -> Lens:
        self._check_dim(dim)
        return super().make_lens(num_states, hidden_size, dim)

    def _check_dim(self, dim: int) -> None:
        if self.dims is not None and self.dims != dim:
            raise BadInput(
                f"{type(self).__name__} has parameters for {self.dims} latent dimensions, but the "
                f"latent map ends in {dim}: give as many numbers, or latent_dim={self.dims}"
            )

    def terms(self, trajectory: Trajectory) -> int:
        return len(trajectory.states)

    def cost(
        self,
        latent_map: Reader,
        trajectory: Trajectory,
        end: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Minus the log-likelihood over the number of layers, for each token.

        With ``likelihood="marginal"`` the mean over layers of ``sum_d (z_i - m(t_i) v)^2 / 2 s2(t_i)``,
        the published cost (arXiv 2305.17670, section 3.2). With "path" mean and variance are those given
        the layer before, of a process with memory all layers before; of one layer it is the same cost.
        While every parameter is fixed the normaliser is left out: it changes no gradient then. Through a
        reader that guesses it is that of the guesses' density.
        """
        times, dim = trajectory.clock, end.shape[-1]
        law = self._kept(times, dim)
        if isinstance(law, Joint):
            path = self._whiten(latents(latent_map, trajectory, self._factor(times)), times, law)
            value = whitened_cost(path, end).to(latent_map.dtype)
        else:
            value = steps_cost(latent_map, trajectory, end, law)
        if self.learn:
            guesses = latent_map.guesses
            value = value + self._normaliser(law, times, dim, guesses=guesses).to(value.dtype)
        return value

    def by_layer(self, latent_map: Reader, trajectory: Trajectory, end: Tensor) -> Tensor:
        times, dim = trajectory.clock, end.shape[-1]
        law, factor = self._kept(times, dim), self._factor(times)
        path = self._whiten(latents(latent_map, trajectory, factor), times, law)
        costs = whitened_costs(path, end)
        if self.learn:
            guessed = factor if latent_map.guesses else None
            costs = costs + normalisers(law.variance, dim, guessed).to(costs)[:, None]
        return costs

    def law(self, t: Tensor, dim: int) -> Steps | Joint:
        """Of latent trajectories [L, N, d] at times t [L]."""
        if self._is_joint():
            root = cholesky(self.covariance(t[:, None], t[None]))
            return Joint.of(self.mean_factor(t), root, dim)
        return self._steps(t)

    def _kept(self, times: Times, dim: int) -> Steps | Joint:
        return constant(self, ("law", times, dim), lambda: self.law(times.tensor(), dim))

    def _whiten(self, latent: Tensor, times: Times, law: Steps | Joint) -> Whitened:
        return law.whiten(latent) if self.whitens else self.whitened(latent, times.tensor())

    def _normaliser(self, law: Steps | Joint, times: Times, dim: int, *, guesses: bool) -> Tensor:
        def make() -> Tensor:
            return normaliser(law.variance, dim, self.mean_factor(times.tensor()) if guesses else None)

        return constant(self, ("normaliser", times, dim, guesses), make)

    def _factor(self, times: Times) -> Tensor:
        return constant(self, ("factor", times), lambda: self.mean_factor(times.tensor()))

    @property
    def whitens(self) -> bool:
        """Whether `whitened` is by `law`, which is kept: a subclass may have one of its own."""
        return type(self).whitened is GaussianBridge.whitened

    def whitened(self, latent: Tensor, t: Tensor) -> Whitened:
        """A latent trajectory [L, N, d] at times t [L], its layers made independent of each other."""
        return self.law(t, latent.shape[-1]).whiten(latent)

    def evidence(self, t: Tensor) -> Evidence:
        count = len(t)
        unit = torch.eye(count, dtype=torch.float64, device=t.device)[:, :, None]
        unit = unit.expand(-1, -1, self.dims or 1)
        with torch.no_grad():
            return Evidence.of_law(self.whitened(unit, t.double()), joint=self.likelihood == "path")

    def _steps(self, t: Tensor) -> Steps:
        factor, variance = self.marginal(t)
        if self.likelihood == "marginal":
            return Steps(None, factor, variance, factor)
        return Steps(*self.transition(torch.cat([torch.zeros_like(t[:1]), t[:-1]]), t), factor)

    def _is_joint(self) -> bool:
        """Whether the likelihood needs the law of all layers at once."""
        return self.likelihood == "path" and not self._goes_by_steps()

    def _goes_by_steps(self) -> bool:
        """Whether transitions from one layer to the next are the whole law."""
        if self.markov or self.learn:  # what holds at present values may not hold beside them
            return self.markov
        if self._by_steps is None:
            self._by_steps = self.is_markov()
        return self._by_steps
