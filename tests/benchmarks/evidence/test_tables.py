"""The tables, and the pages that hold them."""

from __future__ import annotations

import numpy as np
import pytest
from evidence_cases import cell, said_of_sst2
from places import REPOSITORY
from scipy import stats

from benchmarks.environment import RESULTS
from benchmarks.evidence.plan import Plan
from benchmarks.evidence.records import read_facts, read_records
from benchmarks.evidence.tables import BEGIN, END, details, put_into, summary
from bridges.errors import BadInput
from pets.study.statistics.power import detectable

PAGES = REPOSITORY / "benchmarks"


def test_only_what_is_shown_is_bold() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 8)
    cells = [cell("vanilla", s, 0.6 + float(v)) for s, v in enumerate(noise)]
    cells += [cell("early-exit", s, 0.7 + float(v[0])) for s, v in enumerate(noise[:, None] * 0)]
    cells += [cell("posterior@lens", s, 0.6 - float(v)) for s, v in enumerate(noise)]
    page = summary(Plan.of(said_of_sst2()), {"main": cells}, {})
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    assert sum("**" in line for line in lines if line.startswith("| `early-exit`")) == 1
    assert not any("**" in line for line in lines if line.startswith("| `posterior@lens`"))
    assert "Not run." in summary(Plan.of(said_of_sst2()), {}, {})


def test_the_arm_of_a_comparison_is_set_against_its_controls_in_every_study() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, (3, 8))
    means = {"vanilla": 0.6, "posterior@lens": 0.7, "early-exit": 0.65, "r-drop": 0.5}
    plan = Plan.of(said_of_sst2())
    assert [(one.arm, one.controls) for one in plan.comparisons] == [("posterior@lens", ("early-exit",))]
    cells = [
        cell(arm, s, mean + float(row[s]))
        for (arm, mean), row in zip(means.items(), [*noise, noise[0]], strict=True)
        for s in range(8)
    ]
    page = details(plan, {"main": cells}, {})
    gain = 0.05 + noise[1] - noise[2]
    seen = detectable(gain.std(ddof=1), 8)
    told = f"1 tests; a true difference of {seen:.3f} to {seen:.3f} is told four times in five"
    head, rows = page.split(f"**Accuracy of `posterior@lens` minus that of** ({told})")
    assert "|" not in head
    table = rows.split("\n\n")[1].splitlines()
    low, high = stats.ttest_1samp(gain, 0).confidence_interval()
    assert table[2:] == [f"| `early-exit` | **{gain.mean():+.3f} [{low:+.3f}, {high:+.3f}]** |"]
    single = [one for one in cells if one.seed == 0]
    assert f"| `early-exit` | {gain[0]:+.3f} (1) |" in details(plan, {"main": single}, {})
    only = [one for one in cells if one.arm in ("vanilla", "early-exit")]
    assert "minus that of" not in details(plan, {"main": only}, {})


def test_prices_are_over_vanillas() -> None:
    one = {"ratio": 1.5, "low": 1.25, "high": 2.0, "memory": 150}
    times = {"lora": {"vanilla": {**one, "ratio": 1.0, "memory": 100}, "posterior@lens": one}}
    cells = [cell("vanilla", 1, 0.6), cell("posterior@lens", 1, 0.6)]
    page = details(Plan.of(said_of_sst2()), {"main": cells}, {"main": {"step_times": times}})
    assert "| `posterior@lens` | 1.50 (1.25 to 2.00); 1.500 |" in page


def test_tables_go_between_two_marks() -> None:
    page = f"above\n{BEGIN}\nold\n{END}\nbelow\n"
    assert put_into(page, "new\n") == f"above\n{BEGIN}\n\nnew\n\n{END}\nbelow\n"
    assert put_into(put_into(page, "new\n"), "new\n") == put_into(page, "new\n")
    for broken in ("nothing", f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}"):
        with pytest.raises(BadInput, match="the page has no"):
            put_into(broken, "new")


def test_the_page_has_the_tables_of_the_results_that_are_kept() -> None:
    page = (PAGES / "EVIDENCE.md").read_text(encoding="utf-8")
    kept = read_records(RESULTS / "evidence")
    facts = read_facts(RESULTS / "evidence")
    plan = Plan.read(PAGES / "PLAN.md")
    assert page == put_into(page, summary(plan, kept, facts))
    assert (PAGES / "EVIDENCE_TABLES.md").read_text(encoding="utf-8") == details(plan, kept, facts)
    for cells in kept.values():
        assert all("/" not in str(one.line["model"]) for one in cells)
