"""The picture of the evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evidence_cases import cell, said_of_sst2

from benchmarks.evidence import picture
from benchmarks.evidence.plan import Plan
from benchmarks.evidence.records import Cell


def test_the_picture_has_every_effect_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = {**said_of_sst2()["studies"][0], "name": "more", "schedule": "linear"}
    plan = Plan.of({**said_of_sst2(), "studies": [*said_of_sst2()["studies"], second]})
    gains = {"posterior@lens": 0.05, "early-exit": -0.02, "r-drop": 0.01}
    noise = 0.001 * np.random.default_rng(0).normal(size=(3, 8))

    def cells(*arms: str, splits: int = 8) -> list[Cell]:
        own = [cell("vanilla", s, 0.6) for s in range(splits)]
        rows = zip(arms, noise, strict=False)
        return own + [
            cell(a, s, 0.6 + gains[a] + float(row[s])) for a, row in rows for s in range(splits)
        ]

    kept = {"main": cells(*gains), "more": cells("posterior@lens", splits=1)}
    thrice = {f"more{k}": cells("r-drop", splits=1) for k in (1, 2)}
    many = Plan.of({**said_of_sst2(), "studies": [{**second, "name": n} for n in ("main", *thrice)]})
    assert "r-drop" in picture.effects(many, {**kept, **thrice})
    found = picture.effects(plan, kept)
    here, there = ("tiny: films, 4 shots, lora (8)", "tiny: films, 4 shots, lora, linear decay (1)")
    assert {arm: [name for _, name in own] for arm, own in found.items()} == {
        "posterior@lens": [here, there],  # r-drop, of one study and no control, has no panel
        "early-exit": [here],
    }
    drawn: list[Any] = []
    monkeypatch.setattr(picture, "save_picture", lambda figure, *_: drawn.append(figure))
    picture.draw(plan, found, tmp_path / "picture.png")
    first, other = drawn[0].axes
    assert [label.get_text() for label in first.get_yticklabels()] == [here, there]
    for axis, arm in ((first, "posterior@lens"), (other, "early-exit")):
        middles = {line.get_ydata()[0]: line for line in axis.lines if line.get_marker() == "o"}
        one = next(iter(found[arm].values()))
        assert middles[0].get_xdata()[0] == one.difference.mean
        bars = [list(line.get_xdata()) for line in axis.lines if list(line.get_ydata()) == [0, 0]]
        assert bars == [[one.difference.low, one.difference.high]]
        assert middles[0].get_markerfacecolor() != "white"
        assert one.adjusted_p < 0.05
    assert len(other.lines) == 4  # the line at 0, that under comparisons, and the one place of its own
    assert list(other.lines[-1].get_ydata()) == [0.5, 0.5]  # of two places one is of a comparison
