"""The table of tasks against the published protocol and GLUE's own numbering."""

from __future__ import annotations

import pytest

from bridges.errors import BadInput
from pets import tasks


def test_available_lists_the_seven_tasks() -> None:
    assert tasks.available() == ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2"]


@pytest.mark.parametrize(
    ("name", "words", "metric"),
    [
        ("sst2", ("negative", "positive"), "accuracy"),
        ("mnli", ("maybe", "no", "yes"), "accuracy"),
        ("cola", ("no", "yes"), "matthews"),
        ("rte", ("no", "yes"), "accuracy"),
        ("qnli", ("no", "yes"), "accuracy"),
        ("mrpc", ("different", "same"), "f1_macro"),
        ("qqp", ("different", "same"), "f1_macro"),
    ],
)
def test_published_verbalizers_and_metrics(name: str, words: tuple[str, ...], metric: str) -> None:
    task = tasks.get(name)
    assert task.words == words
    assert task.metric == metric


@pytest.mark.parametrize(
    ("name", "hub_order"),
    [
        ("sst2", ["negative", "positive"]),
        ("mnli", ["entailment", "neutral", "contradiction"]),
        ("cola", ["unacceptable", "acceptable"]),
        ("rte", ["entailment", "not_entailment"]),
        ("qnli", ["entailment", "not_entailment"]),
        ("mrpc", ["not_equivalent", "equivalent"]),
        ("qqp", ["not_duplicate", "duplicate"]),
    ],
)
def test_hub_numbers_are_those_of_the_hub_features(name: str, hub_order: list[str]) -> None:
    labels = tasks.get(name).labels
    assert [label.name for label in sorted(labels, key=lambda label: label.hub)] == hub_order
    assert sorted(label.hub for label in labels) == list(range(len(labels)))


@pytest.mark.parametrize("name", tasks.available())
def test_table_is_consistent(name: str) -> None:
    task = tasks.get(name)
    assert task.name == name
    assert len({label.tsv for label in task.labels}) == len(task.labels)
    assert len(set(task.words)) == len(task.labels)
    assert len(task.tsv_texts) == len(task.hub_texts)
    assert task.skips_broken_rows == (name == "qqp")


@pytest.mark.parametrize("name", ["SST-2", "sst_2", "Sst2", "SST2", "sst2"])
def test_names_ignore_case_dashes_and_underscores(name: str) -> None:
    assert tasks.get(name).folder == "SST-2"


@pytest.mark.parametrize(("name", "nearest"), [("mnlli", "mnli"), ("SST-5", "sst2"), ("", "cola")])
def test_unknown_name_lists_the_names_and_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(BadInput, match="is unknown; expected one of cola, mnli, mrpc") as caught:
        tasks.get(name)
    assert repr(name) in str(caught.value)
    if name:
        assert str(caught.value).endswith(f"nearest is {nearest!r}")


def test_with_words_returns_a_new_task() -> None:
    task = tasks.get("sst2")
    other = task.with_words(("terrible", "great"))
    assert other.words == ("terrible", "great")
    assert [label.name for label in other.labels] == ["negative", "positive"]
    assert tasks.get("sst2").words == ("negative", "positive")


@pytest.mark.parametrize("words", [("yes", "no"), ("a", "b", "c", "d"), (), "yes"])
def test_with_words_of_the_wrong_number_lists_the_class_order(words: tuple[str, ...]) -> None:
    with pytest.raises(
        BadInput, match="needs 3 words, in the class order neutral, contradiction, entailment"
    ):
        tasks.get("mnli").with_words(words)


def test_without_the_reported_split_the_rest_is_the_same() -> None:
    train, reported = (tasks.Example("good", 1),), (tasks.Example("bad", 0),)
    data = tasks.TaskData(tasks.get("sst2"), train, reported)
    assert data.without_reported == tasks.TaskData(tasks.get("sst2"), train, ())
    assert data.reported == reported
