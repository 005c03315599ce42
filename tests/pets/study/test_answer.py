"""The first line of a report, on rows whose truth is set by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from synthetic_runs import SMALL, Truth, rows, step_times

from pets.study.cells.rows import Row
from pets.study.report.answer import answer
from pets.study.report.document import Answer, size
from pets.study.report.runs import Runs
from pets.study.report.scopes import Scope, scopes
from pets.study.report.verdict import points
from pets.study.statistics.arm_differences import compare_arms
from pets.study.statistics.paired import difference
from pets.study.statistics.power import detectable, pairs_needed

NOISE = (0.002, -0.001, 0.003, -0.004, 0.001)  # of an arm, seed by seed


def found(
    effects: Mapping[str, float],
    settings: Sequence[tuple[str, str]] = (("sst2", "lora"),),
    seeds: int = 5,
    times: Any = None,
) -> list[Scope]:
    """The scopes of a comparison where each arm is so much better than vanilla in every setting."""
    table = []
    for task, pet in settings:
        truth = Truth(
            settings=((task, 16),), pets=(pet,), arms=("vanilla", *effects), seeds=range(seeds)
        )
        for k, row in enumerate(rows(truth)):
            arm, seed = row["arm"], row["seed"]
            extra = 0 if arm == "vanilla" else effects[arm] + NOISE[(seed + k // seeds) % 5]
            table.append(Row.from_dict(row | {"score": 0.6 + 0.01 * seed + extra}))
    runs = Runs("runs", table, times=times or {})
    controls = runs.arms("controls")
    return scopes(runs, compare_arms(table, controls))


def said(effects: Mapping[str, float], **options: Any) -> Answer:
    (scope,) = found(effects, **options)
    return answer(scope)


def test_a_winner_is_named_with_interval_p_pairs_and_price() -> None:
    times = step_times(SMALL)["step_times"]
    told = said({"brownian": 0.05, "regression": 0.0}, times=times)
    d = difference([0.05 + x for x in NOISE[1:] + NOISE[:1]], [0.0] * 5)
    assert told.first == (
        f"On sst2, 16 shots, lora, use brownian: +{d.mean:.3f} accuracy over vanilla [+{d.low:.3f}, "
        f"+{d.high:.3f}], as good as certain (5 pairs, corrected p <0.001), for 1.08 times the time and "
        "1.01 times the memory (10.8 MB) of a step."
    )
    assert told.more == ""
    told = said({"brownian": 0.05, "regression": 0.0})
    assert told.first.endswith("corrected p <0.001), at a price that was not measured.")
    old = {"lora": {arm: {"ratio": 1.07} for arm in ("vanilla", "brownian")}}
    assert said({"brownian": 0.05}, times=old).first.endswith("for 1.07 times the time of a step.")


def test_how_sure_is_in_words() -> None:
    (scope,) = found({"r3f": 0.0045})
    assert 0.01 < scope.against["r3f"].adjusted_p < 0.05
    assert ", fairly sure (5 pairs, corrected p 0.0" in answer(scope).first
    (scope,) = found({"r3f": 0.008})
    assert 0.001 < scope.against["r3f"].adjusted_p < 0.01
    assert ", very sure (5 pairs" in answer(scope).first


def test_nothing_beats_vanilla_says_at_most_how_much_and_what_would_have_been_seen() -> None:
    (scope,) = found({"brownian": 0.001, "r3f": -0.001, "regression": 0.002})
    told = answer(scope)
    most = max(scope.against[arm].difference.interval(0.05 / 3)[1] for arm in ("brownian", "r3f"))
    assert told.first == (
        "Nothing beats vanilla on sst2, 16 shots, lora: the gain of any of the 2 bridges and "
        f"regularizers is at most +{most:.3f} accuracy (95 %, all of them at once; 5 pairs)."
    )
    deviations = [scope.against[arm].difference.deviation for arm in ("brownian", "r3f")]
    spread = (sum(d**2 for d in deviations) / 2) ** 0.5
    assert f"a true difference of {detectable(spread, 5, 0.05 / 3):.3f} would have" in told.more
    assert told.more.startswith("The best of them: brownian +0.00")
    one = said({"brownian": 0.0})
    assert "the gain of brownian is at most" in one.first
    assert "(95 %; 5 pairs)" in one.first


def test_what_is_worse_is_named_after_it() -> None:
    told = said({"brownian": 0.0, "r3f": -0.05, "regression": -0.04})
    assert told.first.startswith("Nothing beats vanilla on sst2")
    worse = told.more.split("Worse than vanilla: ")[1]
    assert worse.startswith("r3f \u22120.0")
    assert "regression \u22120.0" in worse
    all_worse = said({"r3f": -0.05})
    assert "is at most \u22120.0" in all_worse.first


def test_a_control_that_wins_is_not_recommended_in_silence() -> None:
    told = said({"brownian": 0.0, "brownian@random-map": 0.05})
    assert told.first.startswith(
        "Only a control beats vanilla on sst2, 16 shots, lora: brownian@random-map"
    )
    assert "speaks for no bridge and no regularizer" in told.first
    assert told.more.startswith("The gain of brownian is at most ")
    both = said({"brownian": 0.05, "brownian@random-map": 0.06})
    assert both.first.startswith("On sst2, 16 shots, lora, use brownian: ")
    assert "But controls beat vanilla as well: brownian@random-map +0.0" in both.more
    assert "is not shown to be better than its control brownian@random-map" in both.more
    alone = said({"brownian": 0.05})
    assert alone.more == "No control of it was run, so the gain need not be the bridge's."
    only = said({"regression": 0.05})
    assert only.first.startswith("Only a control beats vanilla")
    assert only.more == ""


def test_a_regularizer_needs_no_control_of_a_bridge() -> None:
    assert said({"r3f": 0.05, "brownian": 0.02}).more == (
        "Better than vanilla too: brownian +0.020 [+0.017, +0.024], corrected p <0.001."
    )


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_pairs_say_how_many_are_needed(seeds: int) -> None:
    (scope,) = found({"brownian": 0.05, "r3f": 0.01}, seeds=seeds)
    told = answer(scope)
    assert told.first == (
        f"Nothing can be said of sst2, 16 shots, lora yet: {seeds} pair{'s' * (seeds > 1)} of runs with "
        f"vanilla {'are' if seeds > 1 else 'is'} too few, 3 are the least."
    )
    if seeds == 1:
        assert told.more == "With a second seed the spread is seen, and how many are needed."
        return
    deviations = [c.difference.deviation for c in scope.against.values()]
    spread = (sum(d**2 for d in deviations) / 2) ** 0.5
    small, large = (pairs_needed(effect, spread, 0.025) for effect in (0.02, 0.05))
    assert (
        f"difference of 0.02 takes about {small} pairs and of 0.05 takes about {large} pairs"
        in told.more
    )


def test_equal_differences_know_no_spread() -> None:
    (scope,) = found({"brownian": 0.0}, seeds=3)
    scope.against["brownian"].__dict__["difference"] = difference([0.6, 0.7, 0.8], [0.5, 0.6, 0.7])
    assert "do not know their own spread" in answer(scope).more
    scope.against["brownian"].__dict__["difference"] = difference([0.5] * 3, [0.5] * 3)
    assert answer(scope).first == (
        "Nothing can be said of sst2, 16 shots, lora: every run scores what vanilla's of the same split "
        "does (3 pairs), as where nothing is learned."
    )
    (two,) = found({"brownian": 0.0}, seeds=2)
    two.against["brownian"].__dict__["difference"] = difference([0.6, 0.7], [0.3, 0.4])
    assert answer(two).more == ("All pairs differ alike so far, so how many are needed cannot be told.")
    none: Any = SimpleNamespace(single={})
    assert not any("to either side" in line for line in points([two], none))
    two.against["brownian"].__dict__["difference"] = difference([0.6, 0.8], [0.3, 0.4])
    assert any("to either side" in line for line in points([two], none))


def test_vanilla_alone_has_nothing_to_compare() -> None:
    assert said({}).first == (
        "There is nothing to compare on sst2, 16 shots, lora: no arm shares a seed with vanilla."
    )


def test_few_settings_are_told_one_by_one_and_many_metric_by_metric() -> None:
    effects = {"brownian": 0.05, "regression": 0.0}
    each = found(effects, settings=[("sst2", "lora"), ("rte", "lora"), ("cola", "lora")])
    assert [scope.name for scope in each] == [f"{t}, 16 shots, lora" for t in ("cola", "rte", "sst2")]
    settings = [
        ("cola", "lora"),
        ("sst2", "lora"),
        ("rte", "lora"),
        ("sst2", "bitfit"),
        ("mrpc", "lora"),
    ]
    many = found(effects, settings=settings)
    assert [(scope.metric, scope.name) for scope in many] == [
        ("accuracy", "rte and sst2, 3 settings together"),
        ("matthews", "cola, 16 shots, lora"),
        ("f1_macro", "mrpc, 16 shots, lora"),
    ]
    first = answer(many[0]).first
    assert first.startswith("On rte and sst2, 3 settings together, use brownian: +0.0")
    assert "(10 pairs of a task and a seed, corrected p <0.001)" in first
    assert answer(many[1]).first.startswith("On cola, 16 shots, lora, use brownian: +0.0")


def test_an_arm_of_one_setting_is_no_answer_for_all() -> None:
    """NEFTune's five pairs of one setting were once told as "over all settings together"."""
    table = []
    for task in ("sst2", "rte", "qnli", "mnli"):
        arms = ("vanilla", "brownian", *(["neftune"] if task == "sst2" else []))
        for row in rows(Truth(settings=((task, 16),), pets=("lora",), arms=arms)):
            drop = -0.2 if row["arm"] == "neftune" else 0
            score = 0.6 + drop + NOISE[(row["seed"] + sum(map(ord, row["arm"] + task))) % 5]
            table.append(Row.from_dict(row | {"score": score}))
    runs = Runs("runs", table)
    (scope,) = scopes(runs, compare_arms(table))
    told = answer(scope)
    assert told.first.startswith(
        "Nothing beats vanilla on mnli, qnli, rte and sst2, 4 settings together"
    )
    assert "the gain of brownian is" in told.first
    assert "Worse" not in told.more
    assert "Seen in fewer settings: neftune \u22120." in told.more
    assert told.more.endswith("(sst2, 16 shots, lora).")


def test_sizes_in_words() -> None:
    assert [size(n) for n in (0, 512, 1234, 999_600, 34_120_000, 2.5e9)] == [
        *("0 B", "512 B", "1.23 kB", "1 MB", "34.1 MB", "2.5 GB")
    ]
