"""The Gaussian processes of the zoo against constructions that share no code with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from tiny import tiny_bert
from torch import Tensor, nn
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

import bridges
from bridges import BadInput, LatentMap, RunningCost, Trajectory, registry
from bridges.base import GaussianBridge
from bridges.formulas import fall
from bridges.trajectory import layer_times

KERNELS = ("matern12", "matern32", "matern52", "rbf")
ALPHAS = (1e-12, 1e-3, 0.3, 0.5, 1.0, 3.0, 50.0, 1e4)
HURSTS = (0.05, 0.3, 0.5, 0.75, 0.95)
LENGTHSCALES = (0.05, 0.5, 10.0)
ENDS: list[tuple[str, dict[str, Any]]] = [
    *(("alpha", {"alpha": alpha}) for alpha in (1e-12, 0.5, 1e4)),
    *(("fractional", {"hurst": hurst}) for hurst in (0.05, 0.95)),
    *(("gp", {"kernel": k, "lengthscale": x}) for k in KERNELS for x in (0.05, 10.0)),
    ("smooth", {}),
]
"""Every process at the ends of its range."""

RARE = 1e-4
"""About seventy p-values are drawn here, once and for all: a right sampler had 0.7 % to miss this."""


@pytest.fixture(autouse=True)
def _registry_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes that a test names are forgotten after it."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


def gaussian(name: str, **parameters: Any) -> GaussianBridge:
    bridge = bridges.get(name, **parameters)
    assert isinstance(bridge, GaussianBridge)
    return bridge


def covariance(bridge: GaussianBridge, times: Tensor) -> Tensor:
    return bridge.covariance(times[:, None], times[None])


def check_law(
    bridge: GaussianBridge, mean: Tensor, expected: Tensor, rtol: float, extra: float = 0
) -> None:
    """Covariances within rtol of the two standard deviations' product, variances of themselves."""
    times = f64(*TIMES)
    factor, variance = bridge.marginal(times)
    torch.testing.assert_close(factor, mean, rtol=rtol, atol=1e-15)
    torch.testing.assert_close(variance, expected.diagonal(), rtol=rtol + extra, atol=0.0)
    found, size = covariance(bridge, times), expected.diagonal().sqrt()
    wrong = (found - expected).abs() / (size[:, None] * size)
    assert wrong.max() <= rtol + extra


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
    """With lengthscale 10, what is left between the ends is down to 3e-9 of a smooth kernel's variance:
    pairs of layers at opposite ends of 128 lose seven digits of sixteen, two thirds of them by that.
    """
    bridge = bridges.GPBridge(kernel, lengthscale, 0.7)
    law = conditioned(free_stationary(kernel, lengthscale, 0.7))
    check_law(
        bridge,
        *law,
        rtol=1e-13 if lengthscale < 1 and kernel == "matern12" else 1e-8,
        extra=bridge.nugget,
    )


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
    assert bridge.hyperparameters == {"sigma": 3.0}
    check_law(bridge, *conditioned(kernel), rtol=1e-9, extra=1e-6)
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


# Definiteness


@given(
    case=st.one_of(
        st.tuples(st.just("alpha"), st.fixed_dictionaries({"alpha": st.floats(1e-6, 1e3)})),
        st.tuples(st.just("fractional"), st.fixed_dictionaries({"hurst": st.floats(0.05, 0.95)})),
        st.tuples(st.just("smooth"), st.just({})),
        st.tuples(
            st.just("gp"),
            st.fixed_dictionaries(
                {"kernel": st.sampled_from(KERNELS), "lengthscale": st.floats(0.05, 10)}
            ),
        ),
    ),
    chosen=st.sets(st.integers(1, 256), min_size=1, max_size=40),
)
@settings(deadline=None, max_examples=200)
def test_the_covariance_is_positive_definite(case: tuple[str, dict[str, Any]], chosen: set[int]) -> None:
    """At any times of a grid of 257: Cholesky succeeds, and no correlation exceeds 1."""
    times = torch.tensor(sorted(chosen), dtype=torch.float64) / 257
    matrix = covariance(gaussian(case[0], **case[1]), times)
    torch.linalg.cholesky(matrix)
    size = matrix.diagonal().sqrt()
    assert ((matrix / size / size[:, None]).abs() <= 1 + 1e-8).all()


@pytest.mark.parametrize(("name", "parameters"), ENDS)
@pytest.mark.parametrize("layers", [1, 24, 128])
def test_a_trajectory_has_a_joint_law_at_the_ends_of_the_range(
    name: str, parameters: dict[str, Any], layers: int
) -> None:
    """The root gives the covariance back: 1e-12 of the standard deviations."""
    matrix = covariance(gaussian(name, **parameters), layer_times(layers + 1))
    root, size = torch.linalg.cholesky(matrix), matrix.diagonal().sqrt()
    assert ((root @ root.T - matrix) / size / size[:, None]).abs().max() <= 1e-12


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


# Parameters


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        *(
            (name, {key: value}, f"{key}={value!r}: expected a finite number above 0")
            for name, key in [
                *(("alpha", "alpha"), ("alpha", "sigma"), ("fractional", "sigma")),
                *(("smooth", "sigma"), ("gp", "sigma")),
            ]
            for value in (0, -1.0, math.nan, math.inf, "1", None)
        ),
        *(
            ("fractional", {"hurst": value}, f"hurst={value!r}: expected a number from 0.05 to 0.95")
            for value in (0.04, 1.0, math.nan, "0.5", None, True)
        ),
        *(
            ("gp", {"lengthscale": value}, f"lengthscale={value!r}: expected a number from 0.05 to 10")
            for value in (0.0, 11, math.inf)
        ),
        ("gp", {"kernel": "matern"}, "unknown kernel 'matern'; did you mean 'matern"),
        ("gp", {"kernel": ""}, r"unknown kernel '' \(known: matern12, matern32, matern52, rbf\)"),
    ],
)
def test_bad_parameters_are_refused(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        bridges.get(name, **parameters)


@pytest.mark.parametrize(
    ("word", "parameters"),
    [
        ("alpha:alpha=3", {"alpha": 3.0, "sigma": 1.0}),
        ("fractional:hurst=0.3,sigma=2", {"hurst": 0.3, "sigma": 2.0}),
        ("gp:kernel=rbf,lengthscale=0.2", {"kernel": "rbf", "lengthscale": 0.2, "sigma": 1.0}),
        ("smooth:sigma=5", {"sigma": 5.0}),
    ],
)
def test_parameters_are_read_kept_and_shown(word: str, parameters: dict[str, Any]) -> None:
    bridge = bridges.parse(word)
    assert bridge.hyperparameters == parameters
    assert all(f"{key}={value}" in repr(bridge) for key, value in parameters.items())


def with_tensor(bridge: GaussianBridge, **values: Tensor) -> GaussianBridge:
    """The bridge with tensors in the place of numbers, as a learned parameter is."""
    for key, value in values.items():
        setattr(bridge, key, value)
    return bridge


LEARNABLE = [
    ("alpha", {}, "alpha", 0.5),
    ("alpha", {}, "alpha", 2.0),
    ("alpha", {}, "sigma", 0.7),
    ("fractional", {}, "hurst", 0.05),
    ("fractional", {}, "hurst", 0.6),
    ("fractional", {}, "hurst", 0.95),
    ("fractional", {}, "sigma", 0.7),
    ("smooth", {}, "sigma", 0.7),
    *(("gp", {"kernel": kernel}, "lengthscale", x) for kernel in KERNELS for x in (0.05, 0.5, 10.0)),
    ("gp", {}, "sigma", 0.7),
]


@pytest.mark.parametrize(("name", "parameters", "key", "value"), LEARNABLE)
def test_a_formula_has_a_gradient_to_its_parameter(
    name: str, parameters: dict[str, Any], key: str, value: float
) -> None:
    """Against central differences, 1e-6 apart; at both ends of time and for equal times it is finite."""
    times = f64(0, *TIMES, 1)

    def law(x: float, **grad: bool) -> tuple[Tensor, Tensor]:
        point = f64(x)[0].requires_grad_(**grad)
        bridge = with_tensor(gaussian(name, **parameters), **{key: point})
        factor = bridge.marginal(times)[0].expand(len(times), -1)
        return point, torch.cat([factor, covariance(bridge, times)]).flatten()

    point, values = law(value)
    slopes = torch.stack(
        [torch.autograd.grad(x, point, retain_graph=True, allow_unused=True)[0] for x in values]
        if values.requires_grad
        else []
    )
    step = 1e-6
    expected = (law(value + step)[1] - law(value - step)[1]).detach() / (2 * step)
    torch.testing.assert_close(slopes, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "parameters", "key", "value"), LEARNABLE)
def test_dimensions_may_have_parameters_of_their_own(
    name: str, parameters: dict[str, Any], key: str, value: float
) -> None:
    """A parameter [2] against times [T, 1]: each column is the bridge with that number, as far as a long
    lengthscale leaves digits.
    """
    times, pair = f64(0, *TIMES, 1), f64(value, 0.8 * value + 0.02)
    bridge = with_tensor(gaussian(name, **parameters), **{key: pair})
    columns = bridge.covariance(times[:, None], times.flip(0)[:, None])
    variance = bridge.marginal(times[:, None])[1]
    for i, x in enumerate(pair.tolist()):
        single = gaussian(name, **parameters, **{key: x})
        torch.testing.assert_close(
            columns[:, i], single.covariance(times, times.flip(0)), rtol=1e-9, atol=0
        )
        torch.testing.assert_close(variance[:, i], single.marginal(times)[1], rtol=1e-9, atol=0)


# In a running cost


@pytest.mark.parametrize("word", ["alpha", "fractional", "gp:kernel=rbf", "smooth", "student:nu=3"])
def test_it_costs_a_models_states_and_is_kept(word: str, tmp_path: Path) -> None:
    model = tiny_bert()
    cost = RunningCost.for_model(model, word)
    hidden = [torch.randn(2, 5, 32, requires_grad=True) for _ in range(4)]
    labels = torch.tensor([[-100, 7, -100, 9, -100], [-100, -100, 8, -100, -100]])
    value = cost(hidden, labels)
    assert value > 0
    for grad in torch.autograd.grad(value, hidden):
        assert grad.isfinite().all()
        assert grad.norm() > 1e-6
    cost.save_pretrained(tmp_path / "cost")
    loaded = RunningCost.from_pretrained(tmp_path / "cost")
    assert loaded.bridge.hyperparameters == bridges.parse(word).hyperparameters
    assert torch.equal(loaded(hidden, labels), value)


# Extremes in low precision


def trajectory(layers: int, dtype: torch.dtype = torch.float64) -> tuple[Trajectory, Tensor]:
    """Five targets in two sequences, H 6, and end points in four dimensions."""
    rng = generator(1)
    states = torch.randn(layers, 5, 6, generator=rng, dtype=torch.float64).to(dtype)
    context = torch.randn(layers, 2, 6, generator=rng, dtype=torch.float64).to(dtype)
    end = nn.functional.normalize(torch.randn(5, 4, generator=rng, dtype=torch.float64), dim=1)
    return Trajectory(states, context, torch.tensor([0, 1, 1, 0, 1])), end


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layers", [1, 24, 128])
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        *ENDS,
        *(("student", {"nu": nu, "base": b}) for nu in (2.001, 1e6) for b in ("brownian", "smooth")),
    ],
)
def test_costs_and_gradients_are_those_of_double_precision(
    name: str, parameters: dict[str, Any], layers: int, dtype: torch.dtype
) -> None:
    """States of the dtype, a map in single precision: 1e-5 of the value, and of the largest gradient."""
    bridge, (seen, end) = bridges.get(name, **parameters), trajectory(layers + 1, dtype)
    single = LatentMap(6, (8, 4))
    double = LatentMap(6, (8, 4)).double()
    double.load_state_dict(single.state_dict())
    found: list[list[Tensor]] = []
    for latent_map, kind in ((single, dtype), (double, torch.float64)):
        states = seen.states.to(kind).requires_grad_()
        moved = Trajectory(states, seen.context.to(kind), seen.rows)
        cost = bridge.cost(latent_map, moved, end.to(latent_map.weights[0].dtype))
        assert cost.shape == (5,)
        grads = torch.autograd.grad(cost.mean(), [states, *latent_map.parameters()])
        found.append([cost.detach(), *grads])
    for low, high in zip(*found, strict=True):
        assert low.isfinite().all()
        accuracy = 2**-8 if low.dtype == torch.bfloat16 else 1e-5
        assert (low.double() - high).abs().max() <= accuracy * high.abs().max()
        assert high.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "parameters"), ENDS)
def test_a_law_at_times_of_low_precision_is_the_rounded_law(
    name: str, parameters: dict[str, Any], dtype: torch.dtype
) -> None:
    """Both ends included: one rounding, 2^-8 or 2^-23 of each value; underflow to 0 is one too."""
    times = layer_times(129).to(dtype)
    times = torch.cat([torch.zeros(1, dtype=dtype), times, torch.ones(1, dtype=dtype)])
    bridge = gaussian(name, **parameters)
    for low, high in zip(bridge.marginal(times), bridge.marginal(times.double()), strict=True):
        assert low.dtype == dtype
        torch.testing.assert_close(low, high.to(dtype), rtol=torch.finfo(dtype).eps, atol=2e-38)
    factor, variance = bridge.marginal(times)
    assert factor[0] == variance[0] == variance[-1] == 0
    assert factor[-1] == 1
