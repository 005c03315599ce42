"""The two solvers of a driven path: the same path, the same gradient, and an account of what it took."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from sde_cases import Case, case, gradients
from torch import Tensor, nn

import bridges
from bridges.processes.sde import DriftNetwork, path_grid
from kernels import oracle
from kernels.path import solver as path_solver
from kernels.path.network import PathNetwork
from kernels.path.picard import FixedSweeps, adjoint_picard, propagator, solve_picard
from kernels.path.sequential import solve_sequential
from kernels.sde import LIPSWISH, drift_inputs, sde_cost


def as_initialised(target: str, layers: int, steps: int) -> Case:
    """float32, d 128 as the paper, PyTorch's initial weights, states that drift with depth."""
    rng = torch.Generator().manual_seed(0)
    network = DriftNetwork(32, (256, 128, 128)).requires_grad_(False)
    grid = path_grid(bridges.parse(target), layers, steps)  # type: ignore[arg-type]

    def walk(count: int) -> Tensor:
        moves = torch.randn(layers, count, 32, generator=rng)
        return torch.randn(1, count, 32, generator=rng) + 0.2 * moves.cumsum(0)

    return Case(
        states=walk(4),
        context=walk(2),
        rows=torch.arange(4) % 2,
        path_weight=network.path.weight,
        weights=network.weights,
        biases=network.biases,
        end=nn.functional.normalize(torch.randn(4, 128, generator=rng), dim=1),
        noise=torch.randn(len(grid.decay), 4, 128, generator=rng),
        grid=grid,
    ).to(torch.float32)


def stiff(steps: int = 10) -> Case:
    """float64, and a network that listens to y so much that every sweep changes the path."""
    inputs = case(sizes=(6, 3), steps=steps)
    return dataclasses.replace(inputs, path_weight=8 * inputs.path_weight)


def problem(inputs: Case) -> tuple[PathNetwork, Tensor, Tensor, Tensor]:
    """Network, forcing, decay and gain, as `sde_cost` hands them to a solver."""
    grid = inputs.grid.to(inputs.states)
    first = drift_inputs(
        *(inputs.states, inputs.context, inputs.rows),
        *(inputs.path_weight[:, 0], inputs.weights[0], inputs.biases[0], grid),
    )
    later = [LIPSWISH * weight for weight in inputs.weights[1:]]
    net = PathNetwork(first, inputs.path_weight[:, 1:], later, inputs.biases[1:])
    return net, grid.spread[:, None, None] * inputs.noise, grid.decay, grid.gain


def per_token(found: Tensor, expected: Tensor) -> float:
    """Largest relative RMS difference of a token's path."""
    return float(((found - expected).norm(dim=(0, 2)) / expected.norm(dim=(0, 2))).max())


# The path


@pytest.mark.parametrize("decay", [(), (0.5,), (0.9, 0.0, -0.7, 1.2), (0.0, 0.0), (-1.0, 2.0, 0.0)])
def test_the_propagator_is_the_recurrence(decay: tuple[float, ...]) -> None:
    factors = torch.tensor(decay, dtype=torch.float64)
    found = propagator(factors)
    assert found.shape == (len(decay) + 1, len(decay) + 1)
    for k in range(len(decay) + 1):
        y = torch.zeros(len(decay) + 1, dtype=torch.float64)
        y[k] = 1
        for j in range(k, len(decay)):
            y[j + 1] = factors[j] * y[j]
        torch.testing.assert_close(found[:, k], y, rtol=1e-15, atol=0)


@pytest.mark.parametrize("target", ["brownian", "ou:theta=2"])
@pytest.mark.parametrize(("layers", "steps"), [(25, 25), (24, 48), (25, 100)])
def test_few_evaluations_are_enough_for_a_network_as_initialised(
    layers: int, steps: int, target: str
) -> None:
    net, *recurrence = problem(as_initialised(target, layers, steps))
    path = solve_sequential(net, *recurrence)
    found, evaluations, residual = solve_picard(net, *recurrence, tolerance=1e-4, max_sweeps=12)
    assert found is not None
    assert len(found.y) == steps + 1
    assert 3 <= evaluations <= 5
    assert residual <= 1e-4
    assert per_token(found.y, path.y) <= 1e-3
    assert per_token(found.values[-1], path.values[-1]) <= 1e-3


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5, 1e-9])
def test_the_tolerance_bounds_the_error(tolerance: float) -> None:
    """One more sweep would change it by much less than the last one did."""
    net, *recurrence = problem(as_initialised("brownian", 13, 26).to(torch.float64))
    found, _, residual = solve_picard(net, *recurrence, tolerance=tolerance, max_sweeps=12)
    assert found is not None
    assert residual <= tolerance
    assert per_token(found.y, solve_sequential(net, *recurrence).y) <= 1.5 * residual + 1e-14


def test_a_feedback_of_any_strength_is_exact_after_one_sweep_a_step_and_one_to_see_it() -> None:
    """A node depends on earlier ones alone, so each sweep settles one more, to the last bit.

    1e-10: the two solvers round differently, and this network magnifies what it is given.
    """
    steps = 10
    net, *recurrence = problem(stiff(steps))
    found, evaluations, residual = solve_picard(net, *recurrence, tolerance=0.0, max_sweeps=steps + 1)
    assert (evaluations, residual) == (steps + 1, 0.0)
    assert found is not None
    assert per_token(found.y, solve_sequential(net, *recurrence).y) <= 1e-10
    none, evaluations, residual = solve_picard(net, *recurrence, tolerance=0.0, max_sweeps=steps)
    assert none is None
    assert evaluations == steps
    assert residual > 0


def test_a_network_that_does_not_hear_the_path_is_looked_at_after_three_sweeps() -> None:
    """Or after all there may be; one sweep finds the path and sees that it has moved."""
    inputs = case()
    deaf = dataclasses.replace(inputs, path_weight=torch.zeros_like(inputs.path_weight))
    net, *recurrence = problem(deaf)
    for most, expected in ((12, 3), (3, 3), (2, 2)):
        found, evaluations, residual = solve_picard(net, *recurrence, tolerance=1e-4, max_sweeps=most)
        assert found is not None
        assert (evaluations, residual) == (expected, 0.0)
    found, evaluations, residual = solve_picard(net, *recurrence, tolerance=1e-4, max_sweeps=1)
    assert (found, evaluations) == (None, 1)
    assert residual > 1e-4


def test_the_slowest_token_decides() -> None:
    """Beside it 200 tokens whose network is switched off: they settle at once and must not hide it."""
    rng = torch.Generator().manual_seed(0)
    steps, width, dim = 20, 6, 3
    weight = torch.randn(width, dim, generator=rng, dtype=torch.float64)
    last = torch.randn(dim, width, generator=rng, dtype=torch.float64) / 2
    inputs = torch.full((steps + 1, 201, width), -1e3, dtype=torch.float64)
    inputs[:, 0] = 1
    forcing = torch.randn(steps, 201, dim, generator=rng, dtype=torch.float64)
    factors = torch.full((2, steps), 0.9, dtype=torch.float64)
    factors[1] = 0.1
    arguments = {"tolerance": 1e-4, "max_sweeps": 20}

    def solve(tokens: slice) -> tuple[Tensor, int]:
        net = PathNetwork(inputs[:, tokens], weight, [last], [torch.ones(dim).double()])
        found, evaluations, _ = solve_picard(net, forcing[:, tokens], *factors, **arguments)  # type: ignore[arg-type]
        assert found is not None
        return found.y, evaluations

    alone, slow = solve(slice(1))
    assert solve(slice(1, None))[1] == 3
    together, evaluations = solve(slice(None))
    assert evaluations == slow > 4
    torch.testing.assert_close(together[:, :1], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_the_tolerance_is_relative_to_the_path(size: float) -> None:
    """A linear network without constant terms: the path is in proportion to its forcing."""
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 3, generator=rng, dtype=torch.float64)
    net = PathNetwork(torch.zeros(21, 2, 3).double(), weight, [], [])
    factors = torch.full((2, 20), 0.9, dtype=torch.float64)
    factors[1] = 0.1
    forcing = size * torch.randn(20, 2, 3, generator=rng, dtype=torch.float64)
    found, evaluations, residual = solve_picard(net, forcing, *factors, tolerance=1e-4, max_sweeps=20)
    assert found is not None
    assert evaluations == 8
    assert 1e-6 < residual <= 1e-4


# The gradient


@pytest.mark.parametrize("target", ["brownian", "ou:theta=2"])
def test_the_gradients_of_both_solvers_agree(target: str) -> None:
    """Relative 1e-3 at the default tolerance of 1e-4; measured: 3e-4, and 2e-6 of the value."""
    inputs = as_initialised(target, 13, 39).trainable()
    value, report = sde_cost(*inputs.arguments(), solver="picard")
    true, _ = sde_cost(*inputs.arguments(), solver="sequential")
    torch.testing.assert_close(value, true, rtol=1e-5, atol=0)
    found, expected = gradients(value, inputs), gradients(true, inputs)
    assert 3 <= report.backward_evaluations <= 5
    for name, grad in found.items():
        assert (grad - expected[name]).norm() <= 1e-3 * expected[name].norm(), name


def test_the_reports_tell_the_solves() -> None:
    inputs = as_initialised("brownian", 7, 14).trainable()
    value, report = sde_cost(*inputs.arguments(), solver="picard")
    assert report.solver == "picard"
    assert report.evaluations >= 3
    assert 0 < report.residual <= 1e-4
    assert report.backward_evaluations == 0
    assert math.isnan(report.backward_residual)
    value.backward()
    assert report.backward_evaluations >= 3
    assert 0 < report.backward_residual <= 1e-4

    value, report = sde_cost(*inputs.arguments(), solver="sequential")
    value.backward()
    assert (report.solver, report.evaluations, report.backward_evaluations) == ("sequential", 0, 0)
    assert math.isnan(report.residual)
    assert math.isnan(report.backward_residual)


def test_on_a_cpu_the_path_is_solved_sequentially() -> None:
    inputs = case()
    value, report = sde_cost(*inputs.arguments())
    assert report.solver == "sequential"
    assert torch.equal(value, sde_cost(*inputs.arguments(), solver="sequential")[0])


# Giving up


def test_a_path_that_does_not_settle_is_solved_sequentially() -> None:
    inputs = stiff().trainable()
    true, _ = sde_cost(*inputs.arguments(), solver="sequential")
    value, report = sde_cost(*inputs.arguments(), solver="picard", max_sweeps=2)
    assert (report.solver, report.evaluations) == ("sequential", 2)
    assert report.residual > 1e-4
    assert torch.equal(value, true)
    found, expected = gradients(value, inputs), gradients(true, inputs)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert report.backward_evaluations == 0


def test_a_path_that_is_not_finite_is_no_solution() -> None:
    inputs = case()
    inputs.states[0, 0, 0] = math.nan
    value, report = sde_cost(*inputs.arguments(), solver="picard")
    assert value.isnan()
    assert report.solver == "sequential"


def test_an_adjoint_that_does_not_settle_is_solved_sequentially() -> None:
    """A linear network at rest: y = p = 0 at every node, found at once. Its slope is another matter: 30.

    With 24 steps the adjoint would need 25 sweeps.
    """
    inputs = case(sizes=(3,), steps=24)
    still = dataclasses.replace(
        inputs,
        states=0 * inputs.states,
        context=0 * inputs.context,
        biases=[torch.zeros(3).double()],
        noise=0 * inputs.noise,
        path_weight=torch.cat([torch.zeros(3, 1), 30 * torch.eye(3)], 1).double(),
    ).trainable()
    value, report = sde_cost(*still.arguments(), solver="picard")
    assert (report.solver, report.evaluations, report.residual) == ("picard", 3, 0.0)
    found, expected = gradients(value, still), gradients(oracle.sde_cost(*still.arguments()), still)
    assert report.backward_evaluations == 12
    assert report.backward_residual > 1e-4
    assert expected["noise"].norm() > 1
    for name, grad in found.items():
        assert (grad - expected[name]).norm() <= 1e-12 * expected[name].norm(), name


def test_the_gradient_after_an_adjoint_that_gave_up_is_the_sequential_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The path is Picard's, settled to 1e-13, so the gradient is the oracle's to about as much."""
    monkeypatch.setattr(path_solver, "adjoint_picard", lambda *_: (None, 7, 0.5))
    inputs = case().trainable()
    value, report = sde_cost(*inputs.arguments(), solver="picard", tolerance=1e-13)
    found, expected = gradients(value, inputs), gradients(oracle.sde_cost(*inputs.arguments()), inputs)
    assert report.solver == "picard"
    assert (report.backward_evaluations, report.backward_residual) == (7, 0.5)
    for name, grad in found.items():
        assert (grad - expected[name]).norm() <= 1e-11 * expected[name].norm(), name


def test_a_fixed_number_of_sweeps_is_taken_without_a_look_and_its_change_noted() -> None:
    net, *recurrence = problem(as_initialised("brownian", 5, 20))
    free = {"tolerance": 1e-4, "max_sweeps": 12}
    found, evaluations, residual = solve_picard(net, *recurrence, **free)  # type: ignore[arg-type]
    worst = torch.zeros(())
    fixed = FixedSweeps(evaluations, 5, worst)
    mine, sweeps, nan = solve_picard(net, *recurrence, **free, fixed=fixed)  # type: ignore[arg-type]
    assert found is not None
    assert mine is not None
    assert sweeps == evaluations
    assert math.isnan(nan)
    assert torch.equal(mine.y, found.y)
    assert float(worst) == pytest.approx(residual)
    grads = torch.randn(mine.y.shape), torch.randn(mine.y.shape)
    law = recurrence[1:]
    true, taken, last = adjoint_picard(net, found, *grads, *law, 1e-4, 12)
    few = FixedSweeps(evaluations, taken, worst.zero_())
    adjoint, _, _ = adjoint_picard(net, found, *grads, *law, 1e-4, 12, few)
    assert adjoint is not None
    assert true is not None
    assert torch.equal(adjoint[0], true[0])
    assert float(worst) == pytest.approx(last)
    # One sweep is not enough, and that is to be seen; so is a number that is none, from then on.
    solve_picard(net, *recurrence, **free, fixed=FixedSweeps(1, 1, worst))  # type: ignore[arg-type]
    assert float(worst) > 1e-2
    fixed.note(torch.tensor(math.nan))
    fixed.note(torch.tensor(0.0))
    assert math.isnan(float(worst))
