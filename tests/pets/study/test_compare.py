"""Comparisons: the table says what its cells did, goes on after any interruption, mixes nothing."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from comparison_cases import FIT, SETTINGS, rows_of, save_glue, save_inputs, small_grid, sources
from filelock import FileLock
from safetensors import SafetensorError
from tiny import TEXTS, tiny_tokenizer

from bridges import BadInput, EndPoints, RunningCost
from pets import tasks
from pets.cli import main
from pets.study.cells import cell as cell_module
from pets.study.cells.arms import BRIDGE, CONTROL, REGULARIZER, Arm
from pets.study.cells.cell import describe, run_cell
from pets.study.cells.context import Context
from pets.study.cells.grid import Cell
from pets.study.cells.right import unpacked
from pets.study.cells.rows import Row
from pets.study.compare import run as run_module
from pets.study.compare.look import unused_examples
from pets.study.compare.run import Tally, compare
from pets.tasks import splits
from pets.tuning.models import load_plm
from pets.tuning.tune import tune

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_rounds")]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, two GLUE folders that differ in the reported labels, a text."""
    folder = save_inputs(tmp_path_factory.mktemp("inputs"))
    save_glue(folder / "flipped", flip=True)
    (folder / "text.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    return folder


Compare = Callable[..., Tally]


@pytest.fixture(scope="module")
def run(inputs: Path) -> Compare:
    def call(folder: Path, *, data: str = "glue", jobs: int = 1, **changes: Any) -> Tally:
        return compare(
            small_grid(**changes),
            folder,
            *sources(inputs, data=data),
            jobs=jobs,
            progress=False,
        )

    return call


@pytest.fixture(scope="module")
def whole(run: Compare, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small grid, run without an interruption; only read it."""
    folder = tmp_path_factory.mktemp("whole") / "runs"
    assert run(folder) == Tally(done=6, failed=0, reused=0)
    return folder


def table(folder: Path) -> bytes:
    return (folder / "results.jsonl").read_bytes()


# What the table says


def test_a_row_for_each_cell_with_all_its_tries(whole: Path) -> None:
    rows = rows_of(whole)
    arms = ["brownian", "brownian@random-map", "vanilla"]
    assert [(row["arm"], row["seed"]) for row in rows] == [(a, s) for a in arms for s in (42, 43)]
    for row in rows:
        assert (row["status"], row["error"], row["format"]) == ("done", None, 1)
        assert (row["task"], row["shots"], row["pet"], row["metric"]) == ("sst2", 4, "lora", "accuracy")
        assert row["score"] == row["reported"]["accuracy"]
        assert row["examples"] == {"train": 8, "dev": 8, "reported": 16}
        assert [t["restart"] for t in row["tries"]] == [0, 1]
        weights = [None, None] if row["arm"] == "vanilla" else [0.5, 5.0]
        assert [t["strength"] for t in row["tries"]] == weights
        assert [t["weight"] for t in row["tries"]] == weights
        assert [[entry["step"] for entry in t["curves"]] for t in row["tries"]] == [[0, 2, 4]] * 2
        assert (row["fit"] is not None) == (row["arm"] == "brownian")
        assert "seconds" not in json.dumps(row)
    assert len({row["cell"] for row in rows}) == len(rows)
    for row in map(Row.from_dict, rows_of(whole)):
        assert row.right_on is not None
        assert sum(row.right_on) / row.examples["reported"] == row.score


def test_the_chosen_try_is_the_best_on_dev_and_its_score_is_that_of_the_run(
    whole: Path, inputs: Path, tmp_path: Path
) -> None:
    """Recomputed with `tune` alone, the cost taken from the folder."""
    plm, tokenizer = load_plm(str(inputs / "model"))
    data = tasks.get("sst2").load(inputs / "glue")
    (folder,) = (whole / "costs").glob("brownian-*")
    cost = RunningCost.from_pretrained(folder)
    (row,) = [r for r in rows_of(whole) if (r["arm"], r["seed"]) == ("brownian", 43)]
    best = max(row["tries"], key=lambda t: (t["dev"]["accuracy"], -t["dev_loss"], -t["restart"]))
    assert row["restart"] == best["restart"]
    for entry in row["tries"]:
        settings = dataclasses.replace(
            SETTINGS, shots=4, seed=43, restart=entry["restart"], weight=entry["strength"]
        )
        name = tmp_path / str(entry["restart"])
        result = tune(plm, tokenizer, data, settings, name, cost=cost, progress=False)
        assert result["curves"] == entry["curves"]
        if entry is best:
            assert result["reported"] == row["reported"]
            assert result["best_step"] == row["best_step"]


def test_restarts_are_the_same_for_every_arm(run: Compare, tmp_path: Path) -> None:
    """A cost without effect gives vanilla's row, try by try."""
    run(tmp_path / "runs", arms=("none",), seeds=(42,))
    nothing, vanilla = rows_of(tmp_path / "runs")
    strip = ("strength", "weight", "running_cost", "curves")
    for one, two in zip(nothing["tries"], vanilla["tries"], strict=True):
        assert {k: v for k, v in one.items() if k not in strip} == {
            k: v for k, v in two.items() if k not in strip
        }
    assert nothing["score"] == vanilla["score"]


def test_the_selected_pet_is_kept_and_nothing_else_of_the_tries(whole: Path) -> None:
    for row in rows_of(whole):
        kept = sorted(p.name for p in (whole / "cells" / row["cell"]).iterdir())
        assert kept == ["pet", "row.json"]


def test_step_times_and_a_look_into_the_model_are_beside_the_table(whole: Path) -> None:
    times = json.loads((whole / "step-times.json").read_text())
    assert set(times["step_times"]["lora"]) == {"vanilla", "brownian", "brownian@random-map"}
    assert times["step_times"]["lora"]["vanilla"]["ratio"] == 1
    assert times["environment"]["device"] == "cpu"
    memory = {arm: entry["memory"] for arm, entry in times["step_times"]["lora"].items()}
    assert 0 < memory["vanilla"] < memory["brownian"] == memory["brownian@random-map"]
    records = json.loads((whole / "analysis.json").read_text())
    assert [(r["pet"], r["arm"]) for r in records] == [
        (None, "frozen"),
        ("lora", "vanilla"),
        ("lora", "brownian"),
    ]
    assert {(r["seed"], r["reader"], r["shots"]) for r in records} == {(42, "brownian", 4)}


def test_what_is_looked_at_was_not_tuned_on(inputs: Path, tmp_path: Path) -> None:
    context = Context(small_grid(arms=()), tmp_path, str(inputs / "model"), inputs / "glue")
    data = context.examples["sst2"]
    used = {e.text for part in splits.few_shot(data.train, data.task, 4, 42) for e in part}
    found = unused_examples(context, "sst2", 4, 42)
    assert found
    assert not used & {e.text for e in found}
    assert {e.text for e in found} <= {e.text for e in data.train}
    held_out = splits.hold_out(data.train, data.task, 42)[1]
    assert {e.text for e in unused_examples(context, "sst2", None, 42)} == {e.text for e in held_out}


# It goes on


def test_given_again_it_does_nothing(whole: Path, run: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    before = table(whole)
    monkeypatch.setattr(run_module, "run_cell", None)
    assert run(whole) == Tally(done=6, failed=0, reused=6)
    assert table(whole) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from comparison_cases import small_grid, sources
from pets.study.cells import cell
from pets.study.compare import run
from bridges.fitting import loop as fit_loop
from pets.tuning import loop as tuning_loop

def dies(owner, name, after):
    inner, calls = getattr(owner, name), []
    def call(*args, **kwargs):
        calls.append(None)
        if len(calls) > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*args, **kwargs)
    setattr(owner, name, call)

where = {where!r}
if where:
    owners = {{"fit": fit_loop.FitLoop, "tune": tuning_loop.TuningLoop, "run": run, "cell": cell}}
    dies(owners[where[0]], where[1], where[2])
run.compare(small_grid(**{grid!r}), Path({folder!r}), *sources(Path({inputs!r})), progress=False)
"""
TWO = {"seeds": (42,), "arms": ("brownian",)}  # cells
MOMENTS = [
    ("fit", "step", 3),  # after the fit's first state was kept
    ("tune", "step", 3),  # in the first try
    ("tune", "step", 15),  # in the second cell
    ("cell", "score", 1),  # selected, not scored
    ("run", "write_row", 1),  # scored, not kept
    ("run", "tidy", 1),  # kept, its tries still there
    ("run", "write_table", 1),  # between two cells
]


@pytest.fixture(scope="module")
def two(run: Compare, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cells, run without an interruption; only read it."""
    folder = tmp_path_factory.mktemp("two") / "runs"
    assert run(folder, **TWO) == Tally(done=2, failed=0, reused=0)
    return folder


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda m: f"{m[0]}.{m[1]}")
def test_killed_and_given_again_the_table_is_the_same_to_the_byte(
    two: Path, inputs: Path, run: Compare, tmp_path: Path, moment: tuple[str, str, int]
) -> None:
    folder = tmp_path / "runs"
    script = KILLED.format(where=moment, grid=TWO, folder=str(folder), inputs=str(inputs))
    assert processes.run(["-c", script]).returncode == -signal.SIGKILL
    run(folder, **TWO)
    assert table(folder) == table(two)
    kept, wanted = (sorted(p.name for p in (runs / "costs").iterdir()) for runs in (folder, two))
    assert kept == wanted


def test_processes_give_the_same_table(whole: Path, run: Compare, tmp_path: Path) -> None:
    run(tmp_path / "runs", jobs=2)
    # Up to rounding: each process has half of the threads.
    for one, two in zip(rows_of(tmp_path / "runs"), rows_of(whole), strict=True):
        assert one["cell"] == two["cell"]
        assert one["score"] == two["score"]
        for a, b in zip(one["tries"], two["tries"], strict=True):
            assert a["dev_loss"] == pytest.approx(b["dev_loss"], rel=1e-4)


def test_another_machine_works_in_a_folder_of_its_own(whole: Path, inputs: Path, tmp_path: Path) -> None:
    """As on a Ray cluster, where the comparison's folder and costs need not be on every node."""
    context = Context(small_grid(), whole, *sources(inputs))
    context.fit(progress=False)
    context.folder = tmp_path / "nowhere"
    context.model.name = "gone"
    with ProcessPoolExecutor(1, mp_context=processes.server()) as elsewhere:
        row = elsewhere.submit(
            run_cell, context, Cell("sst2", 4, "lora", Arm.parse("brownian"), 42)
        ).result()
    assert row.cell in {row["cell"] for row in rows_of(whole)}
    (same,) = [r for r in rows_of(whole) if r["cell"] == row.cell]
    assert row.score == same["score"]
    assert row.tries[0].dev_loss == pytest.approx(same["tries"][0]["dev_loss"], rel=1e-4)
    assert not list(tmp_path.iterdir())


def test_a_fitted_cost_is_found_whatever_the_number_of_threads(
    whole: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """End points come from a decomposition whose last digits may change with the threads."""
    inner = EndPoints.from_embeddings

    def other_digits(embeddings: torch.Tensor, dim: int, **options: str) -> EndPoints:
        return EndPoints(inner(embeddings, dim, **options).vectors * (1 + 1e-6))

    monkeypatch.setattr(EndPoints, "from_embeddings", other_digits)
    monkeypatch.setattr(RunningCost, "fit", None)  # none is needed
    context = Context(small_grid(), whole, *sources(inputs))
    context.fit(progress=False)
    assert {describe(context, c).cell for c in context.grid.cells()} == {
        row["cell"] for row in rows_of(whole)
    }


# Nothing is mixed


def test_the_reported_split_has_no_part_before_the_score(
    whole: Path, run: Compare, tmp_path: Path
) -> None:
    run(tmp_path / "runs", data="flipped")
    by_score = ("score", "reported", "right", "cell", "hashes")
    for one, two in zip(rows_of(whole), rows_of(tmp_path / "runs"), strict=True):
        assert {k: v for k, v in one.items() if k not in by_score} == {
            k: v for k, v in two.items() if k not in by_score
        }
        assert one["reported"]["accuracy"] == pytest.approx(1 - two["reported"]["accuracy"])
        was, flipped = (unpacked(row["right"], 16) for row in (one, two))
        assert was == tuple(not hit for hit in reversed(flipped))  # the other file is in reverse
        assert one["cell"] != two["cell"]


def test_a_larger_grid_has_the_rows_of_the_smaller_one(
    whole: Path, run: Compare, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    run(folder, seeds=(43,), arms=("brownian@random-map", "brownian"))
    found = run(folder, tasks=("sst2", "cola"), arms=("brownian", "brownian@random-map", "none"))
    assert (found.done, found.reused) == (16, 3)
    rows = rows_of(folder)
    assert [r for r in rows if r["task"] == "sst2" and r["arm"] != "none"] == rows_of(whole)
    run(folder, seeds=(42,), arms=())  # what was asked for last comes last
    assert [row["arm"] for row in rows_of(folder)][-1] == "vanilla"
    assert sorted(map(str, rows_of(folder))) == sorted(map(str, rows))
    assert {r["metric"] for r in rows if r["task"] == "cola"} == {"matthews"}


@pytest.mark.parametrize("change", ["code", "version", "steps", "weights", "fit"])
def test_what_is_changed_is_a_new_cell_beside_the_old(
    run: Compare,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, small = tmp_path / "runs", {"seeds": (42,), "arms": ("brownian",)}
    caplog.set_level("INFO")
    run(folder, **small)
    run(folder, seeds=(42, 43), arms=())
    assert "will leave" not in caplog.text, "they are compared with each other"
    before = rows_of(folder)
    if change == "code":
        monkeypatch.setattr(cell_module, "source_digest", lambda *folders: "other")
    elif change == "version":
        monkeypatch.setattr(cell_module, "versions", lambda: {"torch": "9.9"})
    changes: dict[str, Any] = {
        "steps": {"settings": dataclasses.replace(SETTINGS, max_steps=2)},
        "weights": {"weights": (0.5, 6.0)},
        "fit": {"fit": {**FIT, "max_steps": 2}},
    }.get(change, {})
    found = run(folder, **small, **changes)
    told = {
        "code": "3 rows in .* with code '.*' there, 'other' here",
        "version": "3 rows in .* with .*torch '.*' there, '9.9' here.*",
        "steps": "3 rows in .* with max_steps 4 there, 2 here",
    }.get(change, "1 row in .* with other strengths, text or data")
    assert re.search(f"{told}: the report will leave (it|them) out; give another --out", caplog.text)
    same = 1 if change in ("weights", "fit") else 0  # vanilla has no weight and no cost
    assert found.reused == same
    after = rows_of(folder)
    assert len(after) == 5 - same
    assert all(row in after for row in before)


# Failures


def test_a_cell_that_fails_is_a_row_and_is_tried_again(
    whole: Path, run: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = cell_module.tune

    def broken(*args: Any, **kwargs: Any) -> Any:
        if args[3].seed == 43 and kwargs["cost"] is not None:
            raise RuntimeError("out of\nmemory")
        return inner(*args, **kwargs)

    monkeypatch.setattr(cell_module, "tune", broken)
    assert run(tmp_path / "runs") == Tally(done=4, failed=2, reused=0)
    failed = [row for row in rows_of(tmp_path / "runs") if row["status"] == "failed"]
    assert {row["seed"] for row in failed} == {43}
    assert all(row["error"] == "RuntimeError: out of memory" for row in failed)
    assert all(row["score"] is None for row in failed)
    monkeypatch.undo()
    assert run(tmp_path / "runs") == Tally(done=6, failed=0, reused=4)
    assert table(tmp_path / "runs") == table(whole)


FULL = "I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), OSError(errno.EROFS, "locked"), SafetensorError(FULL)]
)
def test_a_full_or_read_only_disk_ends_it_and_earlier_cells_are_intact(
    whole: Path, run: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    inner, calls = cell_module.tune, []

    def full(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) > 4:
            raise error
        return inner(*args, **kwargs)

    monkeypatch.setattr(cell_module, "tune", full)
    with pytest.raises(BadInput, match=r"could not be written: .* is intact"):
        run(tmp_path / "runs")
    assert len(calls) == 5  # it stopped at once
    assert [row["status"] for row in rows_of(tmp_path / "runs")] == ["done", "done"]
    monkeypatch.undo()
    run(tmp_path / "runs")
    assert table(tmp_path / "runs") == table(whole)


def test_rows_that_the_table_alone_has_are_not_lost(
    whole: Path, inputs: Path, run: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where cells/ was deleted to save space, or results.jsonl was all that was copied."""
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(whole / "results.jsonl", folder)
    shutil.copytree(whole / "costs", folder / "costs")
    with pytest.raises(BadInput, match="no text to fit"):
        compare(small_grid(arms=("ou",)), folder, str(inputs / "model"), inputs / "glue")
    assert table(folder) == table(whole)
    with monkeypatch.context() as patch:
        patch.setattr(Context, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(folder)
    assert rows_of(folder) == rows_of(whole)
    assert run(folder, arms=(), seeds=(44,)) == Tally(done=1, failed=0, reused=0)
    *before, added = rows_of(folder)
    assert sorted(map(str, before)) == sorted(map(str, rows_of(whole)))
    assert added["seed"] == 44
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "run_cell", None)
        assert run(folder) == Tally(done=6, failed=0, reused=6)


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


# Bad input, by the command


@pytest.fixture
def command(
    inputs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    def call(*args: object) -> tuple[int, str]:
        base = ["compare", "--model", inputs / "model", "--data", inputs / "glue", "--preset", "quick"]
        base += ["--text", inputs / "text.txt", "--shots", "4", "--steps", "2", "--fit-steps", "2"]
        base += ["--fit-length", "16", "--max-length", "20", "--seeds", "42", "--out", tmp_path / "runs"]
        try:
            main([str(a) for a in (*base, *args)])
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def test_the_command_runs_a_grid(command: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, said = command("--bridges", "ou:theta=2", "regression", "--regularizers", "label-smoothing")
    assert code == 0
    assert "4 cells done, 0 of them before; 0 failed" in said
    rows = {row["arm"]: row for row in rows_of(tmp_path / "runs")}
    assert set(rows) == {"vanilla", "ou:theta=2", "regression", "label-smoothing"}
    assert rows["ou:theta=2"]["bridge"]["parameters"]["theta"] == 2
    assert rows["label-smoothing"]["regularizer"] == "label-smoothing"
    assert rows["label-smoothing"]["settings"]["max_steps"] == 2


def test_a_pet_with_options_is_a_pet_of_its_own(
    command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, said = command("--pets", "lora", "lora:r=2,target_modules=[query]", "--bridges", "regression")
    assert code == 0, said
    rows = {(row["pet"], row["arm"]): row for row in rows_of(tmp_path / "runs")}
    assert len(rows) == 4
    small = rows["lora:r=2,target_modules=[query]", "regression"]
    assert small["settings"]["pet_options"] == {"r": 2, "target_modules": ["query"]}
    plain = rows["lora", "regression"]
    assert plain["settings"]["pet_options"] == {}
    assert small["trainable_parameters"] * 8 == plain["trainable_parameters"]  # r 2 of 8, one of two


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--tasks", "sst3"], ["sst3", "sst2"]),
        (["--pets", "lora:rank=2"], ["lora:rank=2, vanilla: ", "'rank'"]),
        (["--pets", "lorra"], ["lorra", "lora"]),
        (["--bridges", "brownain"], ["brownain", "brownian"]),
        (["--bridges", "brownian@shuffled"], ["brownian@shuffled", "shuffled-ends"]),
        (["--bridges", "ou:theta=-1"], ["theta"]),
        (["--regularizers", "dropuot"], ["dropuot", "dropout"]),
        (["--seeds", "42", "42"], ["seeds", "42", "twice"]),
        (["--weights", "0"], ["weight 0.0"]),
        (["--weights", "nan"], ["weight nan"]),
        (["--shots", "30"], ["30 shots"]),
        (["--shots", "-1"], ["shots -1"]),
        (["--jobs", "0"], ["--jobs 0"]),
        (["--data", "nowhere"], ["nowhere"]),
        (["--text", "nowhere.txt"], ["nowhere.txt"]),
        (["--model", "nowhere"], ["nowhere"]),
        (["--steps", "0"], ["max_steps=0"]),
        (
            ["--regularizers", "weight-decay", "--pets", "lora", "bitfit"],
            ["bitfit, weight-decay: ", "vanilla under another name"],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0][:2] == "--" else "",
)
def test_what_cannot_be_is_refused_before_any_cell_runs(
    command: Callable[..., tuple[int, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    parts: list[str],
) -> None:
    monkeypatch.setattr(cell_module, "tune", None)
    code, said = command(*args)
    assert code == 2
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert all(part in line for part in parts), line
    assert not list((tmp_path / "runs").glob("c*/*"))


def test_costs_need_text(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no text to fit brownian on: .*`--bridges vanilla` is none"):
        compare(small_grid(), tmp_path / "runs", str(inputs / "model"), inputs / "glue")


def test_another_folder_format_or_process_is_refused(whole: Path, run: Compare, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    with pytest.raises(BadInput, match="holds no comparison"):
        run(folder)
    assert [p.name for p in folder.iterdir()] == ["thesis.tex"]
    (folder / "thesis.tex").unlink()
    (folder / ".results.jsonl.0123abcd.new" / "new").mkdir(parents=True)  # as a kill leaves it
    with FileLock(folder / ".lock"), pytest.raises(BadInput, match="another comparison is running"):
        run(folder)
    run(folder, seeds=(42,), arms=())
    assert not list(folder.rglob(".*"))
    (row,) = (folder / "cells").glob("*/row.json")
    row.write_text(row.read_text().replace('"format": 1', '"format": 7'))
    with pytest.raises(BadInput, match=r"row\.json has format 7, .* reads format 1: use the version"):
        run(folder, seeds=(42,), arms=())
    row.write_text("{")
    with pytest.raises(BadInput, match=r"row\.json is broken .*: delete it; the same"):
        run(folder, seeds=(42,), arms=())
    row.unlink()
    for name, what in (("step-times", "holds no step times"), ("analysis", "is no list of analyses")):
        (folder / f"{name}.json").write_text("{}")
        with pytest.raises(BadInput, match=rf"{name}\.json {what}: delete it; the same"):
            run(folder, seeds=(42,), arms=())
        assert not row.exists()  # no cell ran
        (folder / f"{name}.json").unlink()
    assert run(folder, seeds=(42,), arms=()) == Tally(done=1, failed=0, reused=0)


def test_arms_know_what_they_are() -> None:
    controls = ("regression", "kinetic", "none", "ou@random-map", "ou@shuffled-ends")
    assert all(Arm.parse(text).kind == CONTROL for text in controls)
    assert not any(Arm.parse(text).kind == CONTROL for text in ("vanilla", "ou", "sde", "r-drop"))
    about = ("posterior", "posterior:process=ou:theta=2", "axis:rest=0.1")
    assert all(Arm.parse(text).kind == BRIDGE and Arm.parse(text).fits for text in about)
    assert Arm.parse("posterior@shuffled-ends").kind == CONTROL
    assert [Arm.parse(t).fits for t in ("vanilla", "ou", "ou@random-map", "none")] == [
        False,
        True,
        False,
        False,
    ]
    whole = Arm.parse("ou:theta=2@lens@random-map")
    assert (whole.bridge, whole.reader, whole.control) == ("ou:theta=2", "lens", "random-map")
    assert (whole.kind, whole.fits, whole.text) == (CONTROL, False, "ou:theta=2@lens@random-map")
    assert (Arm.parse("ou@lens").reader, Arm.parse("ou@lens").fits) == ("lens", True)
    assert Arm.parse("ou@mlp") == Arm.parse("ou")
    assert Arm.parse("ou@mlp@random-map") == Arm.parse("ou@random-map")
    assert Arm.parse("vanilla").strengths((1.0, 2.0)) == [None, None]
    assert len(Arm.parse("dropout").strengths((1.0, 2.0, 3.0))) == 3
    early = Arm.parse("early-exit:first=0.3")
    assert (early.kind, early.text, early.regularizer) == (REGULARIZER, *["early-exit:first=0.3"] * 2)
    assert early.strengths((1.0, 2.0)) == Arm.parse("early-exit").strengths((1.0, 2.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "ou@lense",
            "arm 'ou@lense': 'lense' is no reader or control, or not in its place; expected a ",
        ),
        (
            "ou@random-map@lens",
            "'lens' is no reader or control, or not in its place; .* then @mlp or @lens",
        ),
        ("ou@lens@mlp", "'mlp' is no reader or control, or not in its place"),
        ("ou@random-map@shuffled-ends", "'shuffled-ends' is no reader or control, or not in its place"),
        ("ou@", "'' is no reader or control"),
        ("vanilla@lens", "vanilla@lens"),
        ("r-drop@lens", "r-drop@lens"),
        ("r-drop:weight=1", "arm 'r-drop:weight=1': its weight is selected among several"),
        ("early-exit:first=2", r"first=2.0: expected the share of the depth .* in \[0, 1\)"),
        ("jump:first=0.3", "regularizer 'jump' has no parameter 'first'"),
    ],
)
def test_arms_that_are_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Arm.parse(text)


def test_an_arm_that_is_given_twice_in_other_words_is_refused() -> None:
    with pytest.raises(BadInput, match="arms: 'ou' is given twice"):
        small_grid(arms=("ou", "ou@mlp"))


def test_a_part_of_a_grid_is_balanced() -> None:
    """Seed by seed: what an interrupted grid has is the whole grid for fewer seeds."""
    cells = list(small_grid(tasks=("sst2", "cola"), pets=("lora", "bitfit")).cells())
    assert [c.seed for c in cells] == sorted(c.seed for c in cells)
    assert cells[0] == Cell("sst2", 4, "lora", Arm.parse("vanilla"), 42)
    assert len(set(cells)) == len(cells) == 2 * 2 * 3 * 2


def test_the_tokenizer_of_the_tests_knows_the_words() -> None:
    assert tiny_tokenizer().unk_token_id not in tiny_tokenizer()("no yes negative positive")["input_ids"]
