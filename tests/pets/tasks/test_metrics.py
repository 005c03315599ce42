"""Scores against their formulas."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.errors import BadInput
from pets import tasks
from pets.tasks.base import GENERATION
from pets.tasks.metrics import BY_KIND, METRICS, RANGES, check_metric, score

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


# Answers in words


class Reply(tasks.Task):
    """What comes next?"""

    kind = GENERATION
    metric = "exact_match"

    def load(self, folder: object = None) -> tasks.TaskData:
        raise NotImplementedError


def replied(prediction: str, *answers: str) -> dict[str, float]:
    return score(Reply(), [prediction], [answers])


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1", "rouge"),
    [
        ("a cat", ("a cat",), 1, 1, 1),
        ("The cat.", ("cat",), 1, 1, 2 / 3),  # articles and stops are none of SQuAD's words
        ("the black cat", ("the cat sat",), 0, 1 / 2, 2 / 3),
        ("sat cat the", ("the cat sat",), 0, 1, 1 / 3),  # the longest common subsequence is one word
        ("dog", ("cat", "dog"), 1, 1, 1),
        ("black cat", ("cat", "black cat sat"), 0, 4 / 5, 4 / 5),  # the best of both
        ("", ("cat",), 0, 0, 0),
        ("Кошка спит", ("кошка",), 0, 2 / 3, 2 / 3),  # letters beyond a to z are letters
        ("cat", ("dog",), 0, 0, 0),
    ],
)
def test_answers_in_words(
    prediction: str, answers: tuple[str, ...], exact: float, f1: float, rouge: float
) -> None:
    expected = {"exact_match": exact, "f1": f1, "rouge_l": rouge}
    assert replied(prediction, *answers) == pytest.approx(expected)


def test_scores_of_words_are_means_in_0_to_1() -> None:
    scores = score(Reply(), ["cat", "x", "a b"], [("cat", "dog"), ("cat",), ("b c",)])
    assert scores == pytest.approx({"exact_match": 1 / 3, "f1": (1 + 2 / 3) / 3, "rouge_l": 1.5 / 3})


def longest_common(first: list[str], second: list[str]) -> int:
    """Of subsequences, by trying all."""
    if not first or not second:
        return 0
    with_first = 1 + longest_common(first[1:], second[1:]) if first[0] == second[0] else 0
    return max(with_first, longest_common(first[1:], second), longest_common(first, second[1:]))


words = st.lists(st.sampled_from(["cat", "dog", "sun"]), min_size=1, max_size=5)


@given(first=words, second=words)
def test_rouge_l_and_f1_against_their_formulas(first: list[str], second: list[str]) -> None:
    scores = replied(" ".join(first), " ".join(second))
    common = sum(min(first.count(word), second.count(word)) for word in set(first))
    size = len(first) + len(second)
    assert scores["f1"] == pytest.approx(2 * common / size)
    assert scores["rouge_l"] == pytest.approx(2 * longest_common(first, second) / size)
    assert scores["exact_match"] == float(first == second)


def test_a_metric_belongs_to_a_kind() -> None:
    assert set(METRICS) == set(BY_KIND["classes"])
    with pytest.raises(BadInput, match="unknown metric 'accuracy'"):
        check_metric(type("Other", (Reply,), {"metric": "accuracy"})())
    for task in map(tasks.get, tasks.available()):
        check_metric(task)
