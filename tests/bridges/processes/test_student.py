"""The heavy-tailed bridge: its law against scipy's multivariate t, its cost, its samples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor
from zoo_cases import f64, generator
from zoo_tools import trajectory

import bridges
from bridges import BadInput, LatentMap, StudentBridge

TIMES = (1 / 130, 0.2, 0.5, 0.77, 129 / 130)
BASES = ["brownian", "ou:theta=3", "alpha:alpha=2", "fractional:hurst=0.3", "gp:kernel=rbf", "smooth"]

RARE = 1e-4
"""About thirty p-values are drawn here, once and for all: a right sampler had 0.3 % to miss this."""


def student(**parameters: Any) -> StudentBridge:
    bridge = bridges.get("student", **parameters)
    assert isinstance(bridge, StudentBridge)
    return bridge


@pytest.mark.parametrize("base", BASES)
def test_mean_and_variance_are_the_bases(base: str) -> None:
    bridge, plain = student(base=base, nu=3.0), bridges.parse(base)
    t, end = f64(0, *TIMES, 1), f64(1.5, -0.5)[None]
    assert torch.equal(bridge.mean(t, end), plain.mean(t, end))
    assert torch.equal(bridge.variance(t), plain.variance(t))


@pytest.mark.parametrize("nu", [2.001, 3.0, 7.5, 200.0, 1e6])
@pytest.mark.parametrize("base", BASES)
def test_log_prob_is_scipys(base: str, nu: float) -> None:
    """A multivariate t in three dimensions with shape (nu - 2) / nu s2: to 1e-8, the digits that a
    difference of log-gamma functions of 5e5 leaves, scipy's too.
    """
    bridge, t = student(base=base, nu=nu), f64(*TIMES)
    end = torch.randn(4, 3, generator=generator()).double()
    z = torch.randn(len(t), 4, 3, generator=generator(1)).double()
    found = bridge.log_prob(z, t, end)
    mean, variance = bridge.mean(t, end), bridge.variance(t)
    for i in range(len(t)):
        shape = (nu - 2) / nu * variance[i].item() * np.eye(3)
        for n in range(4):
            expected = stats.multivariate_t(mean[i, n].numpy(), shape, df=nu).logpdf(z[i, n].numpy())
            assert found[i, n].item() == pytest.approx(expected, rel=1e-9, abs=1e-8)


@pytest.mark.parametrize("nu", [2.1, 3.0, 30.0])
@pytest.mark.parametrize("time", [0.01, 0.5, 0.97])
def test_the_density_integrates_to_one(nu: float, time: float) -> None:
    """Over the whole line, by z = mean + sd tan(a)."""
    bridge, t, end = student(base="ou", nu=nu), f64(time), f64(1.5)[None]
    centre, spread = bridge.mean(t, end).item(), bridge.variance(t).sqrt().item()

    def density(a: float) -> float:
        z = centre + spread * math.tan(a)
        return math.exp(bridge.log_prob(f64(z)[None, None], t, end).item()) * spread / math.cos(a) ** 2

    total, _ = integrate.quad(density, -math.pi / 2, math.pi / 2, epsabs=1e-9, points=[0])
    assert total == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize(("base", "nu"), [("brownian", 3.0), ("ou:theta=3", 6.0), ("smooth", 5.0)])
def test_samples_have_the_joint_law_of_scipys(base: str, nu: float) -> None:
    """5000 trajectories in two dimensions against as many from scipy over times and dimensions at once:
    Kolmogorov-Smirnov on marginals, increments and what only a shared scale can give: products of
    absolute values at two times, and in two dimensions.
    """
    bridge, plain, t, count = student(base=base, nu=nu), bridges.parse(base), f64(0.1, 0.4, 0.9), 5000
    assert isinstance(plain, bridges.GaussianBridge)
    end = f64(1.5, -0.5)
    drawn = bridge.sample(t, end.expand(count, 2), generator=generator(2)).numpy()
    kernel = plain.covariance(t[:, None], t[None]).numpy()
    mean = plain.mean(t, end[None])[:, 0].numpy()
    shape = (nu - 2) / nu * np.kron(kernel, np.eye(2))
    law = stats.multivariate_t(mean.ravel(), shape, df=nu, seed=4)
    seen = law.rvs(count).reshape(count, 3, 2).transpose(1, 0, 2)
    for looks in (
        lambda x: [x[i, :, 0] for i in range(3)],
        lambda x: [x[1, :, 1] - x[0, :, 1], x[2, :, 0] - x[1, :, 0]],
        lambda x: [np.abs(x - mean[:, None]).prod((0, 2)), np.abs(x[1] - mean[1]).prod(1)],
    ):
        for a, b in zip(looks(drawn), looks(seen), strict=True):
            assert stats.ks_2samp(a, b).pvalue > RARE
    scaled = (drawn[1, :, 0] - mean[1, 0]) / math.sqrt((nu - 2) / nu * kernel[1, 1])
    assert stats.kstest(scaled, stats.t(nu).cdf).pvalue > RARE
    size = (drawn[1] - mean[1]) / math.sqrt(kernel[1, 1])
    assert stats.kstest((size**2).sum(1) * nu / (nu - 2) / 2, stats.f(2, nu).cdf).pvalue > RARE


def test_samples_start_at_0_end_at_the_end_point_and_follow_the_generator() -> None:
    end, t = torch.randn(3, 2, generator=generator()), torch.linspace(0, 1, 7)
    bridge = student(base="ou", nu=2.5)
    before = torch.random.get_rng_state()
    first, again, other = (bridge.sample(t, end, generator=generator(s)) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (first[0] == 0).all()
    assert torch.equal(first[-1], end)
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_samples_end_exactly_where_the_bases_mean_does_by_rounding_only() -> None:
    class Rounded(bridges.BrownianBridge, name="rounded"):
        def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
            factor, variance = super().marginal(t)
            return factor * (1 - 1e-15), variance

    end = torch.randn(3, 2, generator=generator()).double()
    path = student(base="rounded").sample(f64(0.5, 1), end)
    assert torch.equal(path[-1], end)


@pytest.mark.parametrize("shape", [(5, 4), (3, 5, 4)], ids=["N", "K, N"])
@pytest.mark.parametrize("base", BASES)
def test_the_cost_is_the_negative_log_density_without_its_constants(
    base: str, shape: tuple[int, ...]
) -> None:
    """A mean over layers, for each token and end point: its differences are those of log_prob."""
    bridge, (seen, _) = student(base=base, nu=4.0), trajectory()
    latent_map = LatentMap(6, (8, 4)).double()
    ends = torch.randn(shape, generator=generator(5), dtype=torch.float64)
    cost = bridge.cost(latent_map, seen, ends)
    assert cost.shape == shape[:-1]
    t, z = seen.times(), latent_map(seen)
    at_mean = bridge.log_prob(bridge.mean(t, ends.reshape(-1, 4)), t, ends.reshape(-1, 4)).mean(0)
    for k, end in enumerate(ends.reshape(-1, 5, 4)):
        found = cost.reshape(-1, 5)[k]
        expected = at_mean.reshape(-1, 5)[k] - bridge.log_prob(z, t, end).mean(0)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("base", ["ou:learn=theta+sigma", "clock"])
def test_with_a_base_that_learns_the_cost_is_the_whole_density(base: str) -> None:
    """A spread of the base's is bounded by the normaliser, which is in the cost then."""
    bridge, (seen, end) = student(base=base, nu=4.0).double(), trajectory()
    latent_map = LatentMap(6, (8, 4)).double()
    expected = -bridge.log_prob(latent_map(seen), seen.times(), end).mean(0)
    found = bridge.cost(latent_map, seen, end)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    learned = list(bridge.parameters())
    slopes = [torch.autograd.grad(x.mean(), learned) for x in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("base", BASES)
def test_with_many_degrees_of_freedom_it_is_its_base(base: str) -> None:
    """Law and cost; what is left is of the order q / nu of them, and the smooth base makes q large."""
    bridge, plain = student(base=base, nu=1e6), bridges.parse(base)
    t, end = f64(0.1, 0.5, 0.9), f64(1.5, -0.5)[None].expand(5, 2)
    z = plain.mean(t, end) + plain.variance(t).sqrt()[:, None, None] * torch.randn(3, 5, 2).double()
    torch.testing.assert_close(bridge.log_prob(z, t, end), plain.log_prob(z, t, end), rtol=0, atol=1e-4)
    latent_map, (seen, ends) = LatentMap(6, (8, 4)).double(), trajectory()
    found, expected = (b.cost(latent_map, seen, ends) for b in (bridge, plain))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def test_a_layer_far_off_pulls_less_the_farther_it_is() -> None:
    """The gradient to a residual r is largest at r^2 = (nu - 2) s2 and falls as 1 / r beyond."""
    bridge, s2 = student(nu=4.0), 0.25
    r = torch.tensor([[0.1], [1.0], [2.0], [10.0], [1000.0]], dtype=torch.float64).sqrt()
    z = ((2 * s2) ** 0.5 * r).requires_grad_()
    value = bridge.log_prob(z[None], f64(0.5), torch.zeros(5, 1).double())
    slope = torch.autograd.grad(value.sum(), z)[0].abs().flatten()
    assert slope.argmax() == 1
    assert slope[4] < slope[3] / 9
    expected = 5 * z.detach().flatten() / (2 * s2 + z.detach().flatten().square())
    torch.testing.assert_close(slope, expected, rtol=1e-12, atol=0)


def test_autocast_changes_nothing() -> None:
    bridge, (seen, end) = student(), trajectory(dtype=torch.float32)
    latent_map = LatentMap(6, (8, 4))
    plain = bridge.cost(latent_map, seen, end.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(bridge.cost(latent_map, seen, end.float()), plain)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        *(
            ({"nu": nu}, f"nu={nu!r}: expected a number above 2, to 1e\\+06")
            for nu in (2, 1.5, -1.0, 2e6, math.nan, math.inf, "5", None, True)
        ),
        ({"base": "sde"}, "base='sde': expected a Gaussian bridge; for example 'brownian' or 'ou'"),
        ({"base": "student"}, "base='student': expected a Gaussian bridge"),
        ({"base": "ou:likelihood=path"}, "base='ou:likelihood=path': expected likelihood=marginal"),
        ({"base": "brown"}, "unknown bridge 'brown'; did you mean 'brownian'"),
        ({"base": "ou:theta=-1"}, "theta=-1.0: expected a finite number above 0"),
    ],
)
def test_bad_parameters_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        student(**parameters)


def test_a_word_names_base_and_degrees() -> None:
    bridge = bridges.parse("student:base=ou:theta=2,nu=3")
    assert bridge.hyperparameters == {"base": "ou:theta=2", "nu": 3.0}
    assert isinstance(bridge, StudentBridge)
    assert isinstance(bridge.process, bridges.OUBridge)
    assert bridge.process.theta == 2.0


@pytest.mark.parametrize(
    ("z", "times", "message"),
    [
        (torch.zeros(1, 1, 2), [0.0], r"log_prob needs times inside \(0, 1\), got"),
        (torch.zeros(1, 2, 2), [0.5], r"z has shape \(1, 2, 2\), expected \(1, 1, 2\)"),
        (torch.zeros(1, 1, 2), [1.5], r"times must be a floating vector"),
    ],
)
def test_bad_input_is_refused(z: Tensor, times: list[float], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        student().log_prob(z.double(), f64(*times), f64(1.0, 2.0)[None])
