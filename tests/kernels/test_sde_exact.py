"""The SDE's running cost against exact values of the KL (method.md, section 3) and against torchsde."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import integrate
from sde_cases import Case
from torch import Tensor, nn

import bridges
from kernels.path.solver import Solver
from kernels.sde import PathGrid, sde_cost

LAYERS, STEP, DIM = 24, 0.01, 16
LAST = LAYERS / (LAYERS + 1)
Coefficient = Callable[[Tensor], Tensor]
TARGETS: dict[str, tuple[Coefficient, Coefficient]] = {
    "brownian": (lambda t: -1 / (1 - t), lambda t: 1 / (1 - t)),
    "ou:theta=2": (lambda t: -2 / torch.tanh(2 * (1 - t)), lambda t: 2 / torch.sinh(2 * (1 - t))),
}
"""alpha and beta of the pinned drift b = alpha y + beta v, sigma = 1."""


def value_of(inputs: Case, **options: Any) -> Tensor:
    return sde_cost(*inputs.arguments(), **options)[0]


def euler_grid(target: str, rule: str) -> PathGrid:
    """dy = p dt + dW and r = p - b, in 96 steps of 0.01 to 0.96, by the trapezoid or left-point rule."""
    times = torch.arange(round(LAST / STEP) + 1, dtype=torch.float64) * STEP
    weight = torch.full_like(times, STEP)
    weight[-1] = 0
    if rule == "trapezoid":
        weight[0], weight[-1] = STEP / 2, STEP / 2
    per_step = torch.ones_like(times[1:])
    alpha, beta = (coefficient(times) for coefficient in TARGETS[target])
    spline = torch.zeros(len(times), 1).double()
    return PathGrid(
        *(times, spline, per_step, STEP * per_step, STEP**0.5 * per_step),
        *(torch.ones_like(times), -alpha, beta, weight),
    )


def zero_network(grid: PathGrid, tokens: int) -> Case:
    """p = 0 towards one unit vector v, whatever the states; two layers, H = 1."""
    rng = torch.Generator().manual_seed(11)
    v = nn.functional.normalize(torch.ones(DIM), dim=0).double()
    return Case(
        states=torch.randn(grid.spline.shape[1], tokens, 1, generator=rng).double(),
        context=torch.randn(grid.spline.shape[1], 1, 1, generator=rng).double(),
        rows=torch.zeros(tokens, dtype=torch.int64),
        path_weight=torch.zeros(3, 1 + DIM).double(),
        weights=[torch.zeros(3, 2).double(), torch.zeros(DIM, 3).double()],
        biases=[torch.zeros(3).double(), torch.zeros(DIM).double()],
        end=v.expand(tokens, DIM),
        noise=torch.randn(len(grid.decay), tokens, DIM, generator=rng, dtype=torch.float64),
        grid=grid,
    )


def rate(target: str, t: float) -> float:
    """d KL / dt for f = 0: half of alpha^2 E|y|^2 + beta^2 |v|^2, with E|y|^2 = d t."""
    alpha, beta = (float(c(torch.tensor(t, dtype=torch.float64))) for c in TARGETS[target])
    return (alpha**2 * DIM * t + beta**2) / 2


def exact_kl(target: str) -> float:
    if target == "brownian":
        return (DIM * (1 / (1 - LAST) - 1 + math.log(1 - LAST)) + 1 / (1 - LAST) - 1) / 2
    return float(integrate.quad(lambda t: rate(target, t), 0, LAST, epsabs=1e-9)[0])


@pytest.mark.parametrize("target", TARGETS)
def test_the_kl_of_the_free_process_is_the_closed_form(target: str) -> None:
    """4000 tokens, each its own path: within four standard errors, and the trapezoid rule's own error.

    That is at most step^2 / 12 (g'(end) - g'(0)) for a convex rate g, 1.2 % here. The left-point rule
    misses by the 13 % of method.md, far outside, so this test can tell them apart.
    """
    inputs = zero_network(euler_grid(target, "trapezoid"), 4000)
    value, exact = value_of(inputs).item(), exact_kl(target)

    path = torch.cat([torch.zeros(1, 4000, DIM).double(), STEP**0.5 * inputs.noise.cumsum(0)])
    alpha, beta = (c(inputs.grid.times)[:, None, None] for c in TARGETS[target])
    each = ((alpha * path + beta * inputs.end).square().sum(2) * inputs.grid.weight[:, None]).sum(0) / 2
    assert value == pytest.approx(each.mean().item(), rel=1e-12)
    standard_error = each.std().item() / 4000**0.5
    h = 1e-5
    slopes = [(rate(target, t + h) - rate(target, t)) / h for t in (0.0, LAST - h)]
    bias = STEP**2 / 12 * (slopes[1] - slopes[0])
    assert bias < 0.013 * exact
    assert abs(value - exact) <= 4 * standard_error + bias

    left = value_of(dataclasses.replace(inputs, grid=euler_grid(target, "left"))).item()
    assert 0.11 * exact < exact - left < 0.16 * exact
    assert exact - left > 3 * (4 * standard_error + bias)


@pytest.mark.parametrize("solver", ["sequential", "picard"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_drift_that_is_the_targets_costs_nothing(target: str, solver: Solver) -> None:
    """The network says v, through its last bias; the grid is the bridge's own. Rounding is left."""
    grid = bridges.processes.sde.path_grid(bridges.parse(target), LAYERS, 24)  # type: ignore[arg-type]
    inputs = zero_network(grid, 50)
    told = dataclasses.replace(inputs, biases=[inputs.biases[0], inputs.end[0]])
    assert 0 <= value_of(told, solver=solver, tolerance=1e-13).item() < 1e-28
    assert value_of(inputs, solver=solver).item() > 1


@pytest.mark.parametrize("target", TARGETS)
def test_the_path_of_the_targets_drift_is_the_target(target: str) -> None:
    """Read through the cost: weight 2 at one layer's node, r = y, so that the cost is E|y|^2.

    For 4000 paths |y|^2 has mean d s2 + m^2 and variance 2 d s2^2 + 4 s2 m^2: four standard errors.
    """
    bridge = bridges.parse(target)
    assert isinstance(bridge, bridges.GaussianBridge)
    grid = bridges.processes.sde.path_grid(bridge, LAYERS, 24)
    zero, one = torch.zeros_like(grid.times), torch.ones_like(grid.times)
    for node in (1, 12, len(zero) - 1):
        weight = zero.clone()
        weight[node] = 2
        here = dataclasses.replace(grid, of_net=zero, of_state=one, of_end=zero, weight=weight)
        inputs = zero_network(here, 4000)
        told = dataclasses.replace(inputs, biases=[inputs.biases[0], inputs.end[0]])
        m, s2 = (x.item() for x in bridge.marginal(grid.times[node : node + 1]))
        error = math.sqrt((2 * DIM * s2**2 + 4 * s2 * m**2) / 4000)
        assert abs(value_of(told).item() - (DIM * s2 + m**2)) <= 4 * error


def test_torchsde_finds_the_same_cost() -> None:
    """Reversible Heun at dt 0.01 on a drift network that hears its path, 20 batches of 100 tokens each.

    Four standard errors of the difference of the means (about 1 % of the cost together), and 1 % for the
    two discretisations. A network that does not hear y differs by more, so the path matters.
    """
    pytest.importorskip("torchsde", reason="torchsde is in the extra 'bench'")
    from benchmarks import eager

    rng = torch.Generator().manual_seed(3)
    network = bridges.processes.sde.DriftNetwork(8, (16, 8, 4))
    with torch.no_grad():
        network.path.weight *= 4
        network.layers[-1].weight *= 4
    layers, tokens = 4, 100
    states = torch.randn(layers, tokens, 8, generator=rng).cumsum(0)
    context, rows = torch.randn(layers, 5, 8, generator=rng), torch.arange(tokens) % 5
    end = nn.functional.normalize(torch.randn(tokens, 4, generator=rng), dim=1)
    inputs = (states, context, rows, network.path.weight, network.weights, network.biases, end)
    grid = bridges.processes.sde.path_grid(bridges.BrownianBridge(), layers, 100)

    def ours(*arguments: Any) -> Tensor:
        noise = torch.randn(len(grid.decay), tokens, 4, generator=rng)
        return sde_cost(*arguments, noise, grid)[0]

    with torch.no_grad():
        theirs = torch.stack([eager.sde_cost(*inputs) for _ in range(20)])
        mine = torch.stack([ours(*inputs) for _ in range(20)])
        deaf = ours(*inputs[:3], torch.zeros_like(network.path.weight), *inputs[4:])
    error = math.sqrt(float(theirs.var() + mine.var()) / 20)
    allowed = 4 * error + 0.01 * float(mine.mean())
    assert abs(float(theirs.mean() - mine.mean())) <= allowed
    assert abs(float(deaf - mine.mean())) > 2 * allowed
