"""Comparisons with the published protocol and a schedule: cells of their own, beside the others."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from comparison_cases import SETTINGS, rows_of, save_inputs, small_grid, sources

from pets.study.compare.look import FROZEN
from pets.study.compare.run import Tally, compare
from pets.study.report.runs import read_runs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_rounds")]


def test_protocols_and_schedules_are_cells_of_their_own(tmp_path: Path) -> None:
    inputs, folder = save_inputs(tmp_path / "inputs"), tmp_path / "runs"

    def run(fit: dict[str, Any] | None = None, **changes: Any) -> Tally:
        settings = dataclasses.replace(SETTINGS, **changes)
        grid = small_grid(
            pets=("prompt",), arms=("brownian",), seeds=(42,), weights=(1.0,), settings=settings
        )
        grid = dataclasses.replace(grid, fit=grid.fit | (fit or {}))
        return compare(grid, folder, *sources(inputs), progress=False)

    published = {"protocol": "published", "fit": {"masking": "words"}}
    assert run() == Tally(2, 0, 0)
    assert run(**published) == Tally(2, 0, 0)
    assert run(schedule="linear") == Tally(2, 0, 0)
    assert run(**published) == Tally(2, 0, 2)
    assert run() == Tally(2, 0, 2)
    rows = rows_of(folder)
    assert len({row["cell"] for row in rows}) == 6
    said = [(r["settings"].get("protocol"), r["settings"].get("schedule"), r["arm"]) for r in rows]
    assert sorted(said, key=str) == sorted(
        [
            (protocol, schedule, arm)
            for protocol, schedule in ((None, None), ("published", None), (None, "linear"))
            for arm in ("vanilla", "brownian")
        ],
        key=str,
    )
    by_protocol = {(r["settings"].get("protocol"), r["arm"]): r for r in rows}
    ours, theirs = by_protocol[None, "brownian"], by_protocol["published", "brownian"]
    assert ours["hashes"]["cost"] != theirs["hashes"]["cost"]  # fitted on words, on tokens
    assert ours["hashes"]["data_sha256"] == theirs["hashes"]["data_sha256"]  # SST-2 has no pairs
    # One report shows one of them, and counts the others.
    shown = read_runs(folder)
    assert {row.settings.get("protocol") for row in shown.done} == {None}
    assert sum(left.count for left in shown.left_out) == 4
    assert any("protocol 'published' there, None here" in left.difference for left in shown.left_out)
    frozen = json.loads((folder / "analysis.json").read_text())
    names = [record["of"] for record in frozen if record["arm"] == FROZEN]
    assert len(names) == len(set(names)) >= 2
    assert sum("/published" in name for name in names) == 1
