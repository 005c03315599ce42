"""The verdict on a planned comparison, and the primary arm everywhere else."""

from __future__ import annotations

import numpy as np
import pytest
from evidence_cases import cell, said_of_sst2
from scipy import stats

from benchmarks.evidence.places import everywhere
from benchmarks.evidence.plan import Comparison, Plan
from benchmarks.evidence.records import Cell
from benchmarks.evidence.tables import summary
from benchmarks.evidence.verdict import verdict
from pets.study.cells.right import packed
from pets.study.statistics.crossed import crossed_interval


@pytest.mark.parametrize(
    ("effects", "said"),
    [
        ({"vanilla": 0.05, "early-exit": 0.05}, "Above vanilla and above `early-exit`, with"),
        ({"vanilla": 0.05, "early-exit": 0.0}, "but not above `early-exit`."),
        ({"vanilla": 0.0, "early-exit": 0.05}, "the goal is not reached"),
        ({"vanilla": -0.05, "early-exit": -0.05}, "the goal is not reached"),
    ],
)
def test_the_verdict_is_what_the_intervals_are(effects: dict[str, float], said: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 8)
    noise -= noise.mean()
    cells = [cell("posterior@lens", s, 0.7 + float(v)) for s, v in enumerate(noise)]
    for k, (arm, effect) in enumerate(effects.items()):
        cells += [cell(arm, s, 0.7 - effect + 0.3 * k * float(v)) for s, v in enumerate(noise)]
    primary = Comparison("first", ("main",), "posterior@lens", ("early-exit",))
    found = verdict(primary, [cells])
    assert said in found.splitlines()[-1]
    for arm, effect in effects.items():
        assert f"| {arm if arm == 'vanilla' else f'`{arm}`'} | 8 | {effect + 0.0:+.3f} [" in found
    assert "no verdict" in verdict(primary, [cells[:9]])
    assert "no verdict" in verdict(primary, [()])
    alone = Plan.of({**said_of_sst2(), "comparisons": []})
    assert summary(alone, {"main": cells}, {}).startswith("Vanilla: mean")


def test_a_verdict_says_what_other_examples_might_have_made_of_it() -> None:
    rng = np.random.default_rng(3)
    level = {"posterior@lens": 0.8, "vanilla": 0.6, "early-exit": 0.7}
    right = {arm: rng.random((6, 40)) < p for arm, p in level.items()}
    kept = {"examples": {"reported": 40}}
    cells = [
        Cell({**cell(arm, s, float(row.mean())).line, **kept, "right": packed(row.tolist())})
        for arm, rows in right.items()
        for s, row in enumerate(rows)
    ]
    primary = Comparison("first", ("main",), "posterior@lens", ("early-exit",))
    head, _, *lines = verdict(primary, [cells]).splitlines()[2:5]
    assert head.split(" | ")[3] == "the same over other examples too"
    of_vanilla = right["posterior@lens"].astype(float) - right["vanilla"]
    low, high = crossed_interval(of_vanilla, 0.05 / 2)
    assert lines[0].split(" | ")[3] == f"{of_vanilla.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
    cells[0] = cell("posterior@lens", 0, float(right["posterior@lens"][0].mean()))  # of an older version
    assert "other examples" not in verdict(primary, [cells])


def test_the_primary_arm_is_told_of_everywhere_that_it_was_tried() -> None:
    told = said_of_sst2()
    plan = Plan.of({**told, "studies": [*told["studies"], {**told["studies"][0], "name": "more"}]})
    gains = (0.03, 0.05, 0.01)
    main = [cell("vanilla", s, 0.6) for s in range(3)]
    main += [cell("posterior@lens", s, 0.6 + gain) for s, gain in enumerate(gains)]
    main += [cell("early-exit", s, 0.5 + gain) for s, gain in enumerate(gains[:2])]
    more = [cell("vanilla", 1, 0.7), cell("early-exit", 1, 0.8)]  # not the arm itself
    table = everywhere(plan, {"main": main, "more": more}).splitlines()
    assert table[4] == "| where | splits | vanilla | minus vanilla | minus `early-exit` |"
    low, high = stats.ttest_1samp(gains, 0.0).confidence_interval(0.95)
    of_vanilla = f"+0.030 [{low:+.3f}, {high:+.3f}]"
    assert table[6:] == [
        f"| main; tiny: films, 4 shots, lora | 3 | 0.600 | {of_vanilla} | +0.100 [+0.100, +0.100] |"
    ]
