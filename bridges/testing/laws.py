"""The battery's first half: names, moments, samples, densities."""

from __future__ import annotations

import json
import math
from unittest import SkipTest

import torch
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from bridges.latent.trajectory import layer_times
from bridges.processes.base import catalogue
from bridges.processes.gaussian import GaussianBridge
from bridges.testing.case import Case, rng

RARE = 1e-4
"""Least p-value of a Kolmogorov-Smirnov test. The draws are fixed: what passes once passes always."""


class LawTests(Case):
    """What a process says of itself agrees, and its samples agree with it."""

    def test_it_is_registered_and_described(self) -> None:
        record = catalogue.info(self.name)
        assert self.name in catalogue.available()
        assert record.cls.registered_name == self.name
        assert len(record.description) > 10, "the class needs a docstring"
        assert record.formula, "the class needs a formula"

    def test_its_parameters_rebuild_it(self) -> None:
        bridge = self.bridge()
        written = bridge.hyperparameters
        assert json.loads(json.dumps(written)) == written
        again = catalogue.get(self.name, **written)
        assert type(again) is type(bridge)
        assert again.hyperparameters == written
        for key, value in self.parameters.items():
            if isinstance(value, float):
                assert math.isclose(written[key], value, rel_tol=1e-5), key

    def test_it_is_pinned_at_both_ends(self) -> None:
        bridge, edges = self.process(), torch.tensor([0.0, 1.0], dtype=torch.float64)
        end = self.ends(bridge, 4)
        pinned = torch.stack([0 * end, end])
        assert_close(bridge.mean(edges, end), pinned, rtol=0, atol=1e-12, msg=_in_float64)
        variance = bridge.variance(edges)
        assert_close(variance, torch.zeros_like(variance), rtol=0, atol=1e-12, msg=_in_float64)

    def test_its_mean_is_its_factor_times_the_end_point(self) -> None:
        """A lens's guesses of the end point are multiplied by it."""
        bridge, t = self.process(), self.grid()
        end = self.ends(bridge, 4)
        factor = bridge.mean_factor(t).reshape(len(t), 1, -1)
        assert_close(factor * end, bridge.mean(t, end), rtol=self.exact, atol=0, msg=_by_a_factor)

    def test_its_variance_is_positive_between_them(self) -> None:
        inside = torch.linspace(0, 1, 258, dtype=torch.float64)[1:-1]
        variance = self.process().variance(inside)
        assert (variance > 0).all()
        assert variance.isfinite().all()

    def test_its_covariance_is_symmetric_pinned_and_has_its_variance(self) -> None:
        bridge, t = self.joint_process(), self.grid()
        kernel, variance = bridge.covariance(t[:, None], t[None]), bridge.variance(t)
        diagonal = kernel.diagonal(dim1=0, dim2=1).movedim(-1, 0)
        assert_close(diagonal, variance.expand_as(diagonal), rtol=self.exact, atol=1e-14)
        assert_close(kernel, kernel.transpose(0, 1), rtol=self.exact, atol=1e-14)
        edges = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        pinned = bridge.covariance(edges, t[None])
        assert_close(pinned, torch.zeros_like(pinned), rtol=0, atol=1e-12)

    def test_its_covariance_is_positive_definite(self) -> None:
        """At the layers' times of models of 1 to 24 layers."""
        bridge = self.joint_process()
        for layers in (1, 2, 6, 12, 24):
            t = layer_times(layers + 1)
            kernel = bridge.covariance(t[:, None], t[None])
            matrices = kernel if kernel.dim() == 2 else kernel.movedim(-1, 0)
            assert (torch.linalg.eigvalsh(matrices) > 0).all(), f"not at the times of {layers} layers"

    def test_a_claim_to_be_markov_is_true(self) -> None:
        bridge = self.process()
        assert bridge.is_markov() or not bridge.markov

    def test_its_samples_have_its_law(self) -> None:
        """Mean and covariance within five standard errors; Kolmogorov-Smirnov, if it is Gaussian, of
        the values and of the increments."""
        bridge, t, count = self.joint_process(), self.grid(), self.samples
        end = self.ends(bridge, 1).expand(count, -1)
        with torch.no_grad():
            path = bridge.sample(t, end, generator=rng(3))
            centred = path - bridge.mean(t, end)
            kernel = _by_dimension(bridge, t, end)
        assert path.shape == (len(t), *end.shape)
        variance = kernel.diagonal(dim1=1, dim2=2).T
        assert (centred.mean(1).abs() <= 5 * (variance / count).sqrt()).all(), "mean"
        # The fourth moments say how far the covariance of so many draws may be off, whatever the law.
        covariance = torch.einsum("snd,tnd->dst", centred, centred) / count
        fourth = torch.einsum("snd,tnd->dst", centred.square(), centred.square()) / count
        allowed = 5 * ((fourth - covariance.square()) / count).sqrt()
        assert ((covariance - kernel).abs() <= allowed).all(), "covariance"
        if not self.normal:
            return
        first, among = centred[..., 0], kernel[0]
        for i in range(len(t)):
            _check_normal(first[i], among[i, i], f"at t = {t[i]}")
        for i in range(1, len(t)):
            spread = among[i, i] + among[i - 1, i - 1] - 2 * among[i, i - 1]
            _check_normal(first[i] - first[i - 1], spread, f"increment before t = {t[i]}")

    def test_its_samples_follow_the_generator_and_meet_the_ends(self) -> None:
        bridge, t = self.joint_process(), torch.tensor([0.0, 0.3, 0.8, 1.0])
        end = self.ends(bridge, 3).float()
        first, again, other = (bridge.sample(t, end, generator=rng(s)) for s in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert first.dtype == end.dtype
        assert (first[0] == 0).all()
        assert torch.equal(first[-1], end)

    def test_its_density_integrates_to_one(self) -> None:
        """In one dimension, over the whole line; 1e-7 is what `quad` is asked for."""
        bridge = self.process()
        if bridge.dims is not None:
            raise SkipTest("each dimension has its own density: test one with a number, not a list")
        end = torch.tensor([[0.8]], dtype=torch.float64)
        for time in (0.01, 0.5, 0.9):
            t = torch.tensor([time], dtype=torch.float64)
            centre, width = bridge.mean(t, end).item(), bridge.variance(t).sqrt().item()

            def density(x: float, t: Tensor = t, at: tuple[float, float] = (centre, width)) -> float:
                z = torch.tensor([[[at[0] + at[1] * x]]], dtype=torch.float64)
                return at[1] * math.exp(bridge.log_prob(z, t, end).item())

            whole, _ = integrate.quad(density, -math.inf, math.inf, epsabs=1e-8, epsrel=1e-8)
            assert math.isclose(whole, 1, rel_tol=1e-7), f"{whole} at t = {time}"

    def test_its_joint_density_is_the_law_of_its_moments(self) -> None:
        """torch's, if Gaussian; and of a single time it is the density at that time."""
        bridge, t = self.joint_process(), self.grid()
        end = self.ends(bridge, 4)
        mean = bridge.mean(t, end)
        z = mean + torch.randn(mean.shape, generator=rng(5), dtype=torch.float64)
        first = bridge.log_prob_path(z[:1], t[:1], end)
        assert_close(first, bridge.log_prob(z[:1], t[:1], end)[0], rtol=self.exact, atol=self.exact)
        if self.normal:
            laws = MultivariateNormal(mean.permute(1, 2, 0), _by_dimension(bridge, t, end))
            expected = laws.log_prob(z.permute(1, 2, 0)).sum(-1)
            density = bridge.log_prob_path(z, t, end)
            assert_close(density, expected, rtol=self.exact, atol=self.exact)


def _in_float64(message: str) -> str:
    return (
        f"{message}\n\nAt t = 0 the mean is 0 and at t = 1 v, the variance 0 at both. Where it is off "
        "by 1e-8, marginal computes in float32: torch.as_tensor(self.theta, dtype=t.dtype)."
    )


def _by_a_factor(message: str) -> str:
    return f"{message}\n\nA Gaussian bridge's mean is m(t) v, with m from marginal: it has no offset."


def _by_dimension(bridge: GaussianBridge, t: Tensor, end: Tensor) -> Tensor:
    """The covariance of every dimension, [d, T, T]."""
    kernel = bridge.covariance(t[:, None], t[None]).reshape(len(t), len(t), -1)
    return kernel.expand(-1, -1, end.shape[-1]).movedim(-1, 0)


def _check_normal(values: Tensor, variance: Tensor, where: str) -> None:
    p_value = stats.kstest((values / variance.sqrt()).numpy(), "norm").pvalue
    assert p_value > RARE, f"Kolmogorov-Smirnov p = {p_value} {where}"
