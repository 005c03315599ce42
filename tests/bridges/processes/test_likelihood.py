"""The two likelihoods of a Gaussian bridge: against torch's distributions and each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_bert
from torch import Tensor
from torch.distributions import MultivariateNormal

import bridges
from bridges import BadInput, LatentMap, RunningCost, Trajectory
from bridges.latent.trajectory import layer_times
from bridges.processes.gaussian import GaussianBridge
from bridges.processes.likelihood import normaliser

EXACT = {"rtol": 1e-10, "atol": 1e-10}
"""float64: solves with covariances of condition up to 1e5."""


class Fractional(GaussianBridge):
    """Fractional Brownian motion with Hurst 0.7, pinned at 0 and 1: a process with memory."""

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._free(t, torch.ones_like(t)), self.covariance(t, t)

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        one = torch.ones((), dtype=s.dtype)
        return self._free(s, t) - self._free(s, one) * self._free(t, one)

    @staticmethod
    def _free(s: Tensor, t: Tensor) -> Tensor:
        return (s**1.4 + t**1.4 - (t - s).abs() ** 1.4) / 2


def build(name: str, **parameters: Any) -> GaussianBridge:
    bridge = Fractional(**parameters) if name == "fractional" else bridges.get(name, **parameters)
    assert isinstance(bridge, GaussianBridge)
    return bridge


BRIDGES: list[tuple[str, dict[str, Any]]] = [
    ("brownian", {"sigma": 0.6}),
    ("brownian", {"sigma": [0.6, 1.0, 2.0]}),
    ("ou", {"theta": 3.0, "sigma": 0.5}),
    ("ou", {"theta": [1e-3, 1.0, 30.0], "sigma": 0.5}),
    ("ou", {"theta": [1e-3, 1.0, 30.0], "sigma": [0.5, 2.0, 1.0]}),
    ("fractional", {}),
]


def case(
    layers: int = 5, *, ends: int | None = None, seed: int = 0
) -> tuple[LatentMap, Trajectory, Tensor]:
    """A map to three dimensions, four targets in two sequences, and end points, in float64."""
    torch.manual_seed(seed)
    latent_map = LatentMap(6, (7, 3)).double().requires_grad_(False)
    states = torch.randn(layers, 4, 6).double().requires_grad_()
    context = torch.randn(layers, 2, 6).double().requires_grad_()
    end = torch.randn(*([] if ends is None else [ends]), 4, 3).double()
    return latent_map, Trajectory(states, context, torch.tensor([0, 1, 1, 0])), end


def joint(bridge: GaussianBridge, t: Tensor, end: Tensor) -> list[MultivariateNormal]:
    """torch's joint law of the path at times t, one for each dimension, over tokens."""
    factor, _ = bridge.marginal(t)
    kernel = bridge.covariance(t[:, None], t[None])
    dim = end.shape[-1]
    factor = factor.reshape(len(t), -1).expand(-1, dim)
    kernel = kernel.reshape(len(t), len(t), -1).expand(-1, -1, dim)
    return [MultivariateNormal(end[:, [k]] * factor[:, k], kernel[..., k]) for k in range(dim)]


@pytest.mark.parametrize(("name", "parameters"), BRIDGES)
def test_the_joint_density_is_torchs(name: str, parameters: dict[str, Any]) -> None:
    bridge, t = build(name, **parameters), torch.tensor([0.03, 0.2, 0.5, 0.77, 0.99]).double()
    end, z = torch.randn(4, 3).double(), torch.randn(5, 4, 3).double()
    laws = joint(bridge, t, end)
    expected = torch.stack([law.log_prob(z[..., k].T) for k, law in enumerate(laws)]).sum(0)
    torch.testing.assert_close(bridge.log_prob_path(z, t, end), expected, **EXACT)
    single = bridge.log_prob_path(z.float(), t, end)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "parameters"), BRIDGES)
def test_one_time_has_one_density(name: str, parameters: dict[str, Any]) -> None:
    bridge, t = build(name, **parameters), torch.tensor([0.3]).double()
    end, z = torch.randn(4, 3).double(), torch.randn(1, 4, 3).double()
    torch.testing.assert_close(bridge.log_prob_path(z, t, end), bridge.log_prob(z, t, end)[0], **EXACT)


@pytest.mark.parametrize("layers", [1, 2, 7])
@pytest.mark.parametrize(("name", "parameters"), BRIDGES)
def test_the_path_cost_is_the_joint_density_over_the_layers(
    name: str, parameters: dict[str, Any], layers: int
) -> None:
    """Without its normaliser, and with gradients: steps and Cholesky, fused and plain."""
    bridge = build(name, likelihood="path", **parameters)
    latent_map, trajectory, end = case(layers)
    t = trajectory.times()
    value = bridge.cost(latent_map, trajectory, end)
    latent = latent_map(trajectory)
    free = bridge.log_prob_path(bridge.mean(t, end), t, end)  # the density's top: the normaliser
    expected = (free - bridge.log_prob_path(latent, t, end)) / layers
    assert value.shape == (4,)
    torch.testing.assert_close(value, expected, **EXACT)
    inputs = (trajectory.states, trajectory.context)
    weights = torch.randn(4).double()
    mine = torch.autograd.grad(value @ weights, inputs)
    torch.testing.assert_close(mine, torch.autograd.grad(expected @ weights, inputs), **EXACT)


@pytest.mark.parametrize(("name", "parameters"), BRIDGES)
def test_the_marginal_cost_is_the_density_of_each_layer(name: str, parameters: dict[str, Any]) -> None:
    bridge = build(name, **parameters)
    latent_map, trajectory, end = case()
    t = trajectory.times()
    latent, top = latent_map(trajectory), bridge.log_prob(bridge.mean(t, end), t, end)
    expected = (top - bridge.log_prob(latent, t, end)).mean(0)
    torch.testing.assert_close(bridge.cost(latent_map, trajectory, end), expected, **EXACT)


@pytest.mark.parametrize(("name", "parameters"), BRIDGES)
def test_one_layer_has_one_cost(name: str, parameters: dict[str, Any]) -> None:
    values = [
        build(name, likelihood=likelihood, **parameters).cost(*case(1))
        for likelihood in ("marginal", "path")
    ]
    torch.testing.assert_close(*values, **EXACT)


@pytest.mark.parametrize("likelihood", ["marginal", "path"])
@pytest.mark.parametrize(("name", "parameters"), BRIDGES)
def test_several_end_points_are_each_by_itself(
    name: str, parameters: dict[str, Any], likelihood: str
) -> None:
    bridge = build(name, likelihood=likelihood, **parameters)
    latent_map, trajectory, end = case(ends=3)
    value = bridge.cost(latent_map, trajectory, end)
    assert value.shape == (3, 4)
    each = torch.stack([bridge.cost(latent_map, trajectory, v) for v in end])
    torch.testing.assert_close(value, each, **EXACT)


@pytest.mark.parametrize("likelihood", ["marginal", "path"])
@pytest.mark.parametrize(("name", "parameters"), BRIDGES[:-1])
def test_what_is_learned_is_the_likelihood_with_its_normaliser(
    name: str, parameters: dict[str, Any], likelihood: str
) -> None:
    """Value, and gradients to what is learned, against minus the log-density over the layers."""
    if any(isinstance(x, list) and 1e-3 in x for x in parameters.values()):
        parameters = {**parameters, "theta": [0.02, 1.0, 30.0]}
    bridge = build(name, **parameters, likelihood=likelihood, learn=list(parameters)).double()
    latent_map, trajectory, end = case()
    t, latent = trajectory.times(), latent_map(trajectory).detach()
    value = bridge.cost(latent_map, trajectory, end)
    if likelihood == "path":
        expected = -bridge.log_prob_path(latent, t, end) / len(t)
    else:
        expected = -bridge.log_prob(latent, t, end).mean(0)
    torch.testing.assert_close(value, expected, **EXACT)
    learned = list(bridge.parameters())
    assert len(learned) == len(parameters)
    mine = torch.autograd.grad(value.mean(), learned)
    torch.testing.assert_close(mine, torch.autograd.grad(expected.mean(), learned), **EXACT)
    assert all(grad.abs().min() > 1e-6 for grad in mine)


def test_the_normaliser_is_the_mean_over_layers_of_a_sum_over_dimensions() -> None:
    variance = torch.rand(5, 3).double() + 0.1
    zero = torch.zeros(5, 3).double()
    expected = -torch.distributions.Normal(zero, variance.sqrt()).log_prob(zero).sum(1).mean()
    torch.testing.assert_close(normaliser(variance, 3), expected, **EXACT)
    same = variance[:, :1]
    torch.testing.assert_close(normaliser(same[:, 0], 3), normaliser(same.expand(-1, 3), 3), **EXACT)


@given(
    layers=st.integers(1, 128),
    theta=st.floats(1e-6, 50),
    likelihood=st.sampled_from(["marginal", "path"]),
)
@settings(deadline=None, max_examples=40)
def test_costs_in_single_precision_are_the_rounded_ones(
    layers: int, theta: float, likelihood: str
) -> None:
    """Relative 1e-4: the map's three hundred products in float32, under precisions up to 1e4."""
    bridge = bridges.OUBridge(theta, likelihood=likelihood)
    latent_map, trajectory, end = case(layers)
    exact = bridge.cost(latent_map, trajectory, end)
    narrow = Trajectory(trajectory.states.float(), trajectory.context.float(), trajectory.rows)
    single = bridge.cost(latent_map.float(), narrow, end.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=0)


def test_a_process_with_memory_takes_part_in_float32() -> None:
    """Its whitening is in float64: 1e-4 at 128 layers too."""
    bridge = Fractional(likelihood="path")
    latent_map, trajectory, end = case(128)
    exact = bridge.cost(latent_map, trajectory, end)
    narrow = Trajectory(trajectory.states.float(), trajectory.context.float(), trajectory.rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        single = bridge.cost(latent_map.float(), narrow, end.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=0)


def test_dimensions_of_equal_parameters_are_the_scalar_case() -> None:
    latent_map, trajectory, end = case()
    t = trajectory.times()
    for likelihood in ("marginal", "path"):
        one = bridges.OUBridge(2.0, 0.5, likelihood=likelihood)
        each = bridges.OUBridge([2.0] * 3, [0.5] * 3, likelihood=likelihood)
        torch.testing.assert_close(
            one.cost(latent_map, trajectory, end), each.cost(latent_map, trajectory, end), **EXACT
        )
    torch.testing.assert_close(each.variance(t), one.variance(t)[:, None].expand(-1, 3), **EXACT)
    torch.testing.assert_close(each.mean(t, end), one.mean(t, end), **EXACT)
    draws = [b.sample(t, end, generator=torch.Generator().manual_seed(0)) for b in (one, each)]
    torch.testing.assert_close(*draws, **EXACT)


def test_dimensions_are_independent_with_their_own_parameters() -> None:
    """The mixed case against three bridges of one dimension."""
    theta, sigma = [0.5, 1.0, 8.0], [0.5, 2.0, 1.0]
    bridge, t = bridges.OUBridge(theta, sigma), layer_times(4)
    end, z = torch.randn(2, 3).double(), torch.randn(4, 2, 3).double()
    singles = [bridges.OUBridge(a, b) for a, b in zip(theta, sigma, strict=True)]
    for method in ("log_prob", "log_prob_path"):
        parts = [getattr(one, method)(z[..., [k]], t, end[:, [k]]) for k, one in enumerate(singles)]
        torch.testing.assert_close(getattr(bridge, method)(z, t, end), sum(parts), **EXACT)
    torch.testing.assert_close(
        bridge.variance(t), torch.stack([one.variance(t) for one in singles], 1), **EXACT
    )


def test_a_bridge_of_the_marginal_alone_has_no_path_likelihood() -> None:
    class Late(GaussianBridge, name="late"):
        def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return t**3, t * (1 - t)

    with pytest.raises(
        BadInput, match=r"likelihood='path': Late defines marginal only; define covariance\(s, t\)"
    ):
        bridges.get("late", likelihood="path")
    with pytest.raises(NotImplementedError, match="Late defines marginal only"):
        bridges.get("late").log_prob_path(torch.zeros(1, 1, 1), torch.tensor([0.5]), torch.ones(1, 1))


def test_a_three_line_bridge_with_a_covariance_has_one() -> None:
    class Own(GaussianBridge, name="own"):
        def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return t, t * (1 - t)

        def covariance(self, s: Tensor, t: Tensor) -> Tensor:
            return torch.minimum(s, t) * (1 - torch.maximum(s, t))

    mine, brownian = bridges.get("own", likelihood="path"), bridges.get("brownian", likelihood="path")
    torch.testing.assert_close(mine.cost(*case()), brownian.cost(*case()), **EXACT)


def test_a_covariance_that_is_not_positive_definite_is_refused() -> None:
    class Flat(Fractional):
        def covariance(self, s: Tensor, t: Tensor) -> Tensor:
            return s * (1 - s) * t * (1 - t)

    bridge, t = Flat(likelihood="path"), layer_times(5)
    message = r"the covariance at these 5 times is not positive definite in torch\.float64"
    with pytest.raises(BadInput, match=message):
        bridge.log_prob_path(torch.zeros(5, 1, 1), t, torch.ones(1, 1))
    with pytest.raises(BadInput, match=message):
        bridge.sample(t, torch.ones(1, 1))


def test_bad_arguments_of_the_joint_density_are_refused() -> None:
    bridge, end = bridges.BrownianBridge(), torch.ones(1, 1)
    with pytest.raises(BadInput, match=r"times must increase strictly, got \[0.5, 0.25\]"):
        bridge.log_prob_path(torch.zeros(2, 1, 1), torch.tensor([0.5, 0.25]), end)
    with pytest.raises(BadInput, match=r"needs times inside \(0, 1\)"):
        bridge.log_prob_path(torch.zeros(1, 1, 1), torch.tensor([1.0]), end)
    with pytest.raises(BadInput, match=r"z has shape \(2, 1, 1\), expected \(1, 1, 1\)"):
        bridge.log_prob_path(torch.zeros(2, 1, 1), torch.tensor([0.5]), end)
    with pytest.raises(BadInput, match="unknown likelihood 'paths'; did you mean 'path'"):
        bridges.get("ou", likelihood="paths")


@pytest.mark.parametrize("bridge", ["brownian:likelihood=path", "ou:theta=2,likelihood=path"])
def test_a_path_cost_is_saved_and_loaded(tmp_path: Path, bridge: str) -> None:
    cost = RunningCost.for_model(tiny_bert(), bridge, widths=(8, 5))
    cost.save_pretrained(tmp_path / "cost")
    loaded = RunningCost.from_pretrained(tmp_path / "cost")
    assert loaded.bridge.hyperparameters == cost.bridge.hyperparameters
    assert loaded.bridge.hyperparameters["likelihood"] == "path"
    assert (
        loaded.digest()
        == cost.digest()
        != RunningCost.for_model(tiny_bert(), bridge.partition(":")[0], widths=(8, 5)).digest()
    )
    hidden = [torch.randn(1, 3, 32) for _ in range(4)]
    targets = torch.tensor([[-100, 7, -100]])
    assert torch.equal(cost(hidden, targets), loaded(hidden, targets))
