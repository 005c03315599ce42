"""The evidence's grids are grids, and its remedies are the costs that they say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from comparison_cases import rows_of, save_inputs, small_grid, sources
from tiny import TEXTS
from zoo_cases import BRIDGES

import bridges
from benchmarks import first_study
from benchmarks.first_study import ARMS, GROUPS, REMEDY, STUDIES, ZOO, grid
from benchmarks.remedies import CONTRAST, REMEDIES, RemedyRecipes
from bridges import RunningCost
from pets.study.cells.context import Context
from pets.study.cells.costs import Recipes
from pets.study.compare.run import Tally, compare
from pets.tasks.verbalizer import Verbalizer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_rounds")]


def test_the_groups_are_grids_of_five_splits_without_a_cell_twice() -> None:
    cells = [cell for axes in GROUPS for cell in grid(**axes).cells()]
    shared = [c for c in cells if cells.count(c) > 1]
    assert {c.seed for c in cells} == {42, 43, 44, 45, 46}
    assert {c.task for c in cells} == {"sst2", "cola", "mrpc", "rte"}
    # The regularizers' group shares the arms it is compared with.
    assert {(c.task, c.pet, c.arm.text) for c in shared} == {
        ("sst2", "lora", "vanilla"),
        ("sst2", "lora", "brownian"),
    }
    assert set(REMEDIES) < set(grid(**REMEDY).arms)
    assert {name for name, *_ in STUDIES} == {"", "zoo", "prompts", "long", "remedies"}
    assert all(grid(**axes) for _, groups, _ in STUDIES for axes in groups)


def test_the_zoo_has_every_bridge_that_costs_something() -> None:
    """But the costs about the label, which came after it was measured; a remedy was the first."""
    about = {name for name in BRIDGES if issubclass(bridges.info(name).cls, bridges.AboutLabel)}
    measured = {arm.partition(":")[0].partition("@")[0] for arm in ZOO["arms"]}
    assert measured == set(BRIDGES) - about - {"none"}
    assert set(ARMS) < set(ZOO["arms"])


@pytest.fixture
def context(tmp_path: Path) -> Context:
    chosen = small_grid(arms=("brownian", *REMEDIES), seeds=(42,), weights=(1.0,))
    where = (tmp_path / "runs", *sources(save_inputs(tmp_path)))
    found = Context(chosen, *where, recipes=RemedyRecipes)
    found.fit(progress=False)
    return found


def test_remedies_are_what_they_say(context: Context) -> None:
    plain, costs = context.costs["brownian"], context.costs
    assert len({cost.digest() for cost in costs.values()}) == 5
    records = {arm: cost.fit_record for arm, cost in costs.items()}
    assert records["brownian-contrast"] == records["brownian-posterior"] == records["brownian"]
    assert records["brownian-longer"]["settings"]["max_steps"] == 8
    assert records["brownian-task-text"]["text_sha256"] != records["brownian"]["text_sha256"]

    words = Verbalizer.of_words(context.model.tokenizer, context.examples["sst2"].task.verbalizer)
    ends = words.ends(costs["brownian-contrast"]).vectors[:, 0]
    torch.testing.assert_close(ends[0], -ends[1])  # of two labels nothing common is left
    torch.testing.assert_close(ends.norm(dim=1), torch.ones(2))
    before = words.ends(plain).vectors[:, 0]
    torch.testing.assert_close(ends[0], torch.nn.functional.normalize(before[0] - before[1], dim=0))

    hidden = [torch.randn(3, 6, 32) for _ in range(4)]
    labels = torch.full((3, 6), -100)
    labels[torch.arange(3), torch.tensor([1, 2, 4])] = torch.tensor([0, 1, 1])
    posterior = costs["brownian-posterior"](hidden, labels, labels=words.ends(plain))
    each = []
    for label in (0, 1):  # the plain cost of each trajectory towards each label
        towards = torch.where(labels >= 0, label, -100)
        each.append([_one(plain, hidden, towards, words, row) for row in range(3)])
    scores = -4 * torch.tensor(each).T  # as many terms as hidden states
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor([0, 1, 1]))
    torch.testing.assert_close(posterior, expected, rtol=1e-4, atol=1e-5)


def _one(
    cost: RunningCost,
    hidden: list[torch.Tensor],
    targets: torch.Tensor,
    words: Verbalizer,
    row: int,
) -> float:
    part = [h[row : row + 1] for h in hidden]
    return float(cost(part, targets[row : row + 1], labels=words.ends(cost)))


def test_remedies_run_as_arms(context: Context, tmp_path: Path) -> None:
    chosen = dataclasses.replace(context.grid, arms=("brownian", *REMEDIES))
    where = (tmp_path / "again", *sources(tmp_path))
    found = compare(chosen, *where, progress=False, recipes=RemedyRecipes)
    assert found == Tally(done=6, failed=0, reused=0)
    rows = {row["arm"]: row for row in rows_of(where[0])}
    named = {arm: row["bridge"]["name"] for arm, row in rows.items() if row["bridge"]}
    assert named == {"brownian": "brownian"} | {
        arm.text: "posterior" if arm.text == "brownian-posterior" else "brownian" for arm in REMEDIES
    }
    assert len({str(row["tries"][0]["curves"]) for row in rows.values()}) == 6


def test_the_one_command_runs_every_study_and_reports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two small studies in the place of all; given again, it runs nothing again."""
    save_inputs(tmp_path)
    (tmp_path / "text.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    few = {
        **{"steps": 4, "batch_size": 4, "lr": 1e-2, "eval_every": 2, "max_length": 20},
        **{"shots": (4,), "seeds": (42, 43), "weights": (1.0,)},
        **{"fit_steps": 4, "fit_batch_size": 4, "fit_length": 16},
    }
    axes = {"tasks": ("sst2",), "pets": ("lora",)}
    studies = (
        ("", ({**axes, "arms": ("brownian",)}, {**axes, "arms": ("ou",)}), Recipes),
        ("remedies", ({**axes, "arms": ("brownian", CONTRAST)},), RemedyRecipes),
    )
    monkeypatch.setitem(first_study.PRESETS, "small", few)
    monkeypatch.setattr(first_study, "STUDIES", studies)
    options = {"model": "model", "data": "glue", "text": "text.txt", "out": "runs"}
    command = [part for name, value in options.items() for part in (f"--{name}", str(tmp_path / value))]
    done = CliRunner().invoke(first_study.main, command, catch_exceptions=False)
    assert done.exit_code == 0
    assert "remedies sst2 lora: 6 cells done, 0 failed" in done.output
    runs = tmp_path / "runs"
    for folder, arms in ((runs, {"vanilla", "brownian", "ou"}), (runs / "remedies", None)):
        assert {row["arm"] for row in rows_of(folder)} == (
            arms or {"vanilla", "brownian", "brownian-contrast"}
        )
        assert (folder / "report.html").stat().st_size > 10_000
    shared = {path.name for path in (runs / "costs").iterdir()}
    assert {path.name for path in (runs / "remedies" / "costs").iterdir()} == shared
    before = (runs / "results.jsonl").read_bytes()
    monkeypatch.setattr("pets.study.compare.run.run_cell", None)
    assert CliRunner().invoke(first_study.main, command, catch_exceptions=False).exit_code == 0
    assert (runs / "results.jsonl").read_bytes() == before
