"""What makes a fit of the published map a matter of minutes, and what it tells of itself."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TEXTS, tiny_bert, tiny_llama, tiny_tokenizer
from torch import Tensor, nn

import bridges
from bridges import BadInput, FitSettings, LensSettings, RunningCost
from bridges.fitting import seen as held
from bridges.fitting.loop import FitLoop
from bridges.fitting.pace import Pace, minutes
from bridges.fitting.seen import Seen
from bridges.latent.trajectory import Trajectory
from bridges.model import autocast

pytestmark = pytest.mark.slow

SHORT: dict[str, Any] = {"batch_size": 4, "max_length": 16, "held_out": 8, "progress": False}
TOKENIZER = tiny_tokenizer()


def new_cost(model: nn.Module) -> RunningCost:
    return RunningCost.for_model(model, "brownian", widths=(16, 8))


def batch(count: int) -> Seen:
    states = torch.arange(float(count)).reshape(1, count, 1)
    rows = torch.arange(count) % 2
    return Seen(3, Trajectory(states, torch.zeros(1, 2, 1), rows), torch.arange(count))


@pytest.mark.parametrize("count", [1, 3, 8, 30])
def test_the_parts_of_a_batch_have_each_target_once(count: int) -> None:
    settings = FitSettings(updates=8)
    parts = [batch(count).part(k, settings) for k in range(8)]
    assert [part.number for part in parts] == list(range(24, 32))
    for part in parts:
        assert torch.equal(part.trajectory.states[0, :, 0].long(), part.answers)
        assert torch.equal(part.trajectory.rows, part.answers % 2)
    first = torch.cat([part.answers for part in parts[: min(count, 8)]])
    assert sorted(first.tolist()) == list(range(count))
    assert all(len(part.answers) for part in parts)
    assert max(len(part.answers) for part in parts) <= -(-count // 8)
    again = batch(count).part(1, settings)
    assert torch.equal(again.answers, parts[1].answers)


def test_one_update_is_the_whole_batch() -> None:
    whole = batch(5)
    assert whole.part(0, FitSettings(updates=1)) is whole


@pytest.mark.parametrize("updates", [1, 4])
def test_text_is_read_once_for_all_updates_and_held_out_text_once(updates: int) -> None:
    model = tiny_bert()
    cost, calls = new_cost(model), []
    handle = model.bert.register_forward_hook(lambda *_: calls.append(1))
    result = cost.fit(model, TOKENIZER, TEXTS, steps=10, eval_every=3, updates=updates, **SHORT)
    handle.remove()
    assert result.steps == 10
    assert [step for step, _ in result.held_out] == [0, 3, 6, 9, 10]
    held_out = 2 if updates == 1 else 1  # a fifth of what is read at most
    assert len(calls) == -(-10 // updates) + held_out


@pytest.mark.parametrize("make", [tiny_bert, tiny_llama])
def test_a_fit_that_is_stopped_inside_a_batch_goes_on_to_the_same_bits(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    options = {"steps": 14, "eval_every": 3, "updates": 4, **SHORT}
    whole, part = new_cost(model), new_cost(model)
    whole.fit(model, TOKENIZER, TEXTS, folder=tmp_path / "whole", **options)
    original = FitLoop.step

    def interrupted(self: FitLoop, seen: Seen) -> None:
        if seen.number == 10:
            raise KeyboardInterrupt
        original(self, seen)

    monkeypatch.setattr(FitLoop, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        part.fit(model, TOKENIZER, TEXTS, folder=tmp_path / "part", **options)
    monkeypatch.setattr(FitLoop, "step", original)
    with pytest.raises(BadInput, match="updates 4 there, 2 here"):
        part.fit(model, TOKENIZER, TEXTS, folder=tmp_path / "part", **{**options, "updates": 2})
    part.fit(model, TOKENIZER, TEXTS, folder=tmp_path / "part", **options)
    assert part.digest() == whole.digest()
    assert part.fit_record == whole.fit_record


def test_held_out_text_that_does_not_fit_is_read_at_every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_bert()
    one, other = new_cost(model), new_cost(model)
    options = {"steps": 6, "eval_every": 2, **SHORT}
    one.fit(model, TOKENIZER, TEXTS, **options)
    monkeypatch.setattr(held, "KEPT", 1)
    calls: list[int] = []
    handle = model.bert.register_forward_hook(lambda *_: calls.append(1))
    other.fit(model, TOKENIZER, TEXTS, **options)
    handle.remove()
    assert len(calls) == 1 + 4
    assert (one.digest(), one.fit_record) == (other.digest(), other.fit_record)


def test_steps_is_max_steps() -> None:
    model = tiny_bert()
    one, other = new_cost(model), new_cost(model)
    one.fit(model, TOKENIZER, TEXTS, steps=3, **SHORT)
    other.fit(model, TOKENIZER, TEXTS, max_steps=3, **SHORT)
    assert (one.digest(), one.fit_record) == (other.digest(), other.fit_record)
    with pytest.raises(BadInput, match="steps and max_steps are one setting"):
        one.fit(model, TOKENIZER, TEXTS, steps=3, max_steps=3, **SHORT)
    lens = RunningCost.for_model(model, map="lens")
    with pytest.raises(BadInput, match="a lens takes no steps"):
        lens.fit(model, TOKENIZER, TEXTS, steps=3, progress=False)


@pytest.mark.parametrize("call", [RunningCost.fit, bridges.fit_together])
def test_help_shows_every_setting(call: Any) -> None:
    shown = inspect.signature(call).parameters
    for kind in (FitSettings, LensSettings):
        assert vars(kind()).keys() - {"max_steps"} <= shown.keys()
        assert str(inspect.getdoc(kind)) in str(inspect.getdoc(call))
    assert shown["steps"].default == FitSettings().max_steps
    assert "settings" not in shown


def _dtypes(model: nn.Module, **options: Any) -> set[torch.dtype]:
    found: set[torch.dtype] = set()
    layer: Any = model

    def note(module: nn.Module, args: Any, output: Tensor) -> None:
        found.add(output.dtype)

    handle = layer.bert.encoder.layer[0].output.dense.register_forward_hook(note)
    cost = new_cost(model)
    cost.fit(model, TOKENIZER, TEXTS, steps=2, **SHORT, **options)
    handle.remove()
    return found


def test_the_forward_is_in_bfloat16_where_asked_or_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_bert()
    monkeypatch.setattr(autocast, "fast_in_bfloat16", lambda device: False)
    assert _dtypes(model) == _dtypes(model, dtype="model") == {torch.float32}
    assert _dtypes(model, dtype="bfloat16") == {torch.bfloat16}
    monkeypatch.setattr(autocast, "fast_in_bfloat16", lambda device: True)
    assert _dtypes(model) == {torch.bfloat16}
    assert autocast.chosen_dtype("auto", tiny_bert().double()) == "model"
    assert autocast.chosen_dtype("model", model) == "model"


def test_what_auto_comes_to_is_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A state of one precision is none of the other."""
    model = tiny_llama()
    cost = new_cost(model)
    monkeypatch.setattr(autocast, "fast_in_bfloat16", lambda device: True)
    cost.fit(model, TOKENIZER, TEXTS, steps=2, folder=tmp_path, **SHORT)
    assert cost.fit_record is not None
    assert cost.fit_record["settings"]["dtype"] == "bfloat16"
    monkeypatch.setattr(autocast, "fast_in_bfloat16", lambda device: False)
    with pytest.raises(BadInput, match="dtype 'bfloat16' there, 'model' here"):
        new_cost(model).fit(model, TOKENIZER, TEXTS, steps=2, folder=tmp_path, **SHORT)


def test_it_says_how_long_it_takes(caplog: pytest.LogCaptureFixture) -> None:
    """10 s for each 1000 of 3000 tokens of 250 batches, and 5 s for each look of those that are left."""
    caplog.set_level(logging.INFO)
    pace, clock = Pace(FitSettings(), tokens=3000), [0.0]
    pace.now = lambda: clock[0]  # type: ignore[method-assign, assignment]
    for number, seconds in enumerate((70.0, 10.0, 20.0, 10.0, 20.0)):
        began = clock[0]
        if number < 2:
            with pace.looking():
                clock[0] += 5
        clock[0] += seconds
        assert pace.batch(began, number, 100 * int(seconds)) == (number == 4)
    expected = 245 * 30 + 245 * 8 / 50 * 5
    assert pace.shown == f", {minutes(expected)} at most" == ", about 126 min at most"
    assert "the fit takes about 126 min, less if it stops early: 245 batches" in caplog.text
    assert not pace.batch(clock[0], 5, 1000)


def test_it_shows_how_long_off_a_terminal_too(capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_bert()
    new_cost(model).fit(model, TOKENIZER, TEXTS, **{**SHORT, "steps": 64, "progress": True})
    shown = capsys.readouterr().err
    assert "held-out cost" in shown


def test_importing_bridges_imports_no_progress_bar() -> None:
    code = "import sys, bridges; sys.exit('tqdm' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
