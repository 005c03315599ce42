"""A comparison's plan: measured, told, kept; no time that is measured decides a test."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comparison_cases import FIT, rows_of, save_inputs, small_grid, sources
from paces import PACE

from bridges import BadInput, FitSettings
from pets.study.cells.context import Context
from pets.study.cells.grid import Grid
from pets.study.compare import pace as pace_module
from pets.study.compare import planning
from pets.study.compare.budget import said
from pets.study.compare.pace import fit_seconds, measured
from pets.study.compare.plan import Pace
from pets.study.compare.run import Tally, compare
from pets.tuning.loop import TuningLoop

pytestmark = pytest.mark.slow

# In a comparison


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_inputs(tmp_path_factory.mktemp("inputs"))


def cheap_grid(**changes: Any) -> Grid:
    """Nothing to fit."""
    axes: dict[str, Any] = {
        "arms": ("brownian@random-map",),
        "seeds": (1, 2, 3, 4),
        "weights": (1.0, 2.0),
    }
    return small_grid(**{**axes, **changes})


Run = Callable[..., Tally]


@pytest.fixture
def run(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A comparison whose pace is given, or must not be measured."""
    monkeypatch.setattr("pets.study.compare.step_times._ROUNDS", (1, 1))

    def call(grid: Grid, pace: Pace | None = None, **options: Any) -> Tally:
        def given(context: Context, jobs: int) -> Pace:
            assert pace is not None, "measured anew"
            return pace

        monkeypatch.setattr(planning, "measured", given)
        return compare(grid, tmp_path / "runs", *sources(inputs), **{"progress": False, **options})

    return call


def plan_of(folder: Path) -> tuple[Any, Any]:
    record = json.loads((folder / "runs" / "plan.json").read_text())
    return record["seeds"], record["weights"]


def test_a_budget_s_plan_is_kept_until_another_is_asked_for(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, out = cheap_grid(), tmp_path / "runs"
    pace = dataclasses.replace(PACE, fits=0.0)
    tries = {"vanilla": 21.0, "random": 33.0}

    def seconds(seeds: int, weights: int) -> float:
        return 7 + seeds * sum(weights * one + 5 for one in tries.values())

    budget = seconds(3, 1) + 1
    assert run(grid, pace, budget=budget, progress=True) == Tally(done=6, failed=0, reused=0)
    told = capsys.readouterr().err
    assert "plan: 6 cells" in told
    assert f"within {said(budget)}: 3 of 4 seeds (1, 2, 3), 1 of 2 weights (1)" in told
    assert plan_of(tmp_path) == ([1, 2, 3], [1.0])
    table = (out / "results.jsonl").read_bytes()
    assert len(rows_of(out)) == 6
    # The same command: nothing is measured, nothing decided anew, nothing run.
    assert run(grid, None, budget=budget, progress=True) == Tally(done=6, failed=0, reused=6)
    assert "plan.json has it, 3 of 4 seeds (1, 2, 3), 1 of 2 weights (1)" in capsys.readouterr().err
    assert (out / "results.jsonl").read_bytes() == table
    # More time: a new plan, and what is done is used.
    assert run(grid, pace, budget=seconds(4, 1), progress=True) == Tally(done=8, failed=0, reused=6)
    told = capsys.readouterr().err
    assert f"is of another command (budget {budget} there, {seconds(4, 1)} here): a new plan" in told
    assert "6 of them done before" in told
    assert plan_of(tmp_path) == ([1, 2, 3, 4], [1.0])
    # Without a budget all is run, and told of.
    assert run(cheap_grid(seeds=(1,)), pace, progress=True).done == 2
    assert "2 tries each" in capsys.readouterr().err
    assert plan_of(tmp_path) == ([1, 2, 3, 4], [1.0])


def test_a_seed_more_takes_its_own_time_alone(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is done takes none, with the weights that it was done with."""
    pace = dataclasses.replace(PACE, fits=0.0)

    def seconds(seeds: int, weights: int) -> float:
        return 7 + seeds * sum(weights * one + 5 for one in (21.0, 33.0))

    three = cheap_grid(seeds=(1, 2, 3))
    assert run(three, pace, budget=seconds(3, 1), progress=True).done == 6
    assert "longer --budget" not in capsys.readouterr().err
    assert run(cheap_grid(), pace, budget=seconds(1, 1), progress=True) == Tally(8, 0, reused=6)
    assert plan_of(tmp_path) == ([1, 2, 3, 4], [1.0])
    record = json.loads((tmp_path / "runs" / "plan.json").read_text())
    assert record["seconds"] == seconds(1, 1)
    five = cheap_grid(seeds=(1, 2, 3, 4, 5, 6))
    capsys.readouterr()
    assert run(five, pace, budget=seconds(1, 1), progress=True) == Tally(10, 0, reused=8)
    assert "5 of 6 seeds (1, 2, 3, 4, 5), 1 of 2 weights (1); a longer --budget takes 6 too" in (
        capsys.readouterr().err
    )
    # Done with both weights, for which there is no time for one seed more with either.
    (tmp_path / "runs").rename(tmp_path / "before")
    assert run(cheap_grid()).done == 8
    assert run(five, pace, budget=seconds(1, 2) - 1, progress=True) == Tally(8, 0, reused=8)
    assert plan_of(tmp_path) == ([1, 2, 3, 4], [1.0, 2.0])


def test_too_little_a_budget_is_refused_before_anything_runs(run: Run, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"budget of 30 s is too little: 3 seeds"):
        run(small_grid(seeds=(1, 2, 3)), PACE, budget=30.0)
    assert not list(tmp_path.glob("runs/c*/*"))
    assert not (tmp_path / "runs" / "plan.json").exists()


def test_a_plan_that_was_edited_is_refused(run: Run, tmp_path: Path) -> None:
    grid, file = cheap_grid(seeds=(1, 2, 3), weights=(1.0,)), tmp_path / "runs" / "plan.json"
    run(grid, dataclasses.replace(PACE, fits=0.0), budget=1e5)
    record = json.loads(file.read_text())
    for wrong in ("[]", "{", json.dumps(record | {"seeds": 3})):
        file.write_text(wrong)
        with pytest.raises(BadInput, match=r"plan\.json .*: delete it; the same"):
            run(grid, PACE, budget=1e5)
    for seeds in ([1, 9], [], [1, 1], [[1]]):
        file.write_text(json.dumps(record | {"seeds": seeds}))
        with pytest.raises(BadInput, match=r"plan\.json holds no plan of this command .*delete it"):
            run(grid, PACE, budget=1e5)


def test_with_nothing_to_do_nothing_is_measured(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    grid = cheap_grid(seeds=(1,), weights=(1.0,))
    run(grid)  # nothing is told, so nothing is measured
    assert run(grid, progress=True) == Tally(done=2, failed=0, reused=2)
    assert "plan" not in capsys.readouterr().err


# Measured


def test_a_pace_is_measured_of_every_pet_arm_and_task(inputs: Path, tmp_path: Path) -> None:
    arms = ("brownian", "ou@lens", "posterior@adapted", "sde", "ou@random-map", "r-drop", "none")
    grid = small_grid(tasks=("sst2", "cola"), pets=("lora", "bitfit"), arms=arms, shots=(4, 0))
    context = Context(grid, tmp_path / "runs", *sources(inputs))
    before = {name: p.clone() for name, p in context.model.plm.state_dict().items()}
    names = {text: recipe.folder_name("m") for text, recipe in context.missing().items()}
    generator, threads = torch.get_rng_state(), torch.get_num_threads()
    pace = measured(context, jobs=2)
    assert set(pace.steps) == {(pet, arm.text) for pet in grid.pets for arm in grid.arms}
    assert all(seconds > 0 for seconds in pace.steps.values())
    assert {name: (task.dev, task.reported) for name, task in pace.tasks.items()} == {
        name: ({4: 8, 0: 4}, 16) for name in ("sst2", "cola")
    }
    assert min(pace.setup, pace.fits, pace.after, *(task.example for task in pace.tasks.values())) > 0
    after = context.model.plm.state_dict()
    assert all(torch.equal(after[name], p) for name, p in before.items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.get_num_threads() == threads
    assert not (tmp_path / "runs").exists()
    left = context.missing()  # still what is fitted, as it was
    assert {text: recipe.folder_name("m") for text, recipe in left.items()} == names
    assert left["brownian"].cost.options["fit"]


def test_a_slow_comparison_is_measured_on_fewer_pairs(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace_module, "_SECONDS", 0.0)
    seconds = iter(range(1, 100))
    monkeypatch.setattr(pace_module, "_timed", lambda call: (call(), float(next(seconds)))[1])
    grid = small_grid(pets=("lora", "bitfit"), arms=("ou@random-map", "none"))
    pace = measured(Context(grid, tmp_path / "runs", *sources(inputs)), 1)
    # One step each: three arms with the first PET, then vanilla with the second; the rest in proportion.
    assert pace.steps == {
        ("lora", "vanilla"): 1.0,
        ("lora", "ou@random-map"): 2.0,
        ("lora", "none"): 3.0,
        ("bitfit", "vanilla"): 4.0,
        ("bitfit", "ou@random-map"): 8.0,
        ("bitfit", "none"): 12.0,
    }


def test_an_arm_that_fails_stops_no_plan(
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its cells fail, and the others go on, as without a plan."""
    inner = TuningLoop.step

    def failing(self: TuningLoop, step: int) -> Any:
        if self.plugged is not None:
            raise RuntimeError("no such kernel")
        return inner(self, step)

    monkeypatch.setattr(TuningLoop, "step", failing)
    context = Context(cheap_grid(), tmp_path / "runs", *sources(inputs))
    assert measured(context, 1).steps["lora", "brownian@random-map"] > 0
    assert "lora with brownian@random-map cannot be measured: no such kernel" in caplog.text
    with context.prepared(next(context.grid.cells())) as loop:  # nothing of it was left on the model
        loop.step(0)


def test_fits_are_as_long_as_their_text(inputs: Path, tmp_path: Path) -> None:
    text = ("x" * 4000,)  # a thousand tokens or so

    def seconds(*arms: str, **fit: int) -> float:
        grid = small_grid(arms=arms, fit={**FIT, **fit})
        context = Context(grid, tmp_path / "runs", *sources(inputs)[:2], text)
        return fit_seconds(context.missing(), 1e-3)

    settings = FitSettings(**FIT)
    assert settings.batches == 1
    tokens = 4 * 16 + 8 * 16  # a batch of rows for all steps, held-out rows once
    assert seconds("brownian") == pytest.approx(1.1e-3 * tokens)
    assert seconds("brownian", "ou") == pytest.approx(1.2e-3 * tokens)  # read once for both
    assert seconds("ou@random-map", "none") == 0
    assert seconds("ou@lens") == pytest.approx(2e-3 * 1000)
    assert seconds("ou@lens", "brownian") == pytest.approx(2e-3 * 1000 + 1.1e-3 * tokens)
