"""Brownian and OU bridges: their laws against derivations and simulations that share no code."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from tiny import tiny_bert
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

import bridges
from bridges import registry
from bridges.processes.gaussian import GaussianBridge

TIMES = (0.03, 0.2, 0.5, 0.77, 0.99)
THETAS = (1e-160, 1e-6, 1e-3, 0.3, 1.0, 4.0, 50.0, 700.0)
SIGMAS = (0.2, 1.0, 3.0)
BRIDGES = [
    ("brownian", {}),
    ("brownian", {"sigma": 0.4}),
    ("ou", {}),
    ("ou", {"theta": 3.0, "sigma": 0.5}),
]

RARE = 1e-4
"""About fifty p-values are drawn here, once and for all: a right sampler had 0.5 % to miss this."""

Kernel = Callable[[Decimal, Decimal], Decimal]


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The law of the bridge is the law of the free process conditioned on its value at 1.


def free_brownian(sigma: float) -> Kernel:
    return lambda s, t: Decimal(sigma) ** 2 * min(s, t)


def free_ou(theta: float, sigma: float) -> Kernel:
    rate = Decimal(theta)

    def kernel(s: Decimal, t: Decimal) -> Decimal:
        return Decimal(sigma) ** 2 / (2 * rate) * ((-rate * abs(t - s)).exp() - (-rate * (s + t)).exp())

    return kernel


def conditioned(kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Mean factors and covariance at TIMES given the value at 1, by decimal arithmetic of 200 digits.

    So many that differences of exponentials with theta = 1e-160 keep their digits.
    """
    with localcontext() as context:
        context.prec = 200
        one, times = Decimal(1), [Decimal(t) for t in TIMES]
        mean = [float(kernel(t, one) / kernel(one, one)) for t in times]
        covariance = [
            [float(kernel(s, t) - kernel(s, one) * kernel(one, t) / kernel(one, one)) for t in times]
            for s in times
        ]
    return torch.tensor(mean, dtype=torch.float64), torch.tensor(covariance, dtype=torch.float64)


def check_law(bridge: GaussianBridge, kernel: Kernel) -> None:
    """Relative 1e-12: exp's argument, up to 700, is rounded to 1e-16 of itself."""
    times = f64(*TIMES)
    mean, covariance = conditioned(kernel)
    factor, variance = bridge.marginal(times)
    close = {"rtol": 1e-12, "atol": 0.0}
    torch.testing.assert_close(factor, mean, **close)
    torch.testing.assert_close(variance, covariance.diagonal(), **close)
    torch.testing.assert_close(bridge.covariance(times[:, None], times[None]), covariance, **close)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_brownian_is_brownian_motion_conditioned_on_its_end(sigma: float) -> None:
    check_law(bridges.BrownianBridge(sigma), free_brownian(sigma))


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("theta", THETAS)
def test_ou_is_the_ou_process_from_0_conditioned_on_its_end(theta: float, sigma: float) -> None:
    check_law(bridges.OUBridge(theta, sigma), free_ou(theta, sigma))


@pytest.mark.parametrize("theta", [1e-160, 1e-12, 1e-8, 1e-4])
def test_ou_tends_to_brownian(theta: float) -> None:
    """The first terms left out are theta^2 / 6 and the like: within theta^2, or the rounding 1e-15."""
    times, limit = f64(*TIMES), bridges.BrownianBridge(1.7)
    close = {"rtol": max(theta**2, 1e-15), "atol": 0.0}
    ou = bridges.OUBridge(theta, 1.7)
    torch.testing.assert_close(ou.marginal(times), limit.marginal(times), **close)
    pair = times[:, None], times[None]
    torch.testing.assert_close(ou.covariance(*pair), limit.covariance(*pair), **close)


@pytest.mark.parametrize("theta", THETAS)
def test_ou_in_single_precision_is_the_rounded_law(theta: float) -> None:
    """Times that float32 holds exactly, so what is left is one rounding; 1e-5 would still be right."""
    times = torch.tensor([0.125, 0.5, 0.96875])
    single, double = (
        bridges.OUBridge(theta).marginal(times),
        bridges.OUBridge(theta).marginal(times.double()),
    )
    assert {x.dtype for x in single} == {torch.float32}
    # Underflow to zero is a rounding too: float32's smallest normal number is 1e-38.
    torch.testing.assert_close(single, tuple(x.float() for x in double), rtol=1e-5, atol=2e-38)


@pytest.mark.parametrize(("name", "parameters"), BRIDGES)
def test_mean_and_variance_are_the_marginal_law(name: str, parameters: dict[str, float]) -> None:
    bridge = bridges.get(name, **parameters)
    assert isinstance(bridge, GaussianBridge)
    times, end = f64(0.0, *TIMES, 1.0), torch.randn(3, 2, generator=generator()).double()
    factor, variance = bridge.marginal(times)
    for i in range(len(times)):
        assert torch.equal(bridge.mean(times, end)[i], factor[i] * end)
    assert torch.equal(bridge.variance(times), variance)
    assert factor[0] == variance[0] == variance[-1] == 0
    assert factor[-1] == 1


@pytest.mark.parametrize(("name", "parameters"), BRIDGES)
def test_log_prob_is_torchs(name: str, parameters: dict[str, float]) -> None:
    """1e-12: both sum three terms of size 10 in float64."""
    bridge = bridges.get(name, **parameters)
    times, end = f64(*TIMES), torch.randn(4, 3, generator=generator()).double()
    z = torch.randn(len(TIMES), 4, 3, generator=generator(1)).double()
    value = bridge.log_prob(z, times, end)
    assert value.shape == (len(TIMES), 4)
    mean, variance = bridge.mean(times, end), bridge.variance(times)
    by_dimension = Normal(mean, variance.sqrt()[:, None, None]).log_prob(z).sum(-1)
    torch.testing.assert_close(value, by_dimension, rtol=1e-12, atol=1e-12)
    covariance = variance[:, None, None, None] * torch.eye(3).double()
    jointly = MultivariateNormal(mean, covariance).log_prob(z)
    torch.testing.assert_close(value, jointly, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "parameters"), BRIDGES)
@pytest.mark.parametrize("time", [0.01, 0.5, 0.9])
def test_density_integrates_to_one(name: str, parameters: dict[str, float], time: float) -> None:
    """Over twelve standard deviations either way; 1e-8 is what `quad` asks of itself."""
    bridge = bridges.get(name, **parameters)
    t, end = f64(time), f64(1.5)[None]
    centre, width = bridge.mean(t, end).item(), 12 * bridge.variance(t).sqrt().item()

    def density(z: float) -> float:
        return math.exp(bridge.log_prob(f64(z)[None, None], t, end).item())

    total, _ = integrate.quad(density, centre - width, centre + width, epsabs=1e-9, points=[centre])
    assert total == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize(("name", "parameters"), BRIDGES)
def test_samples_have_the_joint_law(name: str, parameters: dict[str, float]) -> None:
    """20 000 paths with a fixed seed. Mean and covariance within five standard errors, where the
    standard error of a covariance is sqrt((k_ss k_tt + k_st^2) / n); Kolmogorov-Smirnov at p > RARE.
    """
    bridge, count = bridges.get(name, **parameters), 20_000
    assert isinstance(bridge, GaussianBridge)
    times = f64(*TIMES)
    end = f64(1.5, -0.5).expand(count, 2)
    path = bridge.sample(times, end, generator=generator(3))
    assert path.shape == (len(TIMES), count, 2)
    kernel = bridge.covariance(times[:, None], times[None])
    variance = kernel.diagonal()
    centred = path - bridge.mean(times, end)

    error = (variance / count).sqrt()
    assert (centred.mean(1).abs() <= 5 * error[:, None]).all()
    allowed = 5 * ((variance[:, None] * variance + kernel.square()) / count).sqrt()
    for d in range(2):
        found = centred[..., d] @ centred[..., d].T / count
        assert ((found - kernel).abs() <= allowed).all()
    across = centred[..., 0] @ centred[..., 1].T / count
    assert (across.abs() <= 5 * (variance[:, None] * variance / count).sqrt()).all()

    for i in range(len(TIMES)):
        assert stats.kstest(centred[i, :, 0].numpy() / variance[i].sqrt().item(), "norm").pvalue > RARE
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(kernel), centred[..., 0], upper=False)
    for row in white:
        assert stats.kstest(row.numpy(), "norm").pvalue > RARE
    assert stats.chi2(len(TIMES)).cdf(white.square().sum(0).numpy()).mean() == pytest.approx(
        0.5, abs=0.01
    )


def brownian_drift(t: float, y: np.ndarray, v: float) -> np.ndarray:
    return (v - y) / (1 - t)


def ou_drift(theta: float) -> Callable[[float, np.ndarray, float], np.ndarray]:
    def drift(t: float, y: np.ndarray, v: float) -> np.ndarray:
        left = theta * (1 - t)
        return theta * (-y / math.tanh(left) + v / math.sinh(left))

    return drift


@pytest.mark.parametrize(
    ("name", "parameters", "drift"),
    [
        ("brownian", {"sigma": 0.7}, brownian_drift),
        ("ou", {"theta": 0.5, "sigma": 1.0}, ou_drift(0.5)),
        ("ou", {"theta": 4.0, "sigma": 0.7}, ou_drift(4.0)),
    ],
)
def test_samples_have_the_law_of_the_pinned_equation(
    name: str, parameters: dict[str, float], drift: Callable[[float, np.ndarray, float], np.ndarray]
) -> None:
    """Against an Euler path of the pinned drift (method.md, section 3): 4000 paths of 1000 steps, whose
    bias, about a step of 1e-3, is far below what two samples of 4000 can tell; fixed seeds, p > RARE.
    """
    bridge, count, steps, v = bridges.get(name, **parameters), 4000, 1000, 1.5
    rng = np.random.default_rng(5)
    y, seen = np.zeros(count), {}
    for k in range(900):
        noise = parameters["sigma"] * math.sqrt(1 / steps) * rng.standard_normal(count)
        y = y + drift(k / steps, y, v) / steps + noise
        seen[k + 1] = y
    looks = (200, 500, 900)
    times = f64(*(k / steps for k in looks))
    path = bridge.sample(times, f64(v).expand(count, 1), generator=generator(6))[..., 0].numpy()
    for i, k in enumerate(looks):
        assert stats.ks_2samp(path[i], seen[k]).pvalue > RARE
    # Not the marginals alone: the increments too.
    assert stats.ks_2samp(path[2] - path[1], seen[900] - seen[500]).pvalue > RARE
    assert stats.ks_2samp(path[1] - path[0], seen[500] - seen[200]).pvalue > RARE


@given(
    theta=st.floats(1e-6, 700),
    inner=st.integers(0, 6),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(deadline=None, max_examples=100)
def test_ou_samples_start_at_0_and_end_at_the_end_point_exactly(
    theta: float, inner: int, dtype: torch.dtype
) -> None:
    end = torch.randn(3, 2, generator=generator(), dtype=dtype)
    path = bridges.OUBridge(theta).sample(torch.linspace(0, 1, inner + 2), end, generator=generator())
    assert (path[0] == 0).all()
    assert torch.equal(path[-1], end)
    assert path.dtype == dtype


def test_brownian_samples_start_at_0_and_end_at_the_end_point_exactly() -> None:
    end = torch.randn(3, 2, generator=generator())
    path = bridges.get("brownian").sample(torch.linspace(0, 1, 5), end)
    assert (path[0] == 0).all()
    assert torch.equal(path[-1], end)


def test_samples_follow_the_generator_and_leave_the_global_one_alone() -> None:
    bridge, times, end = bridges.get("ou"), f64(*TIMES), torch.ones(3, 2)
    before = torch.random.get_rng_state()
    first, again, other = (bridge.sample(times, end, generator=generator(s)) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.dtype == torch.float32
    double = bridge.sample(times, end.double(), generator=generator(1))
    assert torch.equal(double.float(), first)


@pytest.mark.parametrize(("name", "parameters"), BRIDGES)
def test_the_transition_is_the_conditional_law(name: str, parameters: dict[str, float]) -> None:
    """Given y at s: regression of the joint Gaussian law of (s, t) on its first half, in decimals."""
    bridge = bridges.get(name, **parameters)
    assert isinstance(bridge, GaussianBridge)
    sigma = parameters.get("sigma", 1.0)
    free = free_ou(parameters.get("theta", 1.0), sigma) if name == "ou" else free_brownian(sigma)
    mean, covariance = conditioned(free)
    times = f64(*TIMES)
    first, second = torch.triu_indices(len(TIMES), len(TIMES), 1)
    decay, gain, variance = bridge.transition(times[first], times[second])
    expected = covariance[first, second] / covariance[first, first]
    close = {"rtol": 1e-12, "atol": 0.0}
    torch.testing.assert_close(decay, expected, **close)
    torch.testing.assert_close(gain, mean[second] - expected * mean[first], **close)
    left = covariance[second, second] - expected * covariance[first, second]
    torch.testing.assert_close(variance, left, **close)


@pytest.mark.parametrize(("name", "parameters"), BRIDGES)
def test_transitions_compose_and_start_at_the_marginal_law(
    name: str, parameters: dict[str, float]
) -> None:
    """From 0 to t, then on to u, is from 0 to u; and to 1 it ends at v without variance."""
    bridge = bridges.get(name, **parameters)
    assert isinstance(bridge, GaussianBridge)
    start, t, u = f64(0, 0, 0.2), f64(0.3, 0.5, 0.6), f64(0.9, 0.51, 1.0)
    (d1, g1, s1), (d2, g2, s2) = bridge.transition(start, t), bridge.transition(t, u)
    close = {"rtol": 1e-12, "atol": 1e-15}
    direct = bridge.transition(start, u)
    torch.testing.assert_close((d1 * d2, d2 * g1 + g2, d2**2 * s1 + s2), direct, **close)
    torch.testing.assert_close((g1[:2], s1[:2]), bridge.marginal(t[:2]), **close)
    assert (d1[:2] == 0).all()
    torch.testing.assert_close(torch.stack(direct)[:, 2], f64(0, 1, 0), **close)


def test_transitions_are_computed_in_float64() -> None:
    single = bridges.BrownianBridge().transition(torch.tensor(0.25), torch.tensor(0.5))
    assert [x.dtype for x in single] == [torch.float64] * 3
    assert [x.item() for x in single] == pytest.approx([2 / 3, 1 / 3, 1 / 6], rel=1e-15)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("theta", [None, *THETAS])
def test_brownian_and_ou_are_markov(theta: float | None, sigma: float) -> None:
    bridge = bridges.BrownianBridge(sigma) if theta is None else bridges.OUBridge(theta, sigma)
    assert bridge.is_markov()


def test_a_bridge_with_memory_or_without_covariance_is_not_markov() -> None:
    class Marginal(bridges.GaussianBridge):
        def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return t, t * (1 - t)

    class Remembering(Marginal):
        """A Brownian bridge plus a path that is fixed once and for all: t (1 - t) times one normal."""

        def covariance(self, s: Tensor, t: Tensor) -> Tensor:
            return torch.minimum(s, t) * (1 - torch.maximum(s, t)) + s * (1 - s) * t * (1 - t)

    assert not Marginal().is_markov()
    assert not Remembering().is_markov()


def test_the_example_of_the_interface_works() -> None:
    class Late(bridges.GaussianBridge, name="late"):
        def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return t**3, t * (1 - t)

    late = bridges.get("late")
    assert isinstance(late, Late)
    assert late.hyperparameters == {"likelihood": "marginal", "learn": ""}
    t, end = f64(0.25, 0.5), f64(2.0, -1.0)[None]
    assert torch.equal(late.mean(t, end), torch.stack([end / 64, end / 8]))
    assert torch.equal(late.variance(t), f64(0.1875, 0.25))
    z = torch.zeros(2, 1, 2).double()
    expected = Normal(late.mean(t, end), f64(0.1875, 0.25).sqrt()[:, None, None]).log_prob(z).sum(-1)
    torch.testing.assert_close(late.log_prob(z, t, end), expected, rtol=1e-12, atol=0)
    with pytest.raises(
        NotImplementedError, match=r"Late defines marginal only; define covariance\(s, t\)"
    ):
        late.sample(t, end)

    model = tiny_bert()
    cost = bridges.RunningCost.for_model(model, "late").double()
    hidden = [torch.randn(1, 3, 32, dtype=torch.float64) for _ in range(4)]
    targets = torch.tensor([[-100, 7, -100]])
    trajectory, tokens = cost.trajectory(hidden, targets)
    times, latent, v = trajectory.times(), cost.latent_map(trajectory), cost.end_points(tokens)
    residual = latent - (times**3)[:, None, None] * v
    by_hand = (residual.square().sum((1, 2)) / (2 * times * (1 - times))).mean()
    torch.testing.assert_close(cost(hidden, targets), by_hand, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["brownian", "ou"])
def test_parameters_are_kept_and_shown(name: str) -> None:
    numbers = [k for k, v in registry.info(name).defaults.items() if isinstance(v, float)]
    parameters = {key: 1.5 + i for i, key in enumerate(numbers)}
    parameters |= {"likelihood": "path", "learn": "sigma"}
    bridge = bridges.get(name, **parameters)
    assert bridge.hyperparameters == parameters
    assert all(f"{key}={value}" in repr(bridge) for key, value in parameters.items())
    assert bridge.registered_name == name


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "1", None])
@pytest.mark.parametrize(("name", "key"), [("brownian", "sigma"), ("ou", "sigma"), ("ou", "theta")])
def test_bad_parameters_are_refused(name: str, key: str, value: object) -> None:
    with pytest.raises(bridges.BadInput, match=f"{key}={value!r}: expected a finite number above 0"):
        bridges.get(name, **{key: value})


@pytest.mark.parametrize(
    "times",
    [f64(-0.1, 0.5), f64(0.5, 1.1), f64(math.nan), torch.tensor([0, 1]), f64(0.5)[None], f64(0.5)[0]],
    ids=["below", "above", "nan", "integer", "matrix", "scalar"],
)
@pytest.mark.parametrize("method", ["mean", "variance", "sample", "log_prob"])
def test_bad_times_are_refused(method: str, times: Tensor) -> None:
    bridge, end = bridges.get("ou"), f64(1.0)[None]
    arguments = {
        "mean": (times, end),
        "variance": (times,),
        "sample": (times, end),
        "log_prob": (torch.zeros(1, 1, 1), times, end),
    }
    with pytest.raises(
        bridges.BadInput, match=r"times must be a floating vector \[T\] in \[0, 1\], got"
    ):
        getattr(bridge, method)(*arguments[method])


@pytest.mark.parametrize("times", [f64(0.5, 0.2), f64(0.5, 0.5)], ids=["falling", "repeated"])
def test_sample_needs_increasing_times(times: Tensor) -> None:
    with pytest.raises(bridges.BadInput, match=r"times must increase strictly, got \[0.5, "):
        bridges.get("brownian").sample(times, f64(1.0)[None])


@pytest.mark.parametrize("time", [0.0, 1.0])
def test_log_prob_at_the_pinned_ends_is_refused(time: float) -> None:
    with pytest.raises(bridges.BadInput, match=rf"needs times inside \(0, 1\), got \[{time}\]"):
        bridges.get("brownian").log_prob(torch.zeros(1, 1, 1), f64(time), f64(1.0)[None])


def test_shapes_that_do_not_fit_are_refused() -> None:
    bridge, t, end = bridges.get("brownian"), f64(0.5), f64(1.0, 2.0)[None]
    with pytest.raises(
        bridges.BadInput, match=r"z has shape \(1, 2\), expected \(1, 1, 2\), \[T, N, d\]"
    ):
        bridge.log_prob(torch.zeros(1, 2), t, end)
    for call in (bridge.mean, bridge.sample, lambda t, end: bridge.log_prob(end, t, end)):
        with pytest.raises(bridges.BadInput, match=r"end points must be \[N, d\], got \(2,\)"):
            call(t, end[0])
