"""A running cost weighed by a ratio of gradients: as long as it says, the same again, or refused."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TEXTS, tiny_model, tiny_tokenizer
from torch import Tensor

from bridges import BadInput, RunningCost
from pets.plug.regularize import Regularizer
from pets.tasks.base import Example, TaskData
from pets.tasks.glue import SST2
from pets.tuning import loop as loop_module
from pets.tuning.loop import TuningLoop
from pets.tuning.preparing import prepared
from pets.tuning.ratio import weight_of
from pets.tuning.settings import TuneSettings
from pets.tuning.tune import tune

WORDS = ("film", "book", "story", "dog", "cat", "bird")
TRAIN = tuple(
    Example(f"{w} was {e}", k, fields=(("sentence", f"{w} was {e}"),))
    for w in WORDS
    for k, e in enumerate(("poor", "fine"))
)
DATA = TaskData(SST2(["bad", "good"]), TRAIN, TRAIN[:4])
SETTINGS = TuneSettings(shots=2, max_steps=6, batch_size=2, eval_every=2, learning_rate=0.01, ratio=0.5)


def model_of(kind: str = "bert", **changes: Any) -> Any:
    return tiny_model(kind, initializer_range=0.4, **changes)


def gradients(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    whole = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    return torch.cat([g.flatten().double() for g in whole])


def oracle(loop: TuningLoop, ratio: float) -> float:
    """From whole losses at weight 0 and 1, all examples at once: nothing is read term by term."""
    assert isinstance(loop.plugged, Regularizer)
    batch = loop.classifier.collate(loop.rows["train"])
    parts = []
    for weight in (0.0, 1.0):
        loop.plugged.weight = weight
        parts.append(gradients(loop.classifier(**batch).loss, loop.parameters))
    task, both = parts
    return ratio * float(task.norm() / (both - task).norm())


@pytest.mark.parametrize("pet", ["lora", "prompt", "bitfit"])
@pytest.mark.parametrize("reader", ["mlp", "lens"])
def test_a_weight_makes_the_gradients_ratio(pet: str, reader: str) -> None:
    plm = model_of()
    cost = RunningCost.for_model(plm, "brownian", map=reader, fit=False)
    settings = dataclasses.replace(SETTINGS, pet=pet)
    with prepared(plm, tiny_tokenizer(), DATA, settings, cost=cost) as loop:
        assert loop.plugged is not None
        with loop.plugged.replacing():
            found = weight_of(0.5, loop.classifier, cost, loop.rows["train"], loop.parameters)
            twice = weight_of(1.0, loop.classifier, cost, loop.rows["train"], loop.parameters)
        assert twice == pytest.approx(2 * found)
        assert found == pytest.approx(oracle(loop, 0.5), rel=1e-4)


@pytest.mark.parametrize("adapt", ["once", "looks"])
def test_an_adapted_cost_has_the_ratio_that_it_is_trained_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapt: str
) -> None:
    """Not that of the lens as it was on text, whose gradient is another."""
    plm = model_of()
    cost = RunningCost.for_model(plm, "axis", map="lens", fit=True)
    fit = {"batch_size": 8, "max_length": 16, "held_out": 8, "max_tokens": 200}
    cost.fit(plm, tiny_tokenizer(), TEXTS, progress=False, **fit)
    data = dataclasses.replace(DATA, reported=())
    settings = dataclasses.replace(SETTINGS, shots=3, adapt=adapt, max_steps=2)
    seen: list[tuple[float, float]] = []
    step = TuningLoop.step

    def watched(self: TuningLoop, number: int) -> Any:
        if not seen:
            assert self.plugged is not None
            weight = self.plugged.weight
            seen.append((weight, oracle(self, 0.5)))
            self.plugged.weight = weight
        return step(self, number)

    monkeypatch.setattr(TuningLoop, "step", watched)
    told = tune(plm, tiny_tokenizer(), data, settings, tmp_path / "a", cost=cost, progress=False)
    never = dataclasses.replace(settings, adapt="never")
    other = tune(plm, tiny_tokenizer(), data, never, tmp_path / "b", cost=cost, progress=False)
    (weight, expected), *_ = seen
    assert weight == pytest.approx(expected, rel=1e-4)
    assert told["weight"] == weight
    assert other["weight"] != pytest.approx(weight, rel=0.05)


def test_what_is_not_trained_does_not_count() -> None:
    plm = model_of()
    cost = RunningCost.for_model(plm, "brownian", fit=False)
    with prepared(plm, tiny_tokenizer(), DATA, SETTINGS, cost=cost) as loop:
        loop._weigh(0.5, cost)
        whole = loop.weight
        frozen = [name for name in loop.named if "layer.0" in name and "lora_B" in name]
        assert frozen
        for name in frozen:
            loop.named.pop(name).requires_grad_(False)
        loop._weigh(0.5, cost)
        assert loop.weight == pytest.approx(oracle(loop, 0.5), rel=1e-4)
        assert loop.weight != pytest.approx(whole, rel=1e-3)


def test_batches_count_by_their_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    plm = model_of()
    cost = RunningCost.for_model(plm, "ou", fit=False)
    with prepared(plm, tiny_tokenizer(), DATA, SETTINGS, cost=cost) as loop:
        assert loop.plugged is not None
        found = []
        for size in (32, 3):  # 4 examples: all, or 3 and 1
            monkeypatch.setattr("pets.tuning.ratio._BATCH", size)
            with loop.plugged.replacing():
                found.append(weight_of(2.0, loop.classifier, cost, loop.rows["train"], loop.parameters))
        assert found[0] == pytest.approx(found[1], rel=1e-5)


def result_of(folder: Path, plm: Any, cost: Any, **changes: Any) -> dict[str, Any]:
    settings = dataclasses.replace(SETTINGS, **changes)
    return tune(plm, tiny_tokenizer(), DATA, settings, folder, cost=cost, progress=False)


def test_a_run_is_that_of_the_weight_it_measured(tmp_path: Path) -> None:
    plm = model_of()
    cost = RunningCost.for_model(plm, "brownian", fit=False)
    by_ratio = result_of(tmp_path / "ratio", plm, cost, schedule="linear")
    assert by_ratio["weight"] > 0
    assert by_ratio["settings"]["ratio"] == 0.5
    assert "weight" not in by_ratio["settings"]
    by_weight = result_of(
        tmp_path / "weight", plm, cost, schedule="linear", ratio=None, weight=by_ratio["weight"]
    )
    assert by_weight["curves"] == by_ratio["curves"]
    assert by_weight["weight"] == by_ratio["weight"]
    assert by_weight["settings"]["ratio"] is None
    other = result_of(tmp_path / "other", plm, cost, schedule="linear", ratio=5.0)
    assert other["weight"] == pytest.approx(10 * by_ratio["weight"])
    assert other["curves"][1:] != by_ratio["curves"][1:]
    assert result_of(tmp_path / "vanilla", plm, None, ratio=None)["weight"] is None


@pytest.mark.parametrize(
    ("bridge", "adapt"),
    [("brownian", "never"), ("brownian", "once"), ("brownian", "looks"), ("sde", "never")],
)
def test_interrupted_it_ends_at_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapt: str, bridge: str
) -> None:
    plm = model_of()
    reader = "mlp" if adapt == "never" else "lens"
    cost = RunningCost.for_model(plm, bridge, map=reader, fit=reader == "lens")
    if reader == "lens":
        fit = {"batch_size": 8, "max_length": 16, "held_out": 8, "max_tokens": 200}
        cost.fit(plm, tiny_tokenizer(), TEXTS, progress=False, **fit)
    data = dataclasses.replace(DATA, reported=())
    settings = dataclasses.replace(SETTINGS, adapt=adapt, shots=3)

    def run(folder: Path) -> dict[str, Any]:
        return tune(plm, tiny_tokenizer(), data, settings, folder, cost=cost, progress=False)

    whole = run(tmp_path / "whole")
    inner, calls = loop_module.TuningLoop.step, []

    def dies(self: TuningLoop, step: int) -> Any:
        calls.append(step)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return inner(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(loop_module.TuningLoop, "step", dies)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
    torch.manual_seed(7)
    assert run(tmp_path / "cut") == whole
    result = (tmp_path / "whole" / "result.json").read_bytes()
    assert (tmp_path / "cut" / "result.json").read_bytes() == result
    assert json.loads(result)["weight"] > 0


def test_the_model_and_the_first_backward_are_left_as_they_are(tmp_path: Path) -> None:
    plm = model_of()
    cost = RunningCost.for_model(plm, "brownian", fit=False)
    with prepared(plm, tiny_tokenizer(), DATA, SETTINGS, cost=cost) as loop:
        before = [p.detach().clone() for p in loop.parameters]
        loop._weigh(0.5, cost)
        assert all(torch.equal(a, b) for a, b in zip(before, loop.parameters, strict=True))
        assert all(p.grad is None for p in loop.parameters)
        assert loop.plugged is not None
        assert loop.plugged.weight == loop.weight
        loss, value = loop.step(0)
        assert value is not None
        assert math.isfinite(loss)


def test_a_classifier_s_new_head_is_the_task_s_alone(tmp_path: Path) -> None:
    plm = model_of(head="ForSequenceClassification", num_labels=2)
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "[SEP]"
    cost = RunningCost.for_model(plm, "brownian", fit=False)
    with prepared(plm, tokenizer, DATA, SETTINGS, cost=cost) as loop:
        assert any("score" in name or "classifier" in name for name in loop.named)
        loop._weigh(0.5, cost)
        assert loop.weight == pytest.approx(oracle(loop, 0.5), rel=1e-4)


def test_a_gradient_that_is_nothing_has_no_ratio(tmp_path: Path) -> None:
    plm = model_of()
    nothing = RunningCost.for_model(plm, "none")
    with pytest.raises(BadInput, match=r"cost 'none' .* is 0\.0 long, .*; give a weight instead"):
        result_of(tmp_path / "run", plm, nothing)
    cost = RunningCost.for_model(plm, "brownian", fit=False)
    with prepared(plm, tiny_tokenizer(), DATA, SETTINGS, cost=cost) as loop:
        assert loop.plugged is not None
        unread = [torch.zeros(3, requires_grad=True)]
        with loop.plugged.replacing(), pytest.raises(BadInput, match=r"the task's loss .* is 0"):
            weight_of(0.5, loop.classifier, cost, loop.rows["train"], unread)
        with torch.no_grad():
            loop.parameters[0].fill_(float("inf"))
        with loop.plugged.replacing(), pytest.raises(BadInput, match="is nan long"):
            weight_of(0.5, loop.classifier, cost, loop.rows["train"], loop.parameters)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratio": 0.0}, "ratio=0.0: expected a finite number above 0"),
        ({"ratio": math.inf}, "ratio=inf: expected a finite"),
        ({"ratio": "1"}, "ratio='1': expected a finite"),
        ({"ratio": 1.0, "regularizer": "r-drop"}, "with regularizer 'r-drop': .* its own weight"),
    ],
)
def test_what_is_no_ratio_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        dataclasses.replace(SETTINGS, **changes)


def test_a_ratio_needs_a_cost(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"ratio=0\.5: there is no running cost to weigh"):
        result_of(tmp_path / "run", model_of(), None)
    assert not (tmp_path / "run").exists()
