"""What is learned finds the truth on simulated trajectories, with error bars; and where it cannot."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from simulated import minimise, observed
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from zoo_cases import BRIDGES, f64, generator

import bridges
from bridges import Trajectory
from bridges.fitting.learning import Guesses, learn
from bridges.latent.trajectory import layer_times
from bridges.processes.gaussian import GaussianBridge
from bridges.processes.parameters import learnable

pytestmark = pytest.mark.slow

SETS, PATHS, LAYERS = 8, 300, 12
CASES: list[tuple[str, dict[str, Any]]] = [
    ("brownian", {"sigma": 0.3}),
    ("brownian", {"sigma": [0.3, 0.8]}),
    ("ou", {"theta": 4.0, "sigma": 0.5}),
    ("ou", {"theta": [2.0, 6.0], "sigma": [0.2, 0.8]}),
    ("alpha", {"alpha": 3.0, "sigma": 0.5}),
    ("alpha", {"alpha": [0.5, 3.0], "sigma": [0.3, 0.8]}),
    ("fractional", {"hurst": 0.3, "sigma": 0.5}),
    ("fractional", {"hurst": [0.3, 0.7], "sigma": [0.3, 0.8]}),
    *(
        ("gp", {"kernel": kernel, "lengthscale": 0.3, "sigma": 0.5})
        for kernel in ("matern12", "matern32", "matern52", "rbf")
    ),
    ("gp", {"lengthscale": [0.2, 0.5], "sigma": [0.3, 0.8]}),
    ("smooth", {"sigma": 2.0}),
    ("smooth", {"sigma": [0.5, 2.0]}),
    ("clock", {"clock": [0.4, 1.8, 1.0, 0.8], "sigma": 0.5}),
    ("clock", {"clock": [0.4, 1.8, 1.0, 0.8], "sigma": [0.3, 0.8]}),
]
STARTS = {"hurst": 0.5}
"""Where a search begins, if not at 1 for every number."""


def process(name: str, **parameters: Any) -> GaussianBridge:
    bridge = bridges.get(name, **parameters).double()
    assert isinstance(bridge, GaussianBridge)
    return bridge


def fixed(name: str, truth: dict[str, Any]) -> GaussianBridge:
    return process(name, **truth, learn="")


def found(
    name: str, truth: dict[str, Any], likelihood: str, paths: int, seed: int
) -> tuple[GaussianBridge, Any]:
    """The most likely bridge of that name for paths of the true one, and the paths."""
    names = [key for key, value in truth.items() if not isinstance(value, str)]
    start = {
        key: [STARTS.get(key, 1.0)] * len(truth[key])
        if isinstance(truth[key], list)
        else STARTS.get(key, 1.0)
        for key in names
    }
    bridge = process(name, **{**truth, **start}, learn=names, likelihood=likelihood)
    data = observed(fixed(name, truth), LAYERS, paths, seed)
    minimise(bridge, data)
    return bridge, data


def values(bridge: GaussianBridge) -> Tensor:
    """All learned numbers, one after another."""
    return torch.cat([getattr(bridge, key).reshape(-1) for key in bridge.learn.split("+")])


def true_values(bridge: GaussianBridge, truth: dict[str, Any]) -> Tensor:
    each = [torch.tensor(truth[key]).double().reshape(-1) for key in bridge.learn.split("+")]
    return torch.cat(each)


def standard_errors(bridge: GaussianBridge, data: Any) -> Tensor:
    """Of the learned numbers, from the observed Fisher information: the curvature of the minus
    log-likelihood of all paths at its minimum, by central differences of its gradient.
    """
    parameters = list(bridge.parameters())
    best = parameters_to_vector(parameters).detach()

    def slope(at: Tensor) -> Tensor:
        vector_to_parameters(at, parameters)
        total = bridge.cost(*data).sum() * LAYERS
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(total, parameters)])

    moves = 1e-4 * torch.eye(len(best), dtype=torch.float64)
    information = torch.stack([slope(best + h) - slope(best - h) for h in moves]) / 2e-4
    vector_to_parameters(best, parameters)
    jacobian = torch.stack(
        [
            torch.cat([g.reshape(-1) for g in grads])
            for grads in (
                torch.autograd.grad(x, parameters, retain_graph=True, materialize_grads=True)
                for x in values(bridge)
            )
        ]
    )
    # A clock's free numbers count by their differences only: that direction has no information.
    inverse = torch.linalg.pinv((information + information.T) / 2, rtol=1e-9, hermitian=True)
    return (jacobian @ inverse @ jacobian.T).diag().sqrt()


def test_all_that_can_be_learned_is_found_here() -> None:
    """In every process, and for each dimension where it may differ between them."""
    here = {(name, key) for name, truth in CASES for key in truth}
    lists = {(name, key) for name, truth in CASES for key in truth if isinstance(truth[key], list)}
    for name in ("brownian", "ou", "alpha", "fractional", "gp", "smooth", "clock"):
        keys = {(name, key) for key in learnable(bridges.info(name).cls)}
        assert keys <= here & lists
    others = {n for n in BRIDGES if learnable(bridges.info(n).cls)} - {n for n, _ in CASES}
    assert not others, "a process learns parameters that nothing here recovers"


@pytest.mark.parametrize(("name", "truth"), CASES)
def test_the_path_likelihood_finds_the_truth_within_its_error_bars(
    name: str, truth: dict[str, Any]
) -> None:
    """2400 paths over 12 layers: within four standard errors of the observed Fisher information, which
    are below a tenth of each number, and are the spread of the estimates on eight sets of 300 paths: the
    deviation of eight normal numbers is between 0.25 and 2 of the true one, but for one in 2000.
    """
    bridge, data = found(name, truth, "path", SETS * PATHS, seed=100)
    errors, expected = standard_errors(bridge, data), true_values(bridge, truth)
    assert (errors < 0.1 * expected).all(), errors
    off = (values(bridge).detach() - expected).abs()
    assert (off < 4 * errors).all(), (values(bridge), errors)
    each = torch.stack([values(found(name, truth, "path", PATHS, s)[0]) for s in range(SETS)]).detach()
    ratio = each.std(0) / (errors * math.sqrt(SETS))
    assert ((ratio > 0.25) & (ratio < 2)).all(), ratio
    assert ((each.mean(0) - expected).abs() < 4 * errors).all()


@pytest.mark.parametrize(("name", "truth"), CASES)
def test_the_marginal_likelihood_finds_the_truth_too(name: str, truth: dict[str, Any]) -> None:
    """Eight sets of 300 paths: the mean estimate is within four standard errors of the truth, and those
    are below a tenth of it. Layers are not independent, so errors come from repeated simulation: of
    eight sets four errors are missed once in 200 numbers. The draws are fixed.
    """
    made = [found(name, truth, "marginal", PATHS, seed)[0] for seed in range(SETS)]
    each, expected = torch.stack([values(b) for b in made]).detach(), true_values(made[0], truth)
    errors = each.std(0) / math.sqrt(SETS)
    assert (errors < 0.1 * expected).all(), errors
    assert ((each.mean(0) - expected).abs() < 4 * errors).all(), (each.mean(0), errors)


def test_a_student_bridges_base_is_found() -> None:
    """By the likelihood of each layer, from paths with tails that a Gaussian law takes for spread."""
    truth = f64(4.0, 0.5)
    source = bridges.get("student", base="ou:theta=4,sigma=0.5", nu=4.0)
    each = []
    for seed in range(SETS):
        bridge = bridges.get("student", base="ou:learn=theta+sigma", nu=4.0).double()
        minimise(bridge, observed(source, LAYERS, PATHS, seed))  # type: ignore[arg-type]
        each.append(values(bridge.process).detach())  # type: ignore[arg-type]
    errors = torch.stack(each).std(0) / math.sqrt(SETS)
    assert (errors < 0.1 * truth).all()
    assert ((torch.stack(each).mean(0) - truth).abs() < 4 * errors).all()


def test_a_target_is_found_among_wrong_labels() -> None:
    """Three paths in ten end at the other candidate; taken for its own, they would widen the spread."""
    t, truth, each = layer_times(LAYERS), f64(4.0, 0.5), []
    for seed in range(SETS):
        rng = generator(seed)
        ends = torch.randn(2, PATHS, 2, generator=rng).double()
        source = bridges.get("random", target="ou:theta=4,sigma=0.5", keep=0.7)
        z, row = source.sample(t, ends, generator=rng), []
        for keep in (0.7, 1.0):
            bridge = bridges.get("random", target="ou:learn=theta+sigma", keep=keep).double()
            search = torch.optim.LBFGS(bridge.parameters(), max_iter=60, line_search_fn="strong_wolfe")

            def closure(
                bridge: Any = bridge, search: Any = search, z: Tensor = z, ends: Tensor = ends
            ) -> Any:
                search.zero_grad()
                loss = -bridge.log_prob_path(z, t, ends).mean()
                loss.backward()
                return loss

            search.step(closure)
            row.append(values(bridge.process).detach())  # type: ignore[arg-type]
        each.append(torch.stack(row))
    estimates = torch.stack(each)
    errors = estimates.std(0) / math.sqrt(SETS)
    assert (errors[0] < 0.1 * truth).all()
    assert ((estimates.mean(0)[0] - truth).abs() < 4 * errors[0]).all()
    assert estimates.mean(0)[1, 1] > truth[1] + 10 * errors[1, 1]


# Where it cannot


def divergence(one: GaussianBridge, other: GaussianBridge) -> float:
    """KL of a path of 12 layers in two dimensions with a unit end point, in nats."""
    t = layer_times(LAYERS)
    means = [b.marginal(t)[0] for b in (one, other)]
    kernels = [b.covariance(t[:, None], t[None]) for b in (one, other)]
    laws = [torch.distributions.MultivariateNormal(m, k) for m, k in zip(means, kernels, strict=True)]
    centred = [torch.distributions.MultivariateNormal(0 * t, k) for k in kernels]
    kl = torch.distributions.kl_divergence
    return float(kl(*laws) + kl(*centred))  # the end point lies along the first dimension


FINE = bridges.ClockBridge([0.5, 1.5] * (LAYERS + 1), learn="")
"""Two parts in each gap between layers."""


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ("ou:theta=0.01", "ou:theta=0.3", False),
        ("ou:theta=0.3", "ou:theta=1.5", True),
        ("brownian", FINE, False),
        ("gp:kernel=matern12,lengthscale=3", "gp:kernel=matern12,lengthscale=9,sigma=1.732051", False),
        (
            "gp:kernel=matern12,lengthscale=0.3",
            "gp:kernel=matern12,lengthscale=0.9,sigma=1.732051",
            True,
        ),
    ],
)
def test_what_a_few_thousand_paths_cannot_tell(one: Any, other: Any, apart: bool) -> None:
    """What 2400 paths of the one law say against the other, in nats: less than 2 tells nobody anything.
    Of an OU process with a small theta its square counts; of a "matern12" with a large lengthscale
    sigma^2 / lengthscale does, and parts of a clock within a gap between layers are one part.
    """
    laws = [bridges.parse(x) if isinstance(x, str) else x for x in (one, other)]
    nats = SETS * PATHS * divergence(*laws)  # type: ignore[arg-type]
    assert nats > 20 if apart else nats < 2


@pytest.mark.parametrize(
    "text", ["ou:theta=1", "ou:theta=1,likelihood=path", "student:base=(ou:theta=1"]
)
def test_through_a_lens_what_is_learned_is_the_law_of_its_guesses(text: str) -> None:
    """Of guesses p = z / m that an OU process made: its theta and sigma. By the density of m p, with the
    m that is learned, theta would run to the end of its range, where all latents are next to 0.
    """
    law, t, tokens = bridges.get("ou", theta=4.0, sigma=0.5), layer_times(8), 3000
    end = nn.functional.normalize(torch.randn(tokens, 2, generator=generator(3)).double(), dim=1)
    guesses = law.sample(t, end, generator=generator(4)) / law.mean_factor(t)[:, None, None]
    seen = Trajectory(guesses, guesses[:, :0], torch.zeros(tokens, dtype=torch.int64))
    last = ",learn=theta+sigma),nu=1e6" if text.startswith("student") else ",learn=theta+sigma"
    bridge = bridges.parse(text + last)
    inner = getattr(bridge, "process", bridge)
    reader = Guesses(torch.zeros(8, 2).double())
    learn(bridge, lambda: bridge.cost(reader, seen, end).mean(), list(bridge.parameters()))
    assert inner.theta.item() == pytest.approx(4, rel=0.05)
    assert inner.sigma.item() == pytest.approx(0.5, rel=0.05)
