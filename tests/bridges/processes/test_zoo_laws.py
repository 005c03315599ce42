"""The Gaussian processes of the zoo against constructions that share no code with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor
from zoo_cases import (
    SIMULATIONS,
    TIMES,
    alpha_law,
    conditioned,
    f64,
    free_fractional,
    free_smooth,
    free_stationary,
    generator,
    sklearn_law,
)
from zoo_tools import HURSTS, KERNELS, LENGTHSCALES, covariance, gaussian, trajectory, with_tensor

import bridges
from bridges import BadInput, GaussianBridge
from bridges.latent.trajectory import layer_times
from bridges.processes.formulas import fall

pytestmark = pytest.mark.slow

ALPHAS = (1e-12, 1e-3, 0.3, 0.5, 1.0, 3.0, 50.0, 1e4)

RARE = 1e-4
"""About seventy p-values are drawn here, once and for all: a right sampler had 0.7 % to miss this."""


def check_law(bridge: GaussianBridge, mean: Tensor, expected: Tensor, rtol: float) -> None:
    """Covariances within rtol of the two standard deviations' product, variances of themselves."""
    times = f64(*TIMES)
    factor, variance = bridge.marginal(times)
    torch.testing.assert_close(factor, mean, rtol=rtol, atol=1e-15)
    torch.testing.assert_close(variance, expected.diagonal(), rtol=rtol, atol=0.0)
    found, size = covariance(bridge, times), expected.diagonal().sqrt()
    wrong = (found - expected).abs() / (size[:, None] * size)
    assert wrong.max() <= rtol


# Exact laws


@pytest.mark.parametrize("alpha", ALPHAS)
def test_alpha_is_the_solution_of_its_equation(alpha: float) -> None:
    """1e-13: exponents up to 50 are rounded to 1e-16 of themselves; of 1e4, values vanish."""
    check_law(bridges.AlphaBridge(alpha, 0.7), *alpha_law(alpha, 0.7), rtol=1e-13)


@pytest.mark.parametrize("hurst", HURSTS)
def test_fractional_is_conditioned_on_its_end(hurst: float) -> None:
    """Variances are nearer, 1e-15; pairs at opposite ends lose digits for a large Hurst."""
    law = conditioned(free_fractional(hurst, 0.7))
    check_law(bridges.FractionalBridge(hurst, 0.7), *law, rtol=1e-13)


def test_smooth_is_an_integral_conditioned_on_its_end() -> None:
    law = conditioned(free_smooth(0.7))
    check_law(bridges.SmoothBridge(0.7), *law, rtol=2e-15)


@pytest.mark.parametrize("lengthscale", LENGTHSCALES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_gp_is_conditioned_on_both_ends(kernel: str, lengthscale: float) -> None:
    """With lengthscale 10, as little as 3e-9 of the free variance is left between the ends, and pairs at
    opposite ends of 128 layers lose six digits of sixteen; variances and shorter lengthscales fewer.
    """
    bridge, short = bridges.GPBridge(kernel, lengthscale, 0.7), lengthscale < 1
    mean, expected = conditioned(free_stationary(kernel, lengthscale, 0.7))
    expected += bridge.nugget * expected.diag().diag()
    check_law(bridge, mean, expected, rtol=1e-11 if short else 1e-10)
    variance = bridge.variance(f64(*TIMES))
    torch.testing.assert_close(variance, expected.diagonal(), rtol=1e-14 if short else 1e-11, atol=0.0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_gp_is_the_posterior_of_sklearn(kernel: str) -> None:
    """sklearn subtracts numbers near 1, and adds 1e-14 to the two points' variance: 1e-12 in all."""
    bridge = bridges.GPBridge(kernel, 0.5, 0.7)
    mean, expected = sklearn_law(kernel, 0.5, 0.7)
    times = f64(*TIMES)
    torch.testing.assert_close(bridge.marginal(times)[0], mean, rtol=0.0, atol=1e-12)
    found = covariance(bridge, times)
    torch.testing.assert_close(found, expected, rtol=2 * bridge.nugget, atol=1e-12)


def test_a_kernel_of_ones_own_is_a_subclass() -> None:
    class Rational(bridges.StationaryBridge, name="rational"):
        def drop(self, lag: Tensor) -> Tensor:
            return lag**2 / (1 + lag**2)

    def kernel(s: Any, t: Any) -> Any:
        return 9 * (1 / (1 + (s - t) ** 2) - 1 / (1 + s**2) / (1 + t**2))

    bridge = gaussian("rational", sigma=3.0)
    assert bridge.hyperparameters["sigma"] == 3.0
    mean, expected = conditioned(kernel)
    check_law(bridge, mean, expected + 1e-6 * expected.diag().diag(), rtol=1e-11)
    torch.linalg.cholesky(covariance(bridge, layer_times(129)))
    assert not bridge.is_markov()


# Special cases


@pytest.mark.parametrize(
    ("name", "parameters", "other"),
    [
        ("alpha", {"alpha": 1.0, "sigma": 0.7}, bridges.BrownianBridge(0.7)),
        ("fractional", {"hurst": 0.5, "sigma": 0.7}, bridges.BrownianBridge(0.7)),
        *(
            (
                "gp",
                {"kernel": "matern12", "lengthscale": x, "sigma": 0.7},
                bridges.OUBridge(1 / x, 0.7 * (2 / x) ** 0.5),
            )
            for x in LENGTHSCALES
        ),
    ],
)
def test_a_special_case_is_another_process(
    name: str, parameters: dict[str, float], other: GaussianBridge
) -> None:
    times = f64(0, *TIMES, 1)
    bridge = gaussian(name, **parameters)
    torch.testing.assert_close(bridge.marginal(times), other.marginal(times), rtol=1e-12, atol=1e-15)
    found, expected = covariance(bridge, times), covariance(other, times)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("distance", [0.0, 1e-15, -1e-15, 1e-12, -1e-9, 1e-6, -1e-3])
def test_alpha_is_continuous_and_smooth_at_one_half(distance: float) -> None:
    """Value: the limit -(1-t) log(1-t). Slope: -(1-t) log^2(1-t), by the next term of the expansion."""
    t = f64(*TIMES)
    force = f64(0.5 + distance)[0].requires_grad_()
    bridge = with_tensor(bridges.AlphaBridge(), alpha=force)
    left, close = 1 - t, {"rtol": 1e-14 + 20 * abs(distance), "atol": 0.0}
    variance = bridge.marginal(t)[1]
    torch.testing.assert_close(variance.detach(), -left * left.log(), **close)
    slope = torch.stack([torch.autograd.grad(x, force, retain_graph=True)[0] for x in variance])
    torch.testing.assert_close(slope, -left * left.log().square(), **close)


@pytest.mark.parametrize("x", [0.0, 1e-300, 1e-9, 0.00999, 0.01, 0.3, 5.0, 800.0])
def test_fall_and_its_slope_keep_their_digits(x: float) -> None:
    """The slope is -int_0^1 u exp(-x u) du; the direct branch's subtraction leaves 1e-12 of it."""
    point = f64(x)[0].requires_grad_()
    value = fall(point)
    value.backward()
    expected = [
        integrate.quad(lambda u, k=k: u**k * math.exp(-x * u), 0, 1, epsabs=0)[0] for k in (0, 1)
    ]
    assert value.item() == pytest.approx(expected[0], rel=1e-13)
    assert point.grad is not None
    assert point.grad.item() == pytest.approx(-expected[1], rel=1e-11)


# Samples against simulations


@pytest.mark.parametrize(("name", "parameters", "simulate"), SIMULATIONS)
def test_samples_have_the_law_of_a_simulation(
    name: str, parameters: dict[str, Any], simulate: Callable[..., np.ndarray]
) -> None:
    """Two samples of 4000 paths, fixed seeds: moments within five standard errors of their difference,
    Kolmogorov-Smirnov on marginals and increments at p > RARE. What the simulations get wrong by
    construction (their docstrings) is well below.
    """
    count, v, looks = 4000, 1.5, (0.1, 0.35, 0.75, 0.95)
    paths = simulate(np.random.default_rng(7), count, v, **parameters)
    steps = paths.shape[1] - 1
    seen = paths[:, [round(t * steps) for t in looks]].T
    times = f64(*looks)
    end = f64(v).expand(count, 1)
    drawn = gaussian(name, **parameters).sample(times, end, generator=generator(6))[..., 0].numpy()

    spread = drawn.std(1)
    assert (abs(drawn.mean(1) - seen.mean(1)) <= 5 * spread * math.sqrt(2 / count)).all()
    first, second = np.cov(drawn), np.cov(seen)
    error = np.sqrt(2 * (np.outer(spread**2, spread**2) + first**2) / count)
    assert (abs(first - second) <= 5 * error).all()
    for i in range(len(looks)):
        assert stats.ks_2samp(drawn[i], seen[i]).pvalue > RARE
    for i in range(len(looks) - 1):
        assert stats.ks_2samp(drawn[i + 1] - drawn[i], seen[i + 1] - seen[i]).pvalue > RARE


@pytest.mark.parametrize(("name", "parameters", "simulate"), SIMULATIONS)
def test_marginals_and_increments_are_normal(
    name: str, parameters: dict[str, Any], simulate: object
) -> None:
    """Kolmogorov-Smirnov against the normal law of the bridge's covariance; both ends exact."""
    count, v = 5000, 1.5
    bridge, inner = gaussian(name, **parameters), f64(0.05, 0.4, 0.9)
    path = bridge.sample(f64(0, *inner.tolist(), 1), f64(v).expand(count, 1), generator=generator(3))[
        ..., 0
    ]
    assert (path[0] == 0).all()
    assert (path[-1] == v).all()
    mean, law = bridge.marginal(inner)[0] * v, covariance(bridge, inner)
    for i in range(3):
        spread = law[i, i].sqrt()
        assert stats.kstest(((path[1 + i] - mean[i]) / spread).numpy(), "norm").pvalue > RARE
    for i in range(2):
        spread = (law[i, i] + law[i + 1, i + 1] - 2 * law[i, i + 1]).sqrt()
        step = (path[2 + i] - path[1 + i] - mean[i + 1] + mean[i]) / spread
        assert stats.kstest(step.numpy(), "norm").pvalue > RARE


# Densities


@pytest.mark.parametrize(("name", "parameters", "simulate"), SIMULATIONS)
@pytest.mark.parametrize("time", [0.01, 0.5, 0.97])
def test_the_density_integrates_to_one(
    name: str, parameters: dict[str, Any], simulate: object, time: float
) -> None:
    """Over twelve standard deviations either way; 1e-8 is what `quad` asks of itself."""
    bridge = gaussian(name, **parameters)
    t, end = f64(time), f64(1.5)[None]
    centre, width = bridge.mean(t, end).item(), 12 * bridge.variance(t).sqrt().item()

    def density(z: float) -> float:
        return math.exp(bridge.log_prob(f64(z)[None, None], t, end).item())

    total, _ = integrate.quad(density, centre - width, centre + width, epsabs=1e-9, points=[centre])
    assert total == pytest.approx(1, abs=1e-8)


# Markov or not


@pytest.mark.parametrize(
    ("word", "markov"),
    [
        *((f"alpha:alpha={alpha}", True) for alpha in (1e-12, 0.5, 2.0, 50.0, 350.0, 1e4)),
        *((f"gp:kernel=matern12,lengthscale={x}", True) for x in LENGTHSCALES),
        *((f"gp:kernel={k},lengthscale={x}", False) for k in KERNELS[1:] for x in LENGTHSCALES),
        *((f"fractional:hurst={h}", h == 0.5) for h in (*HURSTS, 0.49, 0.51)),
        ("smooth", False),
    ],
)
def test_which_are_markov(word: str, markov: bool) -> None:
    """By the transitions too: only a Markov law composes, 0.2 to 0.5 to 0.7 as 0.2 to 0.7."""
    bridge = bridges.parse(word)
    assert isinstance(bridge, GaussianBridge)
    assert bridge.is_markov() == markov
    s, t, u = f64(0.2), f64(0.5), f64(0.7)
    (d1, _, s1), (d2, _, s2) = bridge.transition(s, t), bridge.transition(t, u)
    d3, _, s3 = bridge.transition(s, u)
    composed = torch.stack([d1 * d2, d2**2 * s1 + s2])
    assert torch.allclose(composed, torch.stack([d3, s3]), rtol=1e-7, atol=1e-12) == markov


@pytest.mark.parametrize("target", ["alpha:alpha=2", "gp:kernel=matern12", "fractional:hurst=0.5"])
def test_a_markov_one_is_a_target_of_the_sde_bridge(target: str) -> None:
    bridge = bridges.get("sde", target=target)
    drift = bridge.make_map(6, (8, 4)).double()
    seen, end = trajectory(4)
    value = bridge.cost(drift, seen, end, generator=generator())
    assert value.shape == (5,)
    assert value.isfinite().all()


@pytest.mark.parametrize("target", ["fractional", "gp", "gp:kernel=rbf", "smooth", "student"])
def test_any_other_is_no_target_of_the_sde_bridge(target: str) -> None:
    with pytest.raises(BadInput, match=f"target='{target}': expected a Markov Gaussian bridge"):
        bridges.get("sde", target=target)
