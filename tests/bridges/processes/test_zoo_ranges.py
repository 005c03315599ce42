"""The zoo at the ends of its ranges: definite, finite, differentiable, and refused beyond."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_bert
from torch import Tensor
from zoo_cases import TIMES, f64
from zoo_tools import ENDS, KERNELS, covariance, gaussian, trajectory, with_tensor

import bridges
from bridges import BadInput, LatentMap, RunningCost, Trajectory
from bridges.latent.trajectory import layer_times

pytestmark = pytest.mark.slow

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
    assert parameters.items() <= bridge.hyperparameters.items()
    assert all(f"{key}={value}" in repr(bridge) for key, value in parameters.items())


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
    """A list of two: each column is the bridge with that number, as far as a long
    lengthscale leaves digits.
    """
    times, pair = f64(0, *TIMES, 1), [value, 0.8 * value + 0.02]
    bridge = gaussian(name, **parameters, **{key: pair})
    columns = bridge.covariance(times, times.flip(0))
    variance = bridge.marginal(times)[1]
    for i, x in enumerate(pair):
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
