"""A run whose lens learns from its training examples: when, from what, and that it goes on the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

import pets
from bridges import BadInput, RunningCost
from bridges.latent.lens import Lens
from pets.tasks.base import Example, TaskData
from pets.tasks.glue import SST2
from pets.tuning.loop import TuningLoop
from pets.tuning.preparing import prepared
from pets.tuning.settings import TuneSettings
from pets.tuning.tune import tune

WORDS = ("film", "book", "story", "dog", "cat", "bird")
TRAIN = tuple(Example(f"{w} was {e}", k) for w in WORDS for k, e in enumerate(("poor", "fine")))
DATA = TaskData(SST2(["bad", "good"]), TRAIN, TRAIN[:4])
SETTINGS = TuneSettings(shots=3, max_steps=6, batch_size=2, eval_every=2, learning_rate=0.01, weight=2.0)


def model_of() -> Any:
    return tiny_model("bert", initializer_range=0.4)


def lens_cost(plm: Any, bridge: str = "posterior") -> RunningCost:
    return RunningCost.for_model(plm, bridge, map="lens", latent_dim=8)


def weights(cost: RunningCost) -> torch.Tensor:
    lens = cost.latent_map
    assert isinstance(lens, Lens)
    return lens.weight.detach().clone()


def lenses_of_a_run(adapt: str, folder: Path) -> tuple[list[torch.Tensor], RunningCost]:
    """What the run reads with at each step, and the cost it was given."""
    plm = model_of()
    cost = lens_cost(plm)
    seen: list[torch.Tensor] = []
    original = TuningLoop.step

    def step(self: TuningLoop, number: int) -> Any:
        assert self.plugged is not None
        seen.append(weights(self.plugged._forward.terms[0].placed.cost))
        return original(self, number)

    settings = dataclasses.replace(SETTINGS, adapt=adapt)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TuningLoop, "step", step)
        tune(plm, tiny_tokenizer(), DATA, settings, folder, cost=cost, progress=False)
    return seen, cost


def test_never_once_and_at_looks(tmp_path: Path) -> None:
    never, cost = lenses_of_a_run("never", tmp_path / "never")
    assert all(torch.equal(w, weights(cost)) for w in never)
    once, cost = lenses_of_a_run("once", tmp_path / "once")
    assert all(torch.equal(w, once[0]) for w in once)
    assert not torch.equal(once[0], weights(cost))  # and what was given is left as it was
    looks, _ = lenses_of_a_run("looks", tmp_path / "looks")
    assert torch.equal(looks[0], once[0])
    assert torch.equal(looks[0], looks[1])
    assert not torch.equal(looks[2], looks[1])
    assert not torch.equal(looks[4], looks[3])


def test_it_learns_from_the_training_examples_alone() -> None:
    plm = model_of()
    cost = lens_cost(plm)
    settings = dataclasses.replace(SETTINGS, adapt="once")
    with prepared(plm, tiny_tokenizer(), DATA, settings, cost=cost) as loop:
        loop._adapt()
        assert loop.plugged is not None
        found = weights(loop.plugged._forward.terms[0].placed.cost)
        loop.plugged.remove()
        train = loop.classifier.collate(loop.rows["train"])
        assert torch.equal(found, weights(pets.adapt(cost, loop.classifier, [train])))
        dev = loop.classifier.collate(loop.rows["dev"])
        assert not torch.equal(found, weights(pets.adapt(cost, loop.classifier, [dev])))


@pytest.mark.parametrize("adapt", ["once", "looks"])
def test_interrupted_and_resumed_is_uninterrupted(
    adapt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(SETTINGS, adapt=adapt)

    def run(folder: Path) -> dict[str, Any]:
        plm = model_of()
        cost = lens_cost(plm)
        return tune(plm, tiny_tokenizer(), DATA, settings, folder, cost=cost, progress=False)

    straight = run(tmp_path / "straight")
    original = TuningLoop.step

    def stopped(self: TuningLoop, number: int) -> Any:
        if number == 5:
            raise KeyboardInterrupt
        return original(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(TuningLoop, "step", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "half")
    again = run(tmp_path / "half")
    assert again["curves"] == straight["curves"]
    assert again["reported"] == straight["reported"]


def test_it_is_a_part_of_what_a_run_is(tmp_path: Path) -> None:
    plm = model_of()
    cost = lens_cost(plm)
    first = tune(plm, tiny_tokenizer(), DATA, SETTINGS, tmp_path / "run", cost=cost, progress=False)
    assert first["settings"]["adapt"] == "never"
    assert "adapt" not in json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    once = dataclasses.replace(SETTINGS, adapt="once")
    with pytest.raises(BadInput, match="adapt None there, 'once' here"):
        tune(plm, tiny_tokenizer(), DATA, once, tmp_path / "run", cost=cost, progress=False)


def test_what_has_no_lens_is_refused(tmp_path: Path) -> None:
    plm = model_of()
    once = dataclasses.replace(SETTINGS, adapt="once")
    for cost in (None, RunningCost.for_model(plm, "brownian")):
        with pytest.raises(BadInput, match="only a running cost with a lens learns from examples"):
            tune(plm, tiny_tokenizer(), DATA, once, tmp_path / "run", cost=cost, progress=False)
    with pytest.raises(BadInput, match="unknown adapt 'twice'"):
        dataclasses.replace(SETTINGS, adapt="twice")
