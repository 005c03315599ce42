"""Costs that are fitted together come out as those fitted alone, and the model reads the text once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tiny import TEXTS, tiny_bert, tiny_llama, tiny_model, tiny_tokenizer
from torch import nn

import bridges
from bridges import BadInput, FitResult, RunningCost
from bridges.fitting.loop import FitLoop
from bridges.fitting.settings import UPDATES
from bridges.fitting.text import ReadBatch

pytestmark = pytest.mark.slow

SHORT: dict[str, Any] = {
    "max_steps": 30,
    "batch_size": 8,
    "held_out": 12,
    "eval_every": 10,
    "patience": 99,
    "learning_rate": 0.01,
}
KINDS = ("brownian", "ou:theta=2", "sde", "ou:learn=sigma", "none")
TOKENIZER = tiny_tokenizer()


def new_costs(model: nn.Module, kinds: tuple[str, ...] = KINDS) -> list[RunningCost]:
    return [RunningCost.for_model(model, kind, widths=(16, 8)) for kind in kinds]


def together(costs: list[RunningCost], model: nn.Module, **changes: Any) -> list[FitResult]:
    settings = {"progress": False, **SHORT, **changes}
    return bridges.fit_together(costs, model, TOKENIZER, TEXTS, **settings)


def alone(costs: list[RunningCost], model: nn.Module, **changes: Any) -> list[FitResult]:
    settings = {**SHORT, **changes}
    return [cost.fit(model, TOKENIZER, TEXTS, progress=False, **settings) for cost in costs]


def assert_same(some: list[RunningCost], others: list[RunningCost]) -> None:
    assert [cost.digest() for cost in some] == [cost.digest() for cost in others]
    assert [cost.fit_record for cost in some] == [cost.fit_record for cost in others]


@pytest.mark.parametrize("make", [tiny_bert, tiny_llama, lambda: tiny_model("t5")])
def test_each_comes_out_as_alone(make: Any) -> None:
    """To the bits, the noise of an SDE and what a bridge learns included."""
    model = make()
    one, other = new_costs(model), new_costs(model)
    assert together(one, model) == alone(other, model)
    assert_same(one, other)


def test_the_model_reads_each_batch_once() -> None:
    model = tiny_bert()
    calls: list[int] = []
    costs, one = new_costs(model), new_costs(model, ("brownian",))  # the model is looked at here
    handle = model.bert.register_forward_hook(lambda *_: calls.append(1))
    together(costs, model)
    several = len(calls)
    calls.clear()
    together(one, model)
    handle.remove()
    batches = -(-SHORT["max_steps"] // UPDATES)
    assert several == len(calls) == batches + 1  # and the held-out one


def test_one_that_stops_early_leaves_the_others_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Brownian cost is made to look stale from its second look on."""
    model = tiny_bert()
    original = FitLoop._is_stale
    monkeypatch.setattr(
        FitLoop,
        "_is_stale",
        lambda self: (self.name == "brownian" and self.steps >= 10) or original(self),
    )
    one, other = new_costs(model), new_costs(model)
    found = together(one, model)
    assert [result.steps for result in found] == [10, 30, 30, 30, 0]
    assert [result.stopped_early for result in found] == [True, False, False, False, False]
    assert found == alone(other, model)
    assert_same(one, other)


def stop_at(patch: pytest.MonkeyPatch, step: int, name: str) -> None:
    """Ctrl-C when the cost of this name is to take this step."""
    original = FitLoop.step

    def interrupted(self: FitLoop, reading: ReadBatch) -> None:
        if (self.name, reading.number) == (name, step):
            raise KeyboardInterrupt
        original(self, reading)

    patch.setattr(FitLoop, "step", interrupted)


@pytest.mark.parametrize("step", [4, 10, 25])
@pytest.mark.parametrize("name", ["brownian", "sde"])
def test_interrupted_and_resumed_is_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, name: str
) -> None:
    model = tiny_bert()
    straight, half, resumed = new_costs(model), new_costs(model), new_costs(model)
    before = [cost.digest() for cost in half]
    expected = together(straight, model)
    folders = [tmp_path / str(k) for k in range(len(KINDS))]
    with monkeypatch.context() as patch:
        stop_at(patch, step, name)
        with pytest.raises(KeyboardInterrupt):
            together(half, model, folders=folders)
    assert [cost.digest() for cost in half] == before
    assert not any(p.requires_grad for cost in half for p in cost.parameters())
    assert together(resumed, model, folders=folders) == expected
    assert_same(resumed, straight)


def test_one_that_was_left_behind_catches_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the writing of two states, or joined by a new cost: each at another step."""
    model = tiny_bert()
    kinds = ("brownian", "ou", "alpha")
    straight, costs = new_costs(model, kinds), new_costs(model, kinds)
    expected = alone(straight, model)
    folders = [tmp_path / str(k) for k in range(3)]
    for k, step in ((0, 25), (1, 15)):  # kept after steps 20 and 10
        with monkeypatch.context() as patch:
            stop_at(patch, step, kinds[k])
            with pytest.raises(KeyboardInterrupt):
                together(new_costs(model, kinds)[k : k + 1], model, folders=[folders[k]])
    taken: list[tuple[str, int]] = []
    original = FitLoop.step

    def counted(self: FitLoop, reading: ReadBatch) -> None:
        taken.append((self.name, reading.number))
        original(self, reading)

    monkeypatch.setattr(FitLoop, "step", counted)
    assert together(costs, model, folders=folders) == expected
    assert_same(costs, straight)
    first = {name: min(n for who, n in taken if who == name) for name in kinds}
    assert first == {"brownian": 20, "ou": 10, "alpha": 0}


def test_finished_ones_are_read_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_bert()
    costs, again = new_costs(model), new_costs(model)
    folders = [tmp_path / str(k) for k in range(len(KINDS))]
    expected = together(costs, model, folders=folders)
    monkeypatch.setattr(FitLoop, "step", None)
    assert together(again, model, folders=folders) == expected
    assert_same(again, costs)


def test_a_cost_that_is_not_finite_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_bert()
    costs = new_costs(model)
    before = [cost.digest() for cost in costs]
    original = FitLoop.value

    def broken(self: FitLoop, reading: ReadBatch) -> Any:
        value = original(self, reading)
        return value * float("nan") if (self.name, reading.number) == ("sde", 3) else value

    monkeypatch.setattr(FitLoop, "value", broken)
    with pytest.raises(BadInput, match="the running cost of 'sde' became nan at step 3"):
        together(costs, model)
    assert [cost.digest() for cost in costs] == before


def test_the_bar_names_the_first_few(capfd: pytest.CaptureFixture[str]) -> None:
    model = tiny_bert()
    for kinds, shown in (
        (("brownian",), r"held-out cost [\d.]+$"),
        (("brownian", "ou"), r"held-out costs brownian [\d.]+, ou [\d.]+$"),
        (
            ("brownian", "ou", "alpha", "smooth", "sde"),
            r"held-out costs brownian [\d.]+, ou [\d.]+, alpha [\d.]+, 2 more$",
        ),
    ):
        together(new_costs(model, kinds), model, progress=True, max_steps=10)
        assert re.search(shown, capfd.readouterr().err, re.M)


def test_bad_input(tmp_path: Path) -> None:
    model, other = tiny_bert(), tiny_llama()
    costs = new_costs(model, ("brownian", "ou"))
    assert together([], model) == []
    for folders in ([tmp_path], [tmp_path, tmp_path]):
        with pytest.raises(BadInput, match=r"2 costs and the folders .*: expected one for each"):
            together(costs, model, folders=folders)
    with pytest.raises(BadInput, match="a cost is given twice"):
        together([costs[0], costs[0]], model)
    with pytest.raises(BadInput, match="does not fit the model"):
        together([costs[0], *new_costs(other, ("ou",))], model)
    random = RunningCost.for_model(model, "brownian", widths=(16, 8), fit=False)
    with pytest.raises(BadInput, match="made with fit=False"):
        together([costs[0], random], model)
    assert not list(tmp_path.iterdir())
