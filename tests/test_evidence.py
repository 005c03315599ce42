"""The evidence's grids are grids, and its remedies are the costs that they say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from comparison_cases import rows_of, save_inputs, small_grid, sources

from benchmarks.evidence import GROUPS, REMEDY, grid
from benchmarks.remedies import REMEDIES, RemedyContext
from bridges import RunningCost
from pets.compare.run import Comparison, compare
from pets.verbalizer import Verbalizer

pytestmark = pytest.mark.usefixtures("few_rounds")


def test_the_groups_are_grids_of_five_splits_without_a_cell_twice() -> None:
    cells = [cell for axes in GROUPS for cell in grid(**axes).cells()]
    shared = [c for c in cells if cells.count(c) > 1]
    assert {c.seed for c in cells} == {42, 43, 44, 45, 46}
    assert {c.task for c in cells} == {"sst2", "cola", "mrpc", "rte"}
    # The regularizers' group shares the arms it is compared with.
    assert {(c.task, c.pet, c.arm) for c in shared} == {
        ("sst2", "lora", "vanilla"),
        ("sst2", "lora", "brownian"),
    }
    assert set(REMEDIES) < set(grid(**REMEDY).arms)


@pytest.fixture
def context(tmp_path: Path) -> RemedyContext:
    chosen = small_grid(arms=("brownian", *REMEDIES), seeds=(42,), weights=(1.0,))
    found = RemedyContext(chosen, tmp_path / "runs", *sources(save_inputs(tmp_path)))
    found.fit(progress=False)
    return found


def test_remedies_are_what_they_say(context: RemedyContext) -> None:
    plain, costs = context.costs["brownian"], context.costs
    assert len({cost.digest() for cost in costs.values()}) == 5
    records = {arm: cost.fit_record for arm, cost in costs.items()}
    assert records["brownian-contrast"] == records["brownian-posterior"] == records["brownian"]
    assert records["brownian-longer"]["settings"]["max_steps"] == 8
    assert records["brownian-task-text"]["text_sha256"] != records["brownian"]["text_sha256"]

    words = Verbalizer.of_words(context.tokenizer, context.examples["sst2"].task.verbalizer)
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


def test_remedies_run_as_arms(context: RemedyContext) -> None:
    chosen = dataclasses.replace(context.grid, arms=("brownian", *REMEDIES))
    where = (context.folder.parent / "again", context.model, context.data, context.text)
    found = compare(chosen, *where, progress=False, kind=RemedyContext)
    assert found == Comparison(done=6, failed=0, reused=0)
    rows = {row["arm"]: row for row in rows_of(where[0])}
    assert rows["brownian-posterior"]["bridge"]["name"] == "brownian-posterior"
    assert len({str(row["tries"][0]["curves"]) for row in rows.values()}) == 6
