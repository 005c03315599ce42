"""The learned-drift bridge as a user meets it: its law, its noise, its fit, its files, its training."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny import TEXTS, tiny_bert, tiny_llama, tiny_tokenizer
from torch import Tensor, nn

import bridges
import pets
from bridges import BadInput, FitResult, LatentMap, RunningCost, SDEBridge, Trajectory
from bridges.fitting.loop import FitLoop
from bridges.fitting.text import ReadBatch
from bridges.processes.sde import DriftNetwork, path_grid
from kernels import oracle
from pets.cli import main

pytestmark = pytest.mark.slow

WIDTHS = (16, 8)
SHORT = {
    "max_steps": 30,
    "batch_size": 8,
    "held_out": 12,
    "eval_every": 10,
    "patience": 99,
    "learning_rate": 0.01,
}
TARGETS = ["brownian", "ou:theta=2"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sde(**parameters: Any) -> SDEBridge:
    bridge = bridges.get("sde", **parameters)
    assert isinstance(bridge, SDEBridge)
    return bridge


def trajectory(layers: int = 4) -> tuple[Trajectory, Tensor]:
    """Five targets in two sequences, H 6, float64, and end points in four dimensions."""
    rng = generator(1)
    states = torch.randn(layers, 5, 6, generator=rng, dtype=torch.float64)
    context = torch.randn(layers, 2, 6, generator=rng, dtype=torch.float64)
    end = nn.functional.normalize(torch.randn(5, 4, generator=rng, dtype=torch.float64), dim=1)
    return Trajectory(states, context, torch.tensor([0, 1, 1, 0, 1])), end


def network(bridge: SDEBridge) -> LatentMap:
    return bridge.make_map(6, (8, 4)).double().requires_grad_(False)


def batch() -> dict[str, Tensor]:
    ids = torch.randint(5, 63, (4, 9), generator=generator(1))
    labels = torch.full_like(ids, -100)
    labels[:, [3, 6]] = ids[:, [3, 6]]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def hidden_states(model: nn.Module) -> list[Tensor]:
    with torch.no_grad():
        output = model(input_ids=batch()["input_ids"], output_hidden_states=True)
    return list(output.hidden_states)


def new_cost(model: nn.Module, bridge: str = "sde") -> RunningCost:
    return RunningCost.for_model(model, bridge, widths=WIDTHS)


def fit(cost: RunningCost, model: nn.Module, **changes: Any) -> FitResult:
    return cost.fit(model, tiny_tokenizer(), TEXTS, progress=False, **{**SHORT, **changes})


# The bridge


@pytest.mark.parametrize("target", TARGETS)
def test_its_law_is_the_targets(target: str) -> None:
    bridge, plain = sde(target=target), bridges.parse(target)
    t, (_, end) = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), trajectory()
    assert torch.equal(bridge.mean(t, end), plain.mean(t, end))
    assert torch.equal(bridge.variance(t), plain.variance(t))
    path = bridge.sample(t, end, generator=generator())
    assert torch.equal(path, plain.sample(t, end, generator=generator()))
    assert torch.equal(bridge.log_prob(path, t, end), plain.log_prob(path, t, end))


def test_its_parameters_are_kept_and_shown() -> None:
    assert sde().hyperparameters == {"target": "brownian", "steps": 24, "reads": "both"}
    bridge = sde(target="ou:theta=2", steps=30)
    assert bridge.hyperparameters == {"target": "ou:theta=2", "steps": 30, "reads": "both"}
    assert "target=ou:theta=2, steps=30, reads=both" in repr(bridge)
    assert isinstance(bridge.process, bridges.OUBridge)
    assert bridge.process.theta == 2


def test_it_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "sde" in bridges.available()
    main(["zoo"])
    shown = capsys.readouterr().out
    assert "sde\n  Path-space KL" in shown
    assert "parameters: target=brownian, steps=24, reads=both" in shown


class Fractional(bridges.GaussianBridge):
    """Fractional Brownian motion with Hurst 0.7, pinned at 0 and 1: no Markov process."""

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._free(t, t**0), self.covariance(t, t)

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        return self._free(s, t) - self._free(s, s**0) * self._free(t, t**0)

    def _free(self, s: Tensor, t: Tensor) -> Tensor:
        return (s**1.4 + t**1.4 - (s - t).abs() ** 1.4) / 2


def test_a_target_must_be_a_markov_gaussian_bridge() -> None:
    class Rough(Fractional, name="rough"):
        pass

    class Late(bridges.GaussianBridge, name="late"):
        def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return t**3, t * (1 - t)

    for target in ("rough", "late", "sde"):
        with pytest.raises(BadInput, match=f"target='{target}': expected a Markov Gaussian bridge"):
            sde(target=target)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"target": "brown"}, "unknown bridge 'brown'; did you mean 'brownian'"),
        ({"target": "ou:theta=-1"}, "theta=-1.0: expected a finite number above 0"),
        ({"steps": 0}, "steps=0: expected a whole number above 0"),
        ({"steps": 2.5}, "steps=2.5: expected a whole number above 0"),
        ({"sigma": 1.0}, "'sde' has no parameter 'sigma'; it takes target, steps, reads"),
        ({"reads": "context"}, "reads='context': expected 'both' or 'state'"),
    ],
)
def test_bad_parameters_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        sde(**parameters)


def test_its_map_is_a_network_that_hears_time_and_path() -> None:
    made = sde().make_map(6, (8, 5, 4))
    assert isinstance(made, DriftNetwork)
    assert made.path.weight.shape == (8, 1 + 4)
    assert [tuple(w.shape) for w in made.weights] == [(8, 12), (5, 8), (4, 5)]
    assert not isinstance(made, LatentMap)  # it has no latent trajectory without a path
    alone = sde(reads="state").make_map(6, (8, 5, 4))
    assert [tuple(w.shape) for w in alone.weights] == [(8, 6), (5, 8), (4, 5)]
    assert alone.path.weight.shape == (8, 1 + 4)
    with pytest.raises(BadInput, match="LatentMap is no drift network: make it with make_map"):
        sde().cost(LatentMap(6, (8, 4)), *trajectory())


def test_a_state_alone_is_read_without_the_rest_of_its_sequence() -> None:
    bridge, (seen, end) = sde(reads="state"), trajectory()
    drift = network(bridge)
    one = bridge.cost(drift, seen, end, generator=generator(3))
    other = Trajectory(seen.states, torch.full_like(seen.context, torch.nan), seen.rows)
    assert torch.equal(bridge.cost(drift, other, end, generator=generator(3)), one)
    moved = Trajectory(seen.states.flip(-1), seen.context, seen.rows)
    assert not torch.allclose(bridge.cost(drift, moved, end, generator=generator(3)), one)


def test_a_cost_saved_before_there_was_a_choice_reads_both(tmp_path: Path) -> None:
    cost = new_cost(tiny_bert(), "sde")
    cost.save_pretrained(tmp_path / "cost")
    path = tmp_path / "cost" / "config.json"
    config = json.loads(path.read_text())
    del config["bridge"]["parameters"]["reads"]
    path.write_text(json.dumps(config))
    assert RunningCost.from_pretrained(tmp_path / "cost").digest() == cost.digest()


# Its cost


@pytest.mark.parametrize("reads", ["both", "state"])
@pytest.mark.parametrize("layers", [1, 4])
@pytest.mark.parametrize("target", TARGETS)
def test_a_cost_is_the_oracles_on_the_grid_with_the_generators_noise(
    target: str, layers: int, reads: str
) -> None:
    bridge, (seen, end) = sde(target=target, steps=7, reads=reads), trajectory(layers)
    drift, grid = network(bridge), path_grid(bridge.process, layers, 7)
    assert isinstance(drift, DriftNetwork)
    noise = torch.randn(len(grid.decay), *end.shape, generator=generator(3), dtype=torch.float64)
    expected = oracle.sde_cost(
        seen.states,
        seen.context if reads == "both" else None,
        *(seen.rows, drift.path.weight, drift.weights, drift.biases),
        *(end, noise, grid),
    )
    found = bridge.cost(drift, seen, end, generator=generator(3)).mean()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_the_grid_is_that_of_the_trajectory_at_hand() -> None:
    """Of its number of layers and its dtype, whatever came before."""
    bridge = sde()
    drift = network(bridge)
    for layers in (4, 2, 4):
        fresh = sde().cost(drift, *trajectory(layers), generator=generator())
        assert torch.equal(bridge.cost(drift, *trajectory(layers), generator=generator()), fresh)
    single = bridge.cost(copy.deepcopy(drift).float(), *trajectory(), generator=generator())
    assert single.dtype == torch.float32


def test_a_generator_fixes_the_noise_and_the_global_one_does_otherwise() -> None:
    bridge, drift = sde(), network(sde())
    before = torch.random.get_rng_state()
    first, again, other = (bridge.cost(drift, *trajectory(), generator=generator(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)

    def seeded() -> Tensor:
        torch.manual_seed(5)
        return bridge.cost(drift, *trajectory())

    assert torch.equal(seeded(), seeded())
    assert not torch.equal(seeded(), bridge.cost(drift, *trajectory()))


def test_the_drift_never_sees_the_end_point() -> None:
    """With the path and p fixed, the cost is the mean of sum_j w_j |p_j - v|^2 / 2: a parabola in v.

    So its second difference is sum_j w_j |v|^2 exactly, tau / (1 - tau) = 4 for unit v and 4 layers; a p
    that moved with v would change it.
    """
    bridge, (seen, end) = sde(), trajectory()
    drift = network(bridge)
    with torch.no_grad():
        for weight in drift.parameters():
            weight *= 3

    def cost(v: Tensor) -> float:
        return bridge.cost(drift, seen, v, generator=generator()).mean().item()

    for scale in (1.0, 2.0):
        second = cost(scale * end) + cost(-scale * end) - 2 * cost(0 * end)
        assert second == pytest.approx(4 * scale**2, rel=1e-10)


def test_the_states_matter_and_so_does_the_path() -> None:
    bridge, (seen, end) = sde(), trajectory()
    drift = network(bridge)
    value = bridge.cost(drift, seen, end, generator=generator()).mean()
    for name in ("states", "context"):
        moved = Trajectory(**{**vars(seen), name: getattr(seen, name).flip(0)})
        assert abs(bridge.cost(drift, moved, end, generator=generator()).mean() - value) > 1e-4 * value
    assert isinstance(drift, DriftNetwork)
    with torch.no_grad():
        drift.path.weight[:, 1:] *= -1
    assert abs(bridge.cost(drift, seen, end, generator=generator()).mean() - value) > 1e-4 * value


def test_the_last_solve_is_reported() -> None:
    bridge = sde()
    assert bridge.last_solve is None
    bridge.cost(network(bridge), *trajectory())
    assert bridge.last_solve is not None
    assert bridge.last_solve.solver == "sequential"


# In a running cost


@pytest.mark.parametrize("make", [tiny_bert, tiny_llama])
@pytest.mark.parametrize("bridge", ["sde", "sde:target=ou:theta=2", "sde:reads=state"])
def test_it_costs_a_models_states_and_its_gradient_reaches_every_layer(make: Any, bridge: str) -> None:
    model = make()
    cost = RunningCost.for_model(model, bridge)
    hidden = [h.requires_grad_() for h in hidden_states(model)]
    value = cost(hidden, batch()["labels"])
    assert value.isfinite()
    assert value > 0
    for grad in torch.autograd.grad(value, hidden):
        assert grad.isfinite().all()
        assert grad.norm() > 1e-6
    assert not any(p.requires_grad for p in cost.parameters())


def test_a_copy_costs_the_same() -> None:
    model = tiny_bert()
    cost, hidden = new_cost(model), hidden_states(model)
    value = cost(hidden, batch()["labels"], generator=generator())
    other = copy.deepcopy(cost)
    assert torch.equal(other(hidden, batch()["labels"], generator=generator()), value)


def test_digests_tell_targets_and_steps_apart() -> None:
    model = tiny_bert()
    words = ("sde", "sde:target=ou", "sde:target=ou:theta=2", "sde:steps=30", "sde:reads=state")
    assert len({new_cost(model, word).digest() for word in words}) == 5


@pytest.mark.parametrize("make", [tiny_bert, tiny_llama])
@pytest.mark.parametrize("bridge", ["sde", "sde:target=ou:theta=2", "sde:reads=state"])
def test_a_fit_lowers_the_held_out_cost(make: Any, bridge: str) -> None:
    """By a tenth at least."""
    model = make()
    cost = new_cost(model, bridge)
    result = fit(cost, model)
    assert result.best < 0.9 * result.held_out[0][1]
    assert all(not p.requires_grad for p in cost.parameters())


def test_looks_at_the_held_out_text_draw_the_same_noise() -> None:
    """A map that hardly moves: 1e-9 a step. Fresh noise would move the cost by parts in a thousand."""
    model = tiny_bert()
    result = fit(new_cost(model), model, learning_rate=1e-9)
    values = [value for _, value in result.held_out]
    assert values == pytest.approx([values[0]] * 4, rel=1e-6)


def test_each_step_of_a_fit_draws_its_own_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    inner = RunningCost.of_trajectory

    def watched(self: RunningCost, *given: Any, generator: torch.Generator, **more: Any) -> Tensor:
        seeds.append(generator.initial_seed())
        return inner(self, *given, generator=generator, **more)

    monkeypatch.setattr(RunningCost, "of_trajectory", watched)
    model = tiny_bert()
    fit(new_cost(model), model, max_steps=10)
    assert (len(seeds), len(set(seeds))) == (10 + 2, 10 + 1)


@pytest.mark.parametrize("step", [4, 10, 25])
def test_an_interrupted_and_resumed_fit_is_uninterrupted(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit; the state is written every ten steps, and the global generator has moved by then."""
    model = tiny_bert()
    straight = new_cost(model)
    expected = fit(straight, model)
    original = FitLoop.step

    def interrupted(self: FitLoop, reading: ReadBatch) -> None:
        if reading.number == step:
            raise KeyboardInterrupt
        original(self, reading)

    with monkeypatch.context() as patch:
        patch.setattr(FitLoop, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(new_cost(model), model, folder=tmp_path)
    torch.manual_seed(99)
    resumed = new_cost(model)
    assert fit(resumed, model, folder=tmp_path) == expected
    assert resumed.digest() == straight.digest()


@pytest.mark.parametrize("reads", ["both", "state"])
def test_saved_and_loaded_it_costs_the_same_bit_for_bit(tmp_path: Path, reads: str) -> None:
    model = tiny_bert()
    cost = new_cost(model, f"sde:target=ou:theta=2,reads={reads}")
    with torch.no_grad():
        for parameter in cost.latent_map.parameters():
            parameter += 0.1
    cost.save_pretrained(tmp_path / "cost")
    config = json.loads((tmp_path / "cost" / "config.json").read_text())
    parameters = {"target": "ou:theta=2", "steps": 24, "reads": reads}
    assert config["bridge"] == {"name": "sde", "parameters": parameters}
    loaded = RunningCost.from_pretrained(tmp_path / "cost")
    assert isinstance(loaded.latent_map, DriftNetwork)
    assert loaded.config() == cost.config()
    assert loaded.digest() == cost.digest()
    hidden, labels = hidden_states(model), batch()["labels"]
    found = loaded(hidden, labels, generator=generator(7))
    assert torch.equal(found, cost(hidden, labels, generator=generator(7)))


def test_a_lora_is_trained_on_the_task_plus_the_cost_of_the_noise_drawn() -> None:
    plm = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    cost = RunningCost.for_model(plm, "sde")
    # Not the usual start: there B = 0 and the factor A has no gradient.
    model = get_peft_model(plm, pets.get("lora", init_lora_weights=False)).train()
    inputs = batch()
    task = model(**inputs).loss
    states = model(**inputs, output_hidden_states=True).hidden_states
    torch.manual_seed(3)
    value = cost(states, inputs["labels"], inputs["attention_mask"])
    with pets.regularize(model, cost, 0.7):
        torch.manual_seed(3)
        output = model(**inputs)
        assert torch.equal(output.loss, task + 0.7 * value)
        assert torch.equal(output.running_cost, value)
        assert not torch.equal(model(**inputs).running_cost, value)
        output.loss.backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == ("lora_" in name), name
        assert all(p.grad is None for p in cost.parameters())


def test_training_on_the_cost_lowers_it() -> None:
    """Weight 100, so that the cost is what is trained on; the noise before and after is the same."""
    plm = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    cost = RunningCost.for_model(plm, "sde")
    model = get_peft_model(plm, pets.get("lora")).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    with pets.regularize(model, cost, 100.0):

        def now() -> float:
            torch.manual_seed(1)
            return float(model(**batch()).running_cost)

        before = now()
        for _ in range(20):
            optimizer.zero_grad()
            model(**batch()).loss.backward()
            optimizer.step()
        assert now() < before - 0.01
