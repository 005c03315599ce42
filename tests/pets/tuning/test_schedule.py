"""A strength that falls over a run: its shape, what it acts on, and that a run goes on as it would."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_model, tiny_tokenizer

from bridges import BadInput, RunningCost
from pets import regularizers
from pets.plug.schedule import SCHEDULES, share
from pets.regularizers import Objective
from pets.tasks.base import Example, TaskData
from pets.tasks.glue import SST2
from pets.tuning.loop import TuningLoop
from pets.tuning.preparing import prepared
from pets.tuning.settings import TuneSettings
from pets.tuning.tune import tune

WORDS = ("film", "book", "story", "dog", "cat", "bird")
TRAIN = tuple(Example(f"{w} was {e}", k) for w in WORDS for k, e in enumerate(("poor", "fine")))
DATA = TaskData(SST2(["bad", "good"]), TRAIN, TRAIN[:4])
SETTINGS = TuneSettings(shots=2, max_steps=6, batch_size=2, eval_every=2, learning_rate=0.01, weight=2.0)
FALLING = ("dropout", "label-smoothing", "neftune", "r-drop", "r3f")


def model_of() -> Any:
    return tiny_model("bert", initializer_range=0.4)


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_shares_by_hand(steps: int) -> None:
    for step in range(steps + 1):
        assert share("constant", step, steps) == 1
        assert share("linear", step, steps) == 1 - step / steps
        assert share("cosine", step, steps) == (1 + math.cos(math.pi * step / steps)) / 2
    for schedule in ("linear", "cosine"):
        values = [share(schedule, step, steps) for step in range(steps + 1)]
        assert values[0] == 1
        assert values == sorted(values, reverse=True)
        assert values[-2] > 0  # the last step still has some of it
        assert values[-1] == pytest.approx(0, abs=1e-15)
    assert share("linear", 250, 1000) == 0.75
    assert share("cosine", 500, 1000) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sine", 0, 1), r"unknown schedule 'sine'; did you mean '\w+'"),
        (("linear", -1, 5), "step=-1 of 5: expected 0 to the steps of the run"),
        (("linear", 6, 5), "step=6 of 5"),
        (("cosine", 0, 0), "step=0 of 0"),
        (("constant", 0.5, 2), "step=0.5 of 2"),
    ],
)
def test_what_is_no_step_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        share(*arguments)


def weights_seen(loop: TuningLoop) -> list[float]:
    seen = []
    for step in range(loop.settings.max_steps):
        loop.step(step)
        assert loop.weighed is not None
        seen.append(loop.weighed.weight)
    return seen


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_running_cost_has_the_weight_of_the_step(schedule: str) -> None:
    plm = model_of()
    cost = RunningCost.for_model(plm, "brownian")
    settings = dataclasses.replace(SETTINGS, schedule=schedule)
    expected = [2.0 * share(schedule, step, 6) for step in range(6)]
    with prepared(plm, tiny_tokenizer(), DATA, settings, cost=cost) as loop:
        assert weights_seen(loop) == expected


def test_the_first_loss_and_a_later_one_are_task_and_weighed_cost() -> None:
    plm = model_of()
    cost = RunningCost.for_model(plm, "brownian")
    settings = dataclasses.replace(SETTINGS, schedule="linear")
    with prepared(plm, tiny_tokenizer(), DATA, settings, cost=cost) as loop:
        for group in loop.optimizer.param_groups:
            group["lr"] = 0.0
        found = [loop.step(step) for step in range(6)]
    nothing = dataclasses.replace(SETTINGS, weight=0.0)
    with prepared(plm, tiny_tokenizer(), DATA, nothing, cost=cost) as loop:
        for group in loop.optimizer.param_groups:
            group["lr"] = 0.0
        task = [loop.step(step)[0] for step in range(6)]
    for step, (loss, value) in enumerate(found):
        assert value is not None
        assert loss == pytest.approx(task[step] + 2 * (1 - step / 6) * value, rel=1e-5)


@pytest.mark.parametrize("name", FALLING)
def test_a_regularizer_s_strength_falls(name: str) -> None:
    strength = {"dropout": 0.4, "label-smoothing": 0.4}.get(name, 2.0)
    settings = dataclasses.replace(SETTINGS, regularizer=name, weight=strength, schedule="cosine")
    with prepared(model_of(), tiny_tokenizer(), DATA, settings) as loop:
        assert weights_seen(loop) == [strength * share("cosine", step, 6) for step in range(6)]


@pytest.mark.parametrize("name", FALLING)
def test_what_is_said_to_fall_has_another_loss_then(name: str) -> None:
    """So it reads its strength at every step, as `Objective.may_fall` says."""
    losses = []
    for schedule in ("constant", "linear"):
        settings = dataclasses.replace(SETTINGS, regularizer=name, weight=0.5, schedule=schedule)
        with prepared(model_of(), tiny_tokenizer(), DATA, settings) as loop:
            for group in loop.optimizer.param_groups:
                group["lr"] = 0.0
            losses.append([loop.step(step)[0] for step in range(6)])
    assert losses[0][0] == losses[1][0]
    assert all(one != other for one, other in zip(losses[0][3:], losses[1][3:], strict=True))


def test_every_other_regularizer_is_refused() -> None:
    own = [n for n in regularizers.available() if not regularizers.info(n).cls.may_fall]
    assert own == ["weight-decay"]
    message = "schedule='linear': regularizer 'weight-decay' does not say that its strength may fall"
    with pytest.raises(BadInput, match=message):
        TuneSettings(regularizer="weight-decay", weight=0.1, schedule="linear")
    TuneSettings(regularizer="weight-decay", weight=0.1)

    class Unsaid(Objective, name="unsaid"):
        number, tried = "beta", (0.1, 1.0)

        def on(self, classifier: Any) -> Any:
            return classifier

    with pytest.raises(BadInput, match="'unsaid' does not say"):
        TuneSettings(regularizer="unsaid", weight=0.1, schedule="cosine")
    with pytest.raises(BadInput, match="unknown schedule 'lineal'; did you mean 'linear'"):
        TuneSettings(schedule="lineal")


@pytest.mark.parametrize("regularizer", [None, "r-drop"])
def test_an_interrupted_run_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, regularizer: str | None
) -> None:
    plm = model_of()
    cost = None if regularizer else RunningCost.for_model(plm, "brownian")
    settings = dataclasses.replace(SETTINGS, schedule="cosine", regularizer=regularizer)

    def run(folder: str) -> bytes:
        tune(plm, tiny_tokenizer(), DATA, settings, tmp_path / folder, cost=cost, progress=False)
        pet = (tmp_path / folder / "pet" / "adapter_model.safetensors").read_bytes()
        return (tmp_path / folder / "result.json").read_bytes() + pet

    whole, step = run("whole"), TuningLoop.step

    def until_4(self: TuningLoop, number: int) -> tuple[float, float | None]:
        if number == 4:
            raise KeyboardInterrupt
        return step(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(TuningLoop, "step", until_4)
        with pytest.raises(KeyboardInterrupt):
            run("cut")
    assert (tmp_path / "cut" / "state.safetensors").exists()
    assert run("cut") == whole


def test_a_schedule_is_part_of_the_identity_where_it_is_not_constant(tmp_path: Path) -> None:
    plm = model_of()
    cost = RunningCost.for_model(plm, "brownian")
    folder = tmp_path / "run"
    constant = tune(plm, tiny_tokenizer(), DATA, SETTINGS, folder, cost=cost, progress=False)
    assert constant["settings"]["schedule"] == "constant"
    assert "schedule" not in json.loads((folder / "run.json").read_text())["settings"]
    falling = dataclasses.replace(SETTINGS, schedule="linear")
    with pytest.raises(BadInput, match="schedule None there, 'linear' here"):
        tune(plm, tiny_tokenizer(), DATA, falling, folder, cost=cost, progress=False)
    other = tune(plm, tiny_tokenizer(), DATA, falling, tmp_path / "2", cost=cost, progress=False)
    assert other["settings"]["schedule"] == "linear"
    assert other["curves"] != constant["curves"]


def test_of_a_vanilla_run_it_is_no_part(tmp_path: Path) -> None:
    for schedule in ("linear", "constant"):
        settings = dataclasses.replace(SETTINGS, max_steps=2, schedule=schedule)
        tune(model_of(), tiny_tokenizer(), DATA, settings, tmp_path / "run", progress=False)
