"""Comparisons of any task on any family of model: fits, tuning, scores and looks, one cell each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comparison_cases import FIT, SETTINGS, rows_of
from own_tasks import choice_jsonl, generation_jsonl, task_toml, text_csv
from tiny import TEXTS, tiny_model, tiny_tokenizer

from bridges import BadInput
from pets import tasks
from pets.cli import main
from pets.study.cells.cell import describe
from pets.study.cells.context import Context
from pets.study.cells.grid import Grid
from pets.study.compare.run import Tally, compare
from pets.study.report.runs import read_runs
from pets.tasks.base import CHOICE, CLASSES, GENERATION
from pets.tasks.families import CAUSAL, CLASSIFIER, ENCODER_DECODER, MASKED
from pets.tuning.models import HowLoaded

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_rounds")]

TYPES = {MASKED: "bert", CAUSAL: "llama", ENCODER_DECODER: "t5", CLASSIFIER: "bert"}
WRITTEN = {
    CLASSES: (text_csv, "{text} it was {mask}"),
    CHOICE: (choice_jsonl, "{premise} it was {mask}"),
    GENERATION: (generation_jsonl, "{question} is of {mask}"),
}
CASES = [(family, CLASSES) for family in TYPES]
CASES += [(MASKED, CHOICE), (CAUSAL, CHOICE), (CAUSAL, GENERATION), (ENCODER_DECODER, GENERATION)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a tiny model of each family."""
    found = {}
    for family, kind in TYPES.items():
        folder = tmp_path_factory.mktemp("models") / family
        head = {"head": "ForSequenceClassification", "num_labels": 2} if family == CLASSIFIER else {}
        tiny_model(kind, initializer_range=0.3, **head).save_pretrained(folder)
        tokenizer = tiny_tokenizer()
        tokenizer.eos_token = "[SEP]"
        tokenizer.save_pretrained(folder)
        found[family] = folder
    return found


def grid_of(folder: Path, kind: str = CLASSES, **changes: Any) -> Grid:
    """A task of a user's own, in one cell of each arm."""
    make, template = WRITTEN[kind]
    task = tasks.parse(str(make(folder))).with_template(template)
    axes: dict[str, Any] = {
        "tasks": (task.with_words(["bad", "good"]) if kind == CLASSES else task,),
        "shots": (6,),
        "pets": ("lora",),
        "arms": ("brownian", "ou@lens", "label-smoothing"),
        "seeds": (42,),
        "weights": (1.0,),
        "settings": dataclasses.replace(SETTINGS, max_steps=2),
        "fit": FIT,
    }
    return Grid(**{**axes, **changes})


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_every_family_and_kind_is_compared(
    models: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, family: str, kind: str
) -> None:
    settings = dataclasses.replace(SETTINGS, max_steps=2, max_length=48)  # with room for what is written
    grid, out = grid_of(tmp_path, kind, settings=settings), tmp_path / "runs"
    found = compare(grid, out, str(models[family]), None, tuple(TEXTS), progress=False)
    rows = rows_of(out)
    assert found == Tally(done=4, failed=0, reused=0), [row["error"] for row in rows]
    metric = "exact_match" if kind == GENERATION else "accuracy"
    assert {(row["task"], row["metric"]) for row in rows} == {(grid.tasks[0].name, metric)}
    by_arm = {row["arm"]: row for row in rows}
    for arm in ("brownian", "ou@lens"):
        assert by_arm[arm]["fit"] is not None
        assert by_arm[arm]["tries"][0]["running_cost"] > 0
    looks = sum("what is inside" in record.getMessage() for record in caplog.records)
    if kind == CLASSES:
        assert by_arm["vanilla"]["examples"]["train"] == 12
        looked = json.loads((out / "analysis.json").read_text())
        assert [record["arm"] for record in looked] == ["frozen", "vanilla", "brownian", "ou@lens"]
        assert not looks
    else:
        assert by_arm["vanilla"]["examples"]["train"] == 6
        assert not (out / "analysis.json").exists()
        assert looks == 1  # said once


def test_an_adapted_arm_is_reported_beside_the_others(models: dict[str, Path], tmp_path: Path) -> None:
    grid = grid_of(tmp_path, arms=("posterior@lens", "posterior@adapted"), as_ratios=True)
    out = tmp_path / "runs"
    found = compare(grid, out, str(models[CAUSAL]), None, tuple(TEXTS), progress=False)
    assert found == Tally(done=3, failed=0, reused=0)
    runs = read_runs(out)
    assert not runs.left_out
    assert {row.arm for row in runs.done} == {"vanilla", "posterior@lens", "posterior@adapted"}
    weights = {row.arm: row.tries[0].weight for row in runs.done}
    # The same ratio of another gradient: that of the lens as it is once it has seen the examples.
    assert weights["posterior@adapted"] != weights["posterior@lens"]


def test_two_tasks_of_ones_own_and_workers(models: dict[str, Path], tmp_path: Path) -> None:
    """A task file travels to workers, which load it themselves."""
    given = (str(task_toml(tmp_path)), str(text_csv(tmp_path)))
    grid = grid_of(tmp_path, tasks=given, arms=(), shots=(4,))
    found = compare(grid, tmp_path / "runs", str(models[CAUSAL]), None, jobs=2, progress=False)
    assert found == Tally(done=2, failed=0, reused=0)
    assert [(row["task"], row["metric"]) for row in rows_of(tmp_path / "runs")] == [
        ("films", "f1_macro"),
        ("reviews", "accuracy"),
    ]


def test_a_cell_is_of_its_task_s_words_and_of_the_model_s_weights(
    models: dict[str, Path], tmp_path: Path
) -> None:
    grid = grid_of(tmp_path, arms=())
    (task,) = grid.tasks
    others = [
        grid,
        dataclasses.replace(grid, tasks=(task.with_words(["poor", "fine"]),)),
        dataclasses.replace(grid, tasks=(task.with_template("it was {mask} {text}"),)),
        dataclasses.replace(grid, settings=dataclasses.replace(grid.settings, loss="labels")),
    ]
    cells = set()
    for how, chosen in [(None, other) for other in others] + [(HowLoaded("bfloat16"), grid)]:
        context = Context(chosen, tmp_path, str(models[MASKED]), None, how=how)
        cells |= {describe(context, cell).cell for cell in chosen.cells()}
    assert len(cells) == 5


def test_weights_in_16_bits_are_compared(models: dict[str, Path], tmp_path: Path) -> None:
    grid = grid_of(tmp_path)
    how = HowLoaded("bfloat16")
    context = Context(grid, tmp_path / "runs", str(models[CAUSAL]), None, tuple(TEXTS), how=how)
    assert context.model.plm.dtype == torch.bfloat16
    found = compare(
        grid, tmp_path / "runs", str(models[CAUSAL]), None, tuple(TEXTS), progress=False, how=how
    )
    assert found == Tally(done=4, failed=0, reused=0)
    sha = {row["hashes"]["model_sha256"] for row in rows_of(tmp_path / "runs")}
    assert sha == {context.model.identity["model_sha256"]}


@pytest.mark.parametrize("arm", ["posterior@lens", "axis", "brownian@adapted"])
@pytest.mark.parametrize("kind", [CHOICE, GENERATION])
def test_arms_about_classes_need_some(
    models: dict[str, Path], tmp_path: Path, arm: str, kind: str
) -> None:
    grid = grid_of(tmp_path, kind, arms=("brownian", arm))
    with pytest.raises(BadInput, match=rf"arm {arm}: .* of kind '{kind}' has none: leave out"):
        compare(grid, tmp_path / "runs", str(models[CAUSAL]), None, tuple(TEXTS), progress=False)
    assert not list((tmp_path / "runs").glob("c*/*"))


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(BadInput, match=r"two are called 'reviews'.*another name, in a task file"):
        grid_of(tmp_path, tasks=(str(text_csv(tmp_path)), str(text_csv(tmp_path / "other"))))


# By the command


@pytest.fixture
def command(
    models: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    def call(*args: object) -> tuple[int, str]:
        base = ["compare", "--model", models[CAUSAL], "--preset", "quick", "--out", tmp_path / "runs"]
        base += ["--text", tmp_path / "text.txt", "--shots", 4, "--steps", 2, "--fit-steps", "2"]
        base += ["--fit-length", 16, "--max-length", 40, "--seeds", 42, "--bridges", "brownian@lens"]
        (tmp_path / "text.txt").write_text("\n".join(TEXTS), encoding="utf-8")
        try:
            main([str(arg) for arg in (*base, *args)])
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def test_the_preset_of_few_examples_has_ratios_unless_weights_are_given(
    command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    few = ("--preset", "few", "--task", text_csv(tmp_path), "--template", "{text} it was {mask}")
    few += ("--label-words", "bad,good")
    code, said = command(*few)
    assert code == 0, said
    assert "plan: 2 cells = 2 arms, 3 tries each (ratio 0.1, 0.5, 2)" in said
    code, said = command(*few, "--weights", "0.5", "2")
    assert code == 0, said
    assert "2 tries each (weight 0.5, 2)" in said
    strengths = {
        tuple(tried["strength"] for tried in row["tries"]): row["settings"]["loss"]
        for row in rows_of(tmp_path / "runs")
        if row["arm"] != "vanilla"
    }
    assert strengths == {(0.1, 0.5, 2.0): "labels", (0.5, 2.0): "labels"}


def test_the_command_asks_in_other_words(
    command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    words = ("--template", "{text} it was {mask}", "--label-words", "bad,good", "--loss", "labels")
    code, said = command(
        "--task", text_csv(tmp_path), *words, "--ratios", "0.5", "2", "--dtype", "bfloat16"
    )
    assert code == 0, said
    assert "plan: 2 cells = 2 arms, 2 tries each (ratio 0.5, 2)" in said
    rows = {row["arm"]: row for row in rows_of(tmp_path / "runs")}
    lens = rows["brownian@lens"]
    assert lens["by_ratio"]
    assert [tried["strength"] for tried in lens["tries"]] == [0.5, 2.0]
    assert all(tried["weight"] > 0 for tried in lens["tries"])
    assert not rows["vanilla"]["by_ratio"]
    assert [tried["weight"] for tried in rows["vanilla"]["tries"]] == [None, None]
    assert lens["settings"]["loss"] == "labels"
    assert lens["settings"] == rows["vanilla"]["settings"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--template", "{text} {mask}"],
            "--template with 2 tasks: give one task, or write each into a",
        ),
        (["--label-words", "bad,good", "--chat"], "--chat, --label-words with 2 tasks"),
        (["--ratios", "1", "--weights", "1"], "--weights with --ratios: give one of the two"),
        (["--ratios", "0"], "ratio 0.0: expected a finite number above 0"),
        (["--budget", "soon"], "budget 'soon': expected a time such as 2h, 90m, 45s or 1h30m"),
        (["--bridges", "none", "--ratios", "1"], "arm none: its cost has no gradient"),
    ],
)
def test_what_does_not_go_together_is_refused(
    command: Callable[..., tuple[int, str]], tmp_path: Path, options: list[str], message: str
) -> None:
    code, said = command("--tasks", text_csv(tmp_path), task_toml(tmp_path), *options)
    assert code == 2
    assert message in said
    assert not (tmp_path / "runs").exists()
