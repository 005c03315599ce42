"""What each arm is right on: how a row keeps it, two arms on every example, what a report says of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_runs import Truth, rows

from bridges.errors import BadInput
from pets.study.cells.right import packed, unpacked
from pets.study.cells.rows import Row
from pets.study.report.answer import answer
from pets.study.report.document import Answer
from pets.study.report.runs import Runs
from pets.study.report.scopes import scopes
from pets.study.report.tables import arms_table, main_table
from pets.study.statistics.arm_differences import ArmDifferences, compare_arms
from pets.study.statistics.by_example import Right
from pets.study.statistics.crossed import crossed_interval
from pets.study.statistics.paired import ERROR, Array
from pets.study.statistics.setting import Setting

SST2 = Setting("sst2", 16, "lora")
SEEDS, EXAMPLES = 5, 60


@given(st.lists(st.booleans(), max_size=50))
def test_what_is_packed_is_unpacked(right: list[bool]) -> None:
    text = packed(right)
    assert unpacked(text, len(right)) == tuple(right)
    assert len(text) == -(-len(right) // 4)
    if right:
        assert int(text, 16) >> (-len(right) % 4) == int("".join("01"[hit] for hit in right), 2)


@pytest.mark.parametrize(
    ("text", "count", "message"),
    [
        ("g0", 8, "right is 'g0', expected hexadecimal digits"),
        ("ff", 9, "right has 2 digits, expected those of 9 examples"),
        ("ff", 4, "expected those of 4 examples"),
        ("ff", 7, "expected those of 7 examples"),  # the eighth bit is of no example
    ],
)
def test_what_is_of_another_number_of_examples_is_refused(text: str, count: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        unpacked(text, count)


def table(
    gain: float, *, few: int = 0, known: int = EXAMPLES, settings: Any = (("sst2", 16),)
) -> list[Row]:
    """Vanilla, and an arm that is right more often, or in every seed on the same few examples more."""
    truth = Truth(settings=settings, pets=("lora",), arms=("vanilla", "brownian"), seeds=range(SEEDS))
    level = np.random.default_rng(0).uniform(0.3, 0.7, EXAMPLES)  # of an example
    found = []
    for row in rows(truth):
        ours = row["arm"] == "brownian"
        hits = np.random.default_rng([1, row["seed"]]).random(EXAMPLES) < level + gain * ours
        hits[:few] = ours
        told = {"score": float(hits.mean()), "right": packed(hits.tolist()[:known])}
        found.append(Row.from_dict(row | told | {"examples": {"reported": known}}))
    return found


def by_hand(table: list[Row]) -> Array:
    right = {(row.arm, row.seed): np.array(row.right_on, dtype=float) for row in table}
    return np.stack([right["brownian", seed] - right["vanilla", seed] for seed in range(SEEDS)])


def test_two_arms_on_every_example() -> None:
    found = table(0.2)
    (one,) = compare_arms(found).single.values()
    assert one.by_example is not None
    assert (one.by_example == by_hand(found)).all()
    assert one.difference.mean == pytest.approx(one.by_example.mean())
    assert one.over_examples == crossed_interval(by_hand(found), ERROR)


def test_what_one_row_does_not_say_is_told_of_no_pair() -> None:
    found = table(0.2)
    lacking = [Row.from_dict({k: v for k, v in found[0].to_dict().items() if k != "right"}), *found[1:]]
    other = [*table(0.2, known=EXAMPLES - 1)[:1], *found[1:]]  # scored on others
    failed = Row.from_dict(found[0].to_dict() | {"status": "failed", "error": "no"})
    for told in (lacking, other):
        (one,) = compare_arms(told).single.values()
        assert one.over_examples is None
    (one,) = compare_arms([failed, *found[1:]]).single.values()
    assert one.by_example is not None
    assert one.by_example.shape == (SEEDS - 1, EXAMPLES)
    assert Right.of(found).apart(SST2, "brownian", "vanilla", [0, 7]) is None


def test_pooled_settings_have_no_examples_in_common() -> None:
    pooled = compare_arms(table(0.2, settings=(("sst2", 16), ("rte", 16)))).pooled
    assert [one.over_examples for one in pooled.values()] == [None]


def test_a_single_pair_has_no_interval() -> None:
    (one,) = compare_arms([row for row in table(0.2) if row.seed == 0]).single.values()
    assert one.over_examples is None


def told(found: list[Row]) -> tuple[Answer, ArmDifferences, Runs]:
    runs = Runs("runs", found, times={})
    measured = compare_arms(found)
    (scope,) = scopes(runs, measured)
    return answer(scope), measured, runs


@pytest.mark.parametrize(("gain", "few", "holds"), [(0.25, 0, True), (0.01, 2, False)])
def test_a_report_says_what_other_examples_might_have_made_of_it(
    gain: float, few: int, holds: bool
) -> None:
    found = table(gain, few=few)
    said, measured, runs = told(found)
    (one,) = measured.single.values()
    assert one.significant
    low, high = crossed_interval(by_hand(found), ERROR)
    assert (low > 0) == holds
    text = f"[{low:+.3f}, {high:+.3f}]".replace("-", "\N{MINUS SIGN}")
    expected = f"The interval is over splits; were the 60 scored examples others too, it is {text}"
    doubt = ": more scored examples would tell whether it holds for new ones"
    assert said.more.startswith(expected + ("." if holds else f"{doubt}."))
    assert ("certain on these examples (5 pairs" in said.first) == (not holds)
    table_of_arms = arms_table(scopes(runs, measured))
    assert table_of_arms.caption.endswith(
        "In small: the interval that other scored examples are in too."
    )
    ((_, row),) = [group.rows for group in table_of_arms.groups]
    assert row[3].note == text
    ((_, row),) = [group.rows for group in main_table(runs, measured, "sst2", 16).groups]
    assert row[-1].note.endswith(f" · other examples too {text}")


def test_rows_of_before_are_reported_as_they_were() -> None:
    found = [Row.from_dict({k: v for k, v in r.to_dict().items() if k != "right"}) for r in table(0.3)]
    said, measured, runs = told(found)
    assert "scored examples others" not in said.more
    table_of_arms = arms_table(scopes(runs, measured))
    assert "scored examples" not in table_of_arms.caption
    ((_, row),) = [group.rows for group in table_of_arms.groups]
    assert row[3].note == ""
    assert "right" not in found[0].to_dict()
