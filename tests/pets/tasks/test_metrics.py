"""Scores against their formulas."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.errors import BadInput
from pets import tasks
from pets.tasks.metrics import METRICS, RANGES, score

LABELS = [0, 0, 0, 1, 1, 1, 1, 1]
PREDICTIONS = [0, 0, 1, 1, 1, 1, 1, 0]  # one class-0 and one class-1 example are wrong


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sst2", {"accuracy": 6 / 8}),
        ("rte", {"accuracy": 6 / 8}),
        ("cola", {"accuracy": 6 / 8, "matthews": (2 * 4 - 1 * 1) / math.sqrt(5 * 5 * 3 * 3)}),
        ("mrpc", {"accuracy": 6 / 8, "f1_macro": (2 * 2 / 6 + 2 * 4 / 10) / 2}),
        ("qqp", {"accuracy": 6 / 8, "f1_macro": (2 * 2 / 6 + 2 * 4 / 10) / 2}),
    ],
)
def test_values(name: str, expected: dict[str, float]) -> None:
    assert score(tasks.get(name), PREDICTIONS, LABELS) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(
    pairs=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1),
    name=st.sampled_from(tasks.available()),
)
def test_always_accuracy_and_the_task_s_metric(pairs: list[tuple[int, int]], name: str) -> None:
    predictions, labels = map(list, zip(*pairs, strict=True))
    task = tasks.get(name)
    scores = score(task, predictions, labels)
    assert set(scores) == {"accuracy", task.metric}
    assert scores["accuracy"] == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))
    assert all(type(value) is float and math.isfinite(value) for value in scores.values())


def test_constant_predictions_score_zero_matthews() -> None:
    assert score(tasks.get("cola"), [1] * 8, LABELS)["matthews"] == 0


def test_every_metric_reaches_the_ends_of_its_range_and_no_further() -> None:
    """Right and wrong throughout; macro-F1 and accuracy are then 0, Matthews is -1."""
    for name, metric in METRICS.items():
        if name in ("accuracy", "matthews", "f1_macro"):  # those of classes
            labels = [0, 1, 1, 0]
            assert (metric(labels, [1, 0, 0, 1]), metric(labels, labels)) == RANGES[name]
        assert name in RANGES


def test_lengths_must_match() -> None:
    with pytest.raises(BadInput, match="2 predictions for 3 labels; expected one for each"):
        score(tasks.get("sst2"), [0, 1], [0, 1, 1])


def test_nothing_to_score() -> None:
    with pytest.raises(BadInput, match="task sst2: no predictions to score"):
        score(tasks.get("sst2"), [], [])
