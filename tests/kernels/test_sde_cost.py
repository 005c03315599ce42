"""The SDE's running cost as an operation: value and gradients, dtypes, refusals."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sde_cases import Case, case, gradients
from torch import Tensor

from kernels import oracle
from kernels.path.solver import Solver
from kernels.sde import PathGrid, sde_cost

SOLVERS: dict[Solver, tuple[dict[str, Any], float]] = {
    "sequential": ({}, 1e-12),
    "picard": ({"tolerance": 1e-13, "max_sweeps": 40}, 1e-11),
}
"""Settings, and how far from the oracle: some hundred roundings of 1e-16; Picard stops a bit short."""

every_solver = pytest.mark.parametrize("solver", SOLVERS)


def value_of(inputs: Case, solver: Solver = "sequential", **options: Any) -> Tensor:
    return sde_cost(*inputs.arguments(), solver=solver, **SOLVERS[solver][0], **options)[0]


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative RMS; absolute below 1, where a gradient is the sum of terms of size 1 that cancel."""
    return float((found - expected).norm() / expected.norm().clamp(min=1))


# The oracle


def check(inputs: Case, solver: Solver, allowed: float) -> None:
    inputs = inputs.trainable()
    mine, true = value_of(inputs, solver), oracle.sde_cost(*inputs.arguments())
    assert distance(mine.detach(), true.detach()) <= allowed
    if len(inputs.end):
        expected = gradients(true, inputs)
        for name, grad in gradients(mine, inputs).items():
            assert distance(grad, expected[name]) <= allowed, name


@every_solver
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(0, 4), st.integers(1, 3), st.integers(2, 5)),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    steps=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=30)
def test_value_and_every_gradient_are_the_oracles(
    solver: Solver, shape: tuple[int, int, int, int], sizes: list[int], steps: int, seed: int
) -> None:
    """Ten times the usual distance: among so few numbers LayerNorm may divide by a small one."""
    check(case(*shape, sizes, steps, seed=seed), solver, 10 * SOLVERS[solver][1])


@every_solver
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(0, 4), st.integers(1, 3), st.integers(2, 5)),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=20)
def test_without_a_context_they_are_the_oracles_too(
    solver: Solver, shape: tuple[int, int, int, int], sizes: list[int], seed: int
) -> None:
    """A hundred times: LayerNorm is over two numbers here, and takes off what the two have in common."""
    check(case(*shape, sizes, 4, seed=seed, context=False), solver, 100 * SOLVERS[solver][1])


def test_without_a_context_it_is_a_context_that_says_what_the_states_say() -> None:
    """LayerNorm over [state; state] is LayerNorm over the state, twice: the first layer sums the two."""
    alone = case(4, 5, 5, 6, (7, 3), context=False)
    first = alone.weights[0]
    halves = torch.cat([0.25 * first, 0.75 * first], 1)
    both = dataclasses.replace(
        alone,
        context=alone.states,
        rows=torch.arange(5),
        weights=[halves, *alone.weights[1:]],
    )
    torch.testing.assert_close(value_of(alone), value_of(both), rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match=r"the first weight is \(7, 12\): expected \[\*, 6\] for H=6"):
        value_of(dataclasses.replace(both, context=None))


@every_solver
@pytest.mark.parametrize("sizes", [(5,), (9, 4), (16, 8, 5), (12, 9, 7, 5)])
def test_they_are_at_the_sizes_of_a_small_model(sizes: tuple[int, ...], solver: Solver) -> None:
    inputs = case(layers=7, targets=4, batch=3, width=12, sizes=sizes, steps=14)
    check(inputs, solver, SOLVERS[solver][1])


@every_solver
def test_end_points_of_a_token_share_its_path(solver: Solver) -> None:
    """K of them, unreduced, are what K calls with the same noise give."""
    inputs = case(4, 5, 3, 6, (8, 4), 7)
    ends = torch.stack([inputs.end, -inputs.end])
    several = dataclasses.replace(inputs, end=ends).trainable()
    mine = value_of(several, solver, reduction="none")
    true = oracle.sde_cost(*several.arguments(), reduction="none")
    assert mine.shape == (2, 5)
    assert distance(mine.detach(), true.detach()) <= SOLVERS[solver][1]
    expected = gradients(true.square().sum(), several)
    for name, grad in gradients(mine.square().sum(), several).items():
        assert distance(grad, expected[name]) <= SOLVERS[solver][1], name
    for end, values in zip(ends, mine, strict=True):
        alone = value_of(dataclasses.replace(inputs, end=end), solver, reduction="none")
        torch.testing.assert_close(values, alone, rtol=1e-12, atol=0)


@every_solver
@pytest.mark.parametrize("sizes", [(2,), (3, 2), (3, 2, 2)])
def test_every_gradient_is_the_derivative(sizes: tuple[int, ...], solver: Solver) -> None:
    inputs = case(layers=2, targets=2, batch=2, width=2, sizes=sizes, steps=3).trainable()
    floats = tuple(inputs.floats().values())
    # The closure reads the very leaves that gradcheck moves.
    assert torch.autograd.gradcheck(lambda *_: value_of(inputs, solver), floats)


def test_one_step_by_hand() -> None:
    """No layer above the first, X = 0: p_0 = 0.5 + 2 t_0 = 0.5 and y_1 = 3 p_0 + 7 eps = 8.5 for eps 1.

    Then p_1 = 0.5 + 2 * 0.25 + 4 * 8.5 = 35 and r = 35 + 10 * 8.5 - 5 v = 100 for v = 4.
    """

    def exact(*x: float) -> Tensor:
        return torch.tensor(x, dtype=torch.float64)

    grid = PathGrid(
        times=exact(0, 0.25),
        spline=exact(0, 0)[:, None],
        decay=exact(9),
        gain=exact(3),
        spread=exact(7),
        of_net=exact(0, 1),
        of_state=exact(0, 10),
        of_end=exact(0, 5),
        weight=exact(1, 0.5),
    )
    nothing = torch.zeros(1, 1, 1).double()
    value, _ = sde_cost(
        *(nothing, nothing, torch.tensor([0]), exact(2, 4)[None]),
        *([exact(11, 13)[None]], [exact(0.5)], exact(4)[None], nothing + 1, grid),
    )
    assert value.item() == 0.5 * 100**2 / 2


@every_solver
def test_without_targets_the_value_and_every_gradient_are_zero(solver: Solver) -> None:
    inputs = case(targets=0).trainable()
    value = value_of(inputs, solver)
    assert value.item() == 0
    assert value.requires_grad
    for grad in gradients(value, inputs).values():
        assert (grad == 0).all()


@every_solver
def test_float32_is_close_to_float64(solver: Solver) -> None:
    """1e-5 relative: about a hundred aligned float32 roundings of 6e-8."""
    inputs = case(layers=7, targets=9, width=16, sizes=(16, 8, 6), steps=12)
    low = inputs.to(torch.float32).trainable()
    exact = low.to(torch.float64).trainable()
    value, _ = sde_cost(*low.arguments(), solver=solver, tolerance=1e-7, max_sweeps=40)
    true = oracle.sde_cost(*exact.arguments())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), true, rtol=1e-5, atol=0)
    expected = gradients(true, exact)
    for name, grad in gradients(value, low).items():
        assert (grad.double() - expected[name]).norm() <= 1e-5 * expected[name].norm(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_read_as_they_are_and_get_gradients(dtype: torch.dtype) -> None:
    """Nothing else is rounded; float64 end points and noise are."""
    inputs = case().to(torch.float32)
    half = dataclasses.replace(
        inputs, states=inputs.states.to(dtype), context=inputs.context.to(dtype), end=inputs.end.double()
    )
    half, widened = half.trainable(), half.to(torch.float32).trainable()
    value, wide = value_of(half), value_of(widened)
    assert value.dtype == torch.float32
    assert torch.equal(value, wide)
    found, expected = gradients(value, half), gradients(wide, widened)
    for name in ("states", "context"):
        assert found[name].dtype == dtype
        assert torch.equal(found[name], expected[name].to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_computed_with_in_float32(dtype: torch.dtype) -> None:
    half = case().to(dtype).trainable()
    wide = half.to(torch.float32).trainable()
    value, true = value_of(half), value_of(wide)
    assert value.dtype == dtype
    assert torch.equal(value, true.to(dtype))
    expected = gradients(true, wide)
    for name, grad in gradients(value, half).items():
        assert torch.equal(grad, expected[name].to(dtype)), name


@every_solver
def test_autocast_around_it_changes_nothing(solver: Solver) -> None:
    inputs = case(width=16).to(torch.float32).trainable()
    outside = value_of(inputs, solver)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = value_of(inputs, solver)
    assert torch.equal(inside, outside)
    expected = gradients(outside, inputs)
    for name, grad in gradients(inside, inputs).items():
        assert torch.equal(grad, expected[name]), name


@every_solver
def test_the_gradient_may_be_asked_for_under_autocast(solver: Solver) -> None:
    """Where torch itself takes the products in bfloat16: three digits."""
    inputs = case(width=16).to(torch.float32).trainable()
    expected = gradients(value_of(inputs, solver), inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(value_of(inputs, solver), inputs)
    for name, grad in found.items():
        assert (grad - expected[name]).norm() <= 0.03 * expected[name].norm(), name
    for name in ("path_weight", "weights.1", "biases.1", "noise"):
        assert torch.equal(found[name], expected[name]), name


@every_solver
def test_the_same_noise_is_the_same_value_bit_for_bit_and_another_is_not(solver: Solver) -> None:
    inputs = case()
    again = dataclasses.replace(inputs, noise=inputs.noise.clone())
    other = dataclasses.replace(inputs, noise=-inputs.noise)
    assert torch.equal(value_of(inputs, solver), value_of(again, solver))
    assert not torch.equal(value_of(inputs, solver), value_of(other, solver))


@every_solver
def test_a_second_derivative_is_refused(solver: Solver) -> None:
    inputs = case().trainable()
    (first,) = torch.autograd.grad(value_of(inputs, solver), inputs.states, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@every_solver
def test_only_the_gradients_that_are_needed_are_found(solver: Solver) -> None:
    """Frozen weights, as when a model is tuned."""
    trainable, frozen = case().trainable(), case()
    states = frozen.states.clone().requires_grad_()
    inputs = dataclasses.replace(frozen, states=states)
    (found,) = torch.autograd.grad(value_of(inputs, solver), states)
    torch.testing.assert_close(
        found, gradients(value_of(trainable, solver), trainable)["states"], rtol=1e-12, atol=1e-12
    )


def _grid(**changes: Tensor) -> dict[str, PathGrid]:
    return {"grid": dataclasses.replace(case().grid, **changes)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": torch.zeros(3, 3, 4)}, r"context \(3, 3, 4\) does not fit states \(4, 5, 4\)"),
        ({"states": torch.zeros(4, 4)}, r"states \(4, 4\) and rows \(5,\): expected \[L, N, H\]"),
        ({"rows": torch.zeros(4).long()}, r"rows \(4,\): expected \[L, N, H\] and \[N\]"),
        ({"weights": [], "biases": []}, r"weights \[\] and biases \[\] are no stack of layers"),
        ({"biases": [torch.zeros(6)]}, r"biases \[\(6,\)\] are no stack of layers"),
        (
            {"weights": [torch.zeros(6, 9), torch.zeros(5, 6), torch.zeros(3, 5)]},
            r"the first weight is \(6, 9\): expected \[\*, 8\] for H=4",
        ),
        ({"path_weight": torch.zeros(6, 3)}, r"path_weight is \(6, 3\): expected \(6, 4\)"),
        ({"path_weight": torch.zeros(5, 4)}, r"path_weight is \(5, 4\): expected \(6, 4\)"),
        ({"end": torch.zeros(4, 3)}, r"end \(4, 3\): expected \(5, 3\), \[N, d\], or \[K, N, d\]"),
        ({"noise": torch.zeros(7, 5, 3)}, r"noise is \(7, 5, 3\): expected \(6, 5, 3\)"),
        ({"noise": torch.zeros(6, 5, 1)}, r"noise is \(6, 5, 1\): expected \(6, 5, 3\)"),
        (_grid(spline=torch.zeros(6, 4)), r"grid.spline is \(6, 4\): expected \(7, 4\)"),
        (_grid(spline=torch.zeros(7, 3)), r"grid.spline is \(7, 3\): expected \(7, 4\)"),
        (_grid(decay=torch.zeros(7)), r"noise is \(6, 5, 3\): expected \(7, 5, 3\)"),
        *(
            (_grid(**{name: torch.zeros(length)}), rf"{name} is \({length},\): expected \({right},\)")
            for length, right, names in (
                (7, 6, ("gain", "spread")),
                (6, 7, ("times", "of_net", "of_state", "of_end", "weight")),
            )
            for name in names
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sde_cost(*dataclasses.replace(case(), **changes).arguments())


def test_an_offset_of_the_states_costs_no_digits() -> None:
    """LayerNorm takes the mean away; a mean of 1000 deviations leaves float32 about 1e-4 of the rest."""
    inputs = case(5, 6, 3, 32, (16, 8), 10)
    exact = value_of(inputs)
    moved = dataclasses.replace(inputs, states=inputs.states + 1000, context=inputs.context + 1000)
    torch.testing.assert_close(value_of(moved), value_of(inputs), rtol=1e-6, atol=0)
    torch.testing.assert_close(value_of(moved.to(torch.float32)).double(), exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "nonsense"}, "solver='nonsense': expected one of sequential, picard"),
        ({"solver": "picard", "max_sweeps": 0}, "max_sweeps=0, tolerance=0.0001: expected both above 0"),
        ({"solver": "picard", "tolerance": 0.0}, "max_sweeps=12, tolerance=0.0: expected both above 0"),
        ({"solver": "picard", "backend": "nonsense"}, "unknown backend 'nonsense'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sde_cost(*case(3, 2, 2, 4, (5, 3), 4).arguments(), **options)
