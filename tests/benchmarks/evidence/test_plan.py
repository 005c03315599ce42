"""Plans: the one that is kept, and what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from evidence_cases import SAID
from places import REPOSITORY

from benchmarks.evidence.plan import Plan
from benchmarks.evidence.studies import Runner
from bridges.errors import BadInput


def test_the_plan_says_what_the_issue_of_evidence_is() -> None:
    plan = Plan.read(REPOSITORY / "benchmarks" / "PLAN.md")
    first = plan.studies[0]
    primary, *later = plan.comparisons
    assert (primary.name, primary.studies) == ("primary", (first.name,))
    assert set(primary.baselines) | {primary.arm} == set(first.options["arms"])
    for one in later:
        assert one.arm == primary.arm
        assert one.controls
        assert set(one.controls) <= set(primary.controls)
    for study in plan.studies:
        assert len(study.options["seeds"]) >= 8
        assert study.options["ratios"] == [0.1, 0.5, 2.0]
        written = study.name == "stories"  # its answers are no labels
        assert study.options["loss"] == ("vocabulary" if written else "labels")
        assert study.options["arms"][0] == "vanilla"
    shots = {k for study in plan.studies for k in study.options["shots"]}
    assert shots == {4, 16, 64}
    assert {pet for study in plan.studies for pet in study.options["pets"]} == {
        *("lora", "adapter", "bitfit", "prefix", "prompt")
    }


def test_a_study_may_fit_its_costs_on_other_text_than_the_plans(films: Path) -> None:
    for name in ("text", "other"):
        (films / f"{name}.txt").write_text(f"the {name}", encoding="utf-8")
    first = SAID["studies"][0]
    plan = Plan.of({**SAID, "studies": [first, {**first, "name": "b", "text": ["other.txt"]}]})
    runner = Runner(plan, films, {}, films)
    assert [runner.text(study) for study in plan.studies] == [("the text",), ("the other",)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": None}, "models is missing, expected an object"),
        ({"more": 1}, "key of the plan"),
        ({"common": {"stepps": 3}}, "key of the study 'stepps'"),
        ({"studies": [{"name": "a", "model": "tiny", "arms": []}]}, "study 'a' lacks 'tasks'"),
        ({"studies": [SAID["studies"][0], SAID["studies"][0]]}, "'main' is there twice"),
        ({"studies": [{**SAID["studies"][0], "tasks": ["filmz"]}]}, "task 'filmz'"),
        ({"studies": [{**SAID["studies"][0], "arms": ["brownain"]}]}, "arm 'brownain'"),
        ({"studies": [{**SAID["studies"][0], "readings": ["depths"]}]}, "reading 'depths'"),
        ({"studies": [{**SAID["studies"][0], "model": "big"}]}, "model 'big'"),
        ({"comparisons": [{**SAID["comparisons"][0], "arm": "brownian"}]}, "arm 'brownian'"),
        ({"comparisons": [{**SAID["comparisons"][0], "studies": ["mian"]}]}, "study 'mian'"),
        ({"common": {"seeds": 3}}, "common.seeds is 3, expected a list"),
        ({"common": {"steps": "many"}}, "common.steps is 'many', expected a whole number"),
        ({"studies": [{**SAID["studies"][0], "arms": "brownian"}]}, r"studies\[0\].arms is 'brownian'"),
        ({"studies": [{**SAID["studies"][0], "ratios": ["x"]}]}, r"ratios\[0\] is 'x', expected a fin"),
        ({"common": {}}, "study 'main' lacks 'seeds'"),
        ({"comparisons": [{"name": "a"}]}, r"comparisons\[0\].studies is missing, expected a list"),
    ],
)
def test_what_is_no_plan_is_refused(films: Path, change: dict[str, Any], message: str) -> None:
    said = {key: value for key, value in {**SAID, **change}.items() if value is not None}
    with pytest.raises(BadInput, match=message):
        Plan.of(said)


@pytest.mark.parametrize(("text", "found"), [("no block", 0), ("```toml\n```\n" * 2, 2)])
def test_a_plan_has_one_block(tmp_path: Path, text: str, found: int) -> None:
    (tmp_path / "PLAN.md").write_text(text)
    with pytest.raises(BadInput, match=f"PLAN.md has {found} blocks of ```toml, expected one"):
        Plan.read(tmp_path / "PLAN.md")
    with pytest.raises(BadInput, match="cannot be read"):
        Plan.read(tmp_path / "nowhere.md")
