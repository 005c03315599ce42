"""What a bridge learns: its range, its value, its fit and its files; test_recovery.py has the truth."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from places import REPOSITORY
from simulated import minimise, observed
from tiny import TEXTS, tiny_bert, tiny_tokenizer
from torch import Tensor, nn

import bridges
from bridges import BadInput, FitResult, RunningCost, Trajectory
from bridges.fitting.loop import FitLoop
from bridges.fitting.text import ReadBatch
from bridges.processes.gaussian import GaussianBridge
from bridges.processes.parameters import learnable

pytestmark = pytest.mark.slow

SHORT = {
    "max_steps": 30,
    "batch_size": 8,
    "held_out": 12,
    "eval_every": 10,
    "patience": 99,
    "learning_rate": 0.01,
}
LEARNED = "ou:learn=theta+sigma,likelihood=path"


def new_cost(model: nn.Module, bridge: str | GaussianBridge = LEARNED) -> RunningCost:
    return RunningCost.for_model(model, bridge, widths=(16, 8))


def fit(cost: RunningCost, model: nn.Module, **changes: Any) -> FitResult:
    return cost.fit(model, tiny_tokenizer(), TEXTS, progress=False, **{**SHORT, **changes})


# Values and ranges


@pytest.mark.parametrize("name", ["brownian", "ou"])
def test_what_can_be_learned_is_said_with_its_range(name: str) -> None:
    cls = bridges.info(name).cls
    for key, kind in learnable(cls).items():
        low, high = kind.low, kind.high
        assert re.search(rf"{key}: .*learned from {low:g} to {high:g}\.", cls.__doc__ or "")


@given(value=st.floats(0.01, 10), free=st.floats(-1e3, 1e3))
@settings(deadline=None)
def test_a_learned_number_starts_where_it_is_given_and_stays_in_its_range(
    value: float, free: float
) -> None:
    """1e-5: of a free number in float32, times the logarithm of the range."""
    bridge = bridges.BrownianBridge(value, learn="sigma")
    assert bridge.sigma.item() == pytest.approx(value, rel=2e-5)
    with torch.no_grad():
        bridge.free_sigma.fill_(free)
    assert 1e-3 * (1 - 1e-12) <= bridge.sigma.item() <= 10 * (1 + 1e-12)


def test_a_fixed_number_is_itself() -> None:
    bridge = bridges.OUBridge(2.0, 0.5, learn="sigma")
    assert bridge.theta == 2.0
    assert isinstance(bridge.sigma, Tensor)
    assert [name for name, _ in bridge.named_parameters()] == ["free_sigma"]
    assert list(bridges.OUBridge(2.0, [0.5, 1.0]).state_dict()) == []
    assert bridges.OUBridge(2.0, [0.5, 1.0]).hyperparameters["sigma"] == [0.5, 1.0]


def test_hyperparameters_are_the_present_values_and_build_the_bridge_again() -> None:
    bridge = bridges.OUBridge(2.0, [0.5, 1.0], learn=["sigma", "theta"], likelihood="path")
    assert bridge.hyperparameters == {
        "theta": 2.0,
        "sigma": [0.5, 1.0],
        "likelihood": "path",
        "learn": "theta+sigma",
    }
    with torch.no_grad():
        bridge.free_sigma += 1
    present = json.loads(json.dumps(bridge.hyperparameters))
    assert present["sigma"][0] > 1
    again = bridges.get("ou", **present)
    torch.testing.assert_close(again.sigma, bridge.sigma, rtol=1e-5, atol=0)


def test_a_deep_copy_learns_by_itself() -> None:
    bridge = bridges.BrownianBridge(learn="sigma")
    other = copy.deepcopy(bridge)
    with torch.no_grad():
        other.free_sigma += 1
    assert bridge.hyperparameters["sigma"] == 1
    assert other.hyperparameters["sigma"] > 2


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"learn": "speed"}, r"learn='speed': OUBridge cannot learn speed; it can learn theta, sigma"),
        ({"theta": 51, "learn": "theta"}, r"theta=51: expected a number from 0.01 to 50, the range in"),
        (
            {"sigma": [1.0, 1e-4], "learn": "sigma"},
            r"sigma=\[1.0, 0.0001\]: expected a number from 0.001",
        ),
        ({"sigma": [1.0, -1.0]}, r"sigma=\[1.0, -1.0\]: expected a finite number above 0"),
        ({"sigma": []}, r"sigma=\[\]: expected a finite number above 0"),
        ({"sigma": True}, r"sigma=True: expected a finite number above 0"),
        (
            {"sigma": [1.0, 2.0], "theta": [1.0]},
            "sigma has 2 numbers, another parameter 1: exp",
        ),
    ],
)
def test_bad_values_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        bridges.get("ou", **parameters)


def test_numbers_for_other_dimensions_than_the_map_has_are_refused() -> None:
    bridge = bridges.get("brownian", sigma=[1.0, 2.0])
    with pytest.raises(BadInput, match=r"parameters for 2 latent dimensions, .* map ends in 8: give"):
        RunningCost.for_model(tiny_bert(), bridge, widths=(16, 8))


@pytest.mark.parametrize("target", ["brownian:learn=sigma", "ou:learn=theta"])
def test_an_sde_has_a_fixed_target(target: str) -> None:
    with pytest.raises(BadInput, match="expected fixed parameters, the same in every dimension"):
        bridges.get("sde", target=target)


# With a map that collapses


def test_a_map_that_shrinks_gains_nothing_over_the_spread_of_the_end_points() -> None:
    """At z = 0 the residual is m(t) v, and the best sigma is finite: mean of m^2 |v|^2 / (d s2)."""
    identity, trajectory, end = observed(bridges.BrownianBridge(), 6, 50, 0)
    collapsed = Trajectory(0 * trajectory.states, trajectory.context, trajectory.rows)
    bridge = bridges.BrownianBridge(learn="sigma").double()
    minimise(bridge, (identity, collapsed, end))
    t = trajectory.times()
    expected = (t / (1 - t)).mean().div(2).sqrt()  # |v| = 1 in two dimensions
    torch.testing.assert_close(bridge.sigma.detach(), expected, rtol=1e-4, atol=0)


# In a fit


def test_a_fit_learns_the_bridge_with_the_map_and_freezes_both() -> None:
    model = tiny_bert()
    cost = new_cost(model)
    before, digest = cost.bridge.hyperparameters, cost.digest()
    assert not any(p.requires_grad for p in cost.parameters())
    result = fit(cost, model)
    assert result.best < result.held_out[0][1] - 0.05
    after = cost.bridge.hyperparameters
    assert abs(after["sigma"] - before["sigma"]) > 0.05
    assert abs(after["theta"] - before["theta"]) > 0.05
    assert cost.digest() != digest
    assert not any(p.requires_grad for p in cost.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_the_digest_sees_what_is_learned() -> None:
    cost = new_cost(tiny_bert())
    digest = cost.digest()
    with torch.no_grad():
        cost.bridge.free_theta += 1e-6  # too little for six digits
    assert cost.digest() != digest


def test_what_is_learned_is_saved_and_loaded(tmp_path: Path) -> None:
    model = tiny_bert()
    each = bridges.get("ou", sigma=[0.1 * (i + 1) for i in range(8)], learn="theta+sigma")
    for i, cost in enumerate([new_cost(model), new_cost(model, each)]):
        fit(cost, model, max_steps=10)
        cost.save_pretrained(tmp_path / str(i))
        loaded = RunningCost.from_pretrained(tmp_path / str(i))
        assert loaded.digest() == cost.digest()
        assert loaded.config() == cost.config()
        assert torch.equal(loaded.bridge.sigma, cost.bridge.sigma)
        hidden, targets = [torch.randn(1, 3, 32) for _ in range(4)], torch.tensor([[-100, 7, -100]])
        assert torch.equal(loaded(hidden, targets), cost(hidden, targets))


@pytest.mark.parametrize("step", [4, 10, 25])
def test_interrupted_and_resumed_is_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    model = tiny_bert()
    straight = new_cost(model)
    expected = fit(straight, model)
    original = FitLoop.step

    def interrupted(self: FitLoop, reading: ReadBatch) -> None:
        if reading.number == step:
            raise KeyboardInterrupt
        original(self, reading)

    half = new_cost(model)
    untouched = half.digest()
    with monkeypatch.context() as patch:
        patch.setattr(FitLoop, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(half, model, folder=tmp_path)
    assert half.digest() == untouched
    assert not any(p.requires_grad for p in half.parameters())
    resumed = new_cost(model)
    assert fit(resumed, model, folder=tmp_path) == expected
    assert resumed.digest() == straight.digest()


def test_the_best_on_held_out_text_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, float] = {}
    original = FitLoop.look

    def watched(self: FitLoop, held_out: float) -> None:
        seen[self.steps] = self.cost.bridge.sigma.item()
        original(self, held_out)

    monkeypatch.setattr(FitLoop, "look", watched)
    model = tiny_bert()
    cost = new_cost(model)
    result = fit(cost, model, learning_rate=0.9, eval_every=2)
    assert result.best_step < result.steps
    assert cost.bridge.sigma.item() == seen[result.best_step]


@pytest.mark.parametrize(("values", "stale"), [([-1.0] * 3, True), ([-1.0, -1.1, -1.2], False)])
def test_patience_counts_below_zero_too(values: list[float], stale: bool) -> None:
    loop = FitLoop.__new__(FitLoop)
    loop.settings = bridges.FitSettings(patience=1)
    loop.history = {"held_out": list(enumerate(values)), "training": []}
    assert loop._is_stale() is stale


def test_the_learned_bridge_of_the_zoo_s_page_is_fitted() -> None:
    text = (REPOSITORY / "docs" / "zoo.md").read_text(encoding="utf-8")
    [block] = re.findall(r"## A parameter that can be learned.*?```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    bridge = names["bridge"]
    assert {name for name, _ in bridge.named_parameters()} == {"free_power", "free_sigma"}
    assert bridges.get("learned-late", power=2.0).marginal(torch.tensor([0.5]))[0] == 0.25
    plm, tokenizer = tiny_bert(), tiny_tokenizer()
    cost = bridges.RunningCost.for_model(plm, bridge)
    before = dict(bridge.hyperparameters)
    cost.fit(plm, tokenizer, TEXTS, max_steps=4, eval_every=2, progress=False)
    after = cost.bridge.hyperparameters
    assert after["power"] != before["power"]
    assert after["sigma"] != before["sigma"]
