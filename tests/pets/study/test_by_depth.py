"""Comparisons by depth: rows with every layer's score, or as they were; interrupted, the same bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
import pytest
from comparison_cases import rows_of, save_glue, save_inputs, small_grid, sources
from own_tasks import choice_jsonl
from tiny import tiny_model, tiny_tokenizer

from bridges import BadInput
from pets import tasks
from pets.anytime.by_layer import scores_by_layer
from pets.study.cells import depth as depth_module
from pets.study.cells.cell import cell_folder, describe
from pets.study.cells.context import Context
from pets.study.cells.depth import area, at_share, labelled
from pets.study.cells.rows import Row, parse_row
from pets.study.compare.plan import Pace, TaskPace
from pets.study.compare.run import Tally, compare
from pets.tasks import splits
from pets.tuning.evaluation import answering, limit_of
from pets.tuning.preparing import ask

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_rounds")]

GRID: dict[str, Any] = {
    "arms": ("posterior@lens", "brownian"),
    "seeds": (42,),
    "weights": (0.5,),
    "by_depth": True,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_inputs(tmp_path_factory.mktemp("inputs"))
    save_glue(folder / "flipped", flip=True)
    return folder


Run = Callable[..., Tally]


@pytest.fixture(scope="module")
def run(inputs: Path) -> Run:
    def call(folder: Path, *, data: str = "glue", jobs: int = 1, **changes: Any) -> Tally:
        grid = small_grid(**{**GRID, **changes})
        return compare(grid, folder, *sources(inputs, data=data), jobs=jobs, progress=False)

    return call


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without an interruption; only read it."""
    folder = tmp_path_factory.mktemp("whole") / "runs"
    assert run(folder) == Tally(done=3, failed=0, reused=0)
    return folder


def context_of(inputs: Path, folder: Path, **changes: Any) -> Context:
    return Context(small_grid(**{**GRID, **changes}), folder, *sources(inputs))


def test_rows_have_the_scores_of_the_pet_that_was_kept(whole: Path, inputs: Path) -> None:
    context = context_of(inputs, whole)
    context.fit(progress=False)
    data, model = context.examples["sst2"], context.model
    train, dev = splits.few_shot(data.train, data.task, 4, 42)
    asking = ask(model.plm, model.encoder, data.task, context.grid.settings)
    for record in rows_of(whole):
        row, depth = Row.from_dict(record), record["depth"]
        assert (depth["exit"] is not None) == (row.arm == "posterior@lens")
        assert depth["head"][-1] == row.score
        with answering(model.plm, asking, cell_folder(whole, row) / "pet") as classifier:
            limit = limit_of(classifier, asking, 20)
            known, reported = (asking.encode(p, limit)[0] for p in ([*train, *dev], data.reported))
            cost = context.costs.get(row.arm)
            assert scores_by_layer(classifier, known, reported, data.task, cost) == depth


def test_without_it_a_row_and_its_cell_are_as_they_were(whole: Path, inputs: Path) -> None:
    """The hash is of what it was of before there was any depth."""
    off, on = (context_of(inputs, whole, by_depth=by_depth) for by_depth in (False, True))
    for context in (off, on):
        context.fit(progress=False)
    for one, two in zip(off.grid.cells(), on.grid.cells(), strict=True):
        row = describe(off, one)
        assert "depth" not in row.to_dict()
        told = {**row.to_dict(), "cell": "", "adapt": off.grid.tries(one)[0].adapt}
        told["strengths"] = 1 if one.arm.text == "vanilla" else [0.5]
        text = json.dumps(told, sort_keys=True)
        assert row.cell == hashlib.sha256(text.encode()).hexdigest()[:16]
        assert row.cell != describe(on, two).cell
    assert {describe(on, cell).cell for cell in on.grid.cells()} == {r["cell"] for r in rows_of(whole)}


def test_the_reported_labels_have_no_part_in_what_reads(whole: Path, run: Run, tmp_path: Path) -> None:
    run(tmp_path / "runs", data="flipped")
    for one, two in zip(rows_of(whole), rows_of(tmp_path / "runs"), strict=True):
        for reader, scores in one["depth"].items():
            theirs = two["depth"][reader]
            assert scores == pytest.approx(theirs and [1 - score for score in theirs])


KILLED = """
import os, signal
from pathlib import Path
from comparison_cases import small_grid, sources
from pets.anytime import by_layer
from pets.study.compare import run

inner, calls = by_layer.metrics.score, []
def dies(*args):
    calls.append(None)
    if len(calls) > {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(*args)
by_layer._scored.__globals__["metrics"] = type("", (), {{"score": staticmethod(dies)}})
run.compare(small_grid(**{grid!r}), Path({folder!r}), *sources(Path({inputs!r})), progress=False)
"""


def test_killed_while_a_layer_is_scored_and_given_again_the_table_is_the_same_to_the_byte(
    whole: Path, inputs: Path, run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    script = KILLED.format(after=8, grid=GRID, folder=str(folder), inputs=str(inputs))
    assert processes.run(["-c", script]).returncode == -signal.SIGKILL
    assert run(folder).failed == 0
    assert (folder / "results.jsonl").read_bytes() == (whole / "results.jsonl").read_bytes()


def test_processes_give_the_same_table(whole: Path, run: Run, tmp_path: Path) -> None:
    run(tmp_path / "runs", jobs=2)
    for one, two in zip(rows_of(tmp_path / "runs"), rows_of(whole), strict=True):
        assert (one["cell"], one["score"]) == (two["cell"], two["score"])
        assert one["depth"].keys() == two["depth"].keys()


def test_shares_of_the_layers() -> None:
    scores = [0.0, *(k / 30 for k in range(1, 31))]
    assert [round(30 * at_share(scores, share)) for share in (1 / 2, 2 / 3, 3 / 4)] == [15, 20, 22]
    assert area(scores) == pytest.approx(31 / 60)
    assert area([0.9, 0.2, 0.4]) == pytest.approx(0.3)  # the embeddings are no layer


def test_readers_learn_from_the_split_or_as_large_a_share_of_each_class(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tasks.get("sst2").load(inputs / "glue")
    train, dev = splits.hold_out(data.train, data.task, 42)
    assert labelled(data, 0, 42) == [*train, *dev]
    monkeypatch.setattr(depth_module, "MOST", 20)
    few = labelled(data, 0, 42)
    assert [sum(e.label == k for e in few) for k in (0, 1)] == [10, 10]
    assert labelled(data, 0, 42) == few != labelled(data, 0, 43)
    assert not {e.text for e in few} & {e.text for e in data.reported}


def test_a_plan_counts_the_second_reading() -> None:
    task = TaskPace(step=1.0, example=1.0, dev={4: 8}, reported=100)
    grids = [small_grid(by_depth=by_depth) for by_depth in (False, True)]
    arms = [arm.text for arm in grids[0].arms]
    pace = Pace(0.0, {("lora", arm): 1.0 for arm in arms}, {"sst2": task})
    plain, deep = (pace.cell(grid, next(grid.cells())) for grid in grids)
    assert deep - plain == 100 + 16


@pytest.mark.parametrize(
    ("depth", "wrong"),
    [
        ({"probe": [0.5, "high"], "exit": None, "head": None}, r"depth.probe\[1\] is 'high'"),
        ({"probe": None, "exit": None, "head": None}, "depth.probe is None"),
        ({"probe": [0.5, 0.6], "exit": None}, "depth.head is missing"),
        ({"probe": [0.5, 0.6], "exit": [0.5], "head": None}, "depth has 1 and 2 states"),
        ({"probe": [0.5], "exit": None, "head": None}, "depth has 1 states"),
        ([0.5], "depth is"),
    ],
)
def test_a_row_that_was_edited_is_refused(whole: Path, depth: Any, wrong: str) -> None:
    row = rows_of(whole)[0]
    with pytest.raises(BadInput, match=wrong):
        parse_row(json.dumps({**row, "depth": depth}), "a row")
    old = {name: value for name, value in row.items() if name != "depth"}
    read = parse_row(json.dumps(old), "a row")
    assert read.depth is None
    assert "depth" not in dataclasses.replace(read, source=None).to_dict()


def test_a_task_without_classes_is_refused_before_any_cell(inputs: Path, tmp_path: Path) -> None:
    task = tasks.parse(str(choice_jsonl(tmp_path))).with_template("{premise} it was {mask}")
    context = context_of(inputs, tmp_path / "runs", tasks=(task,), arms=())
    with pytest.raises(BadInput, match=r"--by-depth: .* of kind 'choice' has none: leave out"):
        context.check()


def test_a_model_that_cannot_be_read_is_refused_before_any_cell(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*args: Any, **options: Any) -> Any:
        raise BadInput("its states are nowhere")

    monkeypatch.setattr("pets.anytime.by_layer.regularize", refuses)
    with pytest.raises(
        BadInput, match="lora, vanilla: --by-depth: its states are nowhere; or leave out --by-depth"
    ):
        context_of(inputs, tmp_path / "runs", arms=()).check()
    context_of(inputs, tmp_path / "runs", arms=(), by_depth=False).check()


def test_the_command_takes_the_flag(inputs: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from pets.cli import cli

    folder = tmp_path / "causal"
    tiny_model("llama", initializer_range=0.3).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    given = ["compare", "--model", folder, "--data", inputs / "glue", "--preset", "quick", "--by-depth"]
    given += ["--bridges", "vanilla", "--shots", 4, "--steps", 2, "--max-length", 24, "--seeds", 42]
    done = CliRunner().invoke(cli, [*map(str, given), "--out", str(tmp_path / "runs")])
    assert done.exit_code == 0, done.output
    (row,) = rows_of(tmp_path / "runs")
    assert row["depth"]["head"][-1] == row["score"]
