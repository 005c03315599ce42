"""The table of tasks against the published protocol and GLUE's own numbering."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from tiny import tiny_bert, tiny_tokenizer

from bridges.errors import BadInput
from pets import tasks
from pets.study.cells.grid import Grid
from pets.study.compare.run import compare
from pets.tuning.models import load_plm
from pets.tuning.settings import TuneSettings
from pets.tuning.tune import tune


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


def test_a_word_is_of_one_class_and_no_other_s_name(caplog: pytest.LogCaptureFixture) -> None:
    task = tasks.get("sst2")
    names = [label.name for label in task.labels]
    task.with_words(names)
    assert not caplog.messages
    task.with_words(names[::-1])
    assert len(caplog.messages) == 2
    assert (
        f"the word '{names[1]}' stands for the class '{names[0]}', and there is a class" in caplog.text
    )
    for words in (("good", "good"), ("bad,poor", "good, poor")):
        with pytest.raises(BadInput, match=rf"stands for the classes '{names[0]}' and '{names[1]}'"):
            task.with_words(words)


def test_with_words_returns_a_new_task() -> None:
    task = tasks.get("sst2")
    other = task.with_words(("terrible", "great"))
    assert other.words == ("terrible", "great")
    assert [label.name for label in other.labels] == ["negative", "positive"]
    assert tasks.get("sst2").words == ("negative", "positive")
    assert task.with_words(["terrible, great"]).words == ("terrible", "great")
    assert task.with_words(["bad,awful", "good"]).verbalizer["negative"] == ["bad", "awful"]


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


def test_what_is_known_of_a_task() -> None:
    record = tasks.info("SST-2")
    assert (record.name, list(record.defaults)) == ("sst2", ["words"])
    for name in tasks.available():
        assert tasks.info(name).description.strip("?.")


def test_label_words_in_the_text_of_a_task() -> None:
    assert tasks.get("sst2", words=["terrible", "great"]).words == ("terrible", "great")
    task = tasks.parse("SST-2:words=[(bad,awful),1]")
    assert task.verbalizer == {"negative": ["bad", "awful"], "positive": ["1"]}
    assert task != tasks.get("sst2")
    assert task == tasks.get("sst2").with_words(["bad,awful", "1"])
    assert tasks.parse("sst2") == tasks.get("sst2")
    assert task.identity != tasks.get("sst2").identity
    for text, message in [
        ("sst2:words=[good]", "needs 2 words"),
        ("sst2:words=good", "needs 2 words"),
        ("sst2:names=2", "task 'sst2' has no parameter 'names'; it takes words"),
        ("sst3:words=[a,b]", "nearest is 'sst2'"),
    ]:
        with pytest.raises(BadInput, match=message):
            tasks.parse(text)


class Colours(tasks.Task):
    """Is it red or blue?"""

    name = "colours"
    labels = (tasks.Label("red", "good"), tasks.Label("blue", "bad"))
    metric = "f1_macro"

    def load(self, folder: str | Path | None = None) -> tasks.TaskData:
        rows = tuple(tasks.Example(f"{'dog' if k % 2 else 'cat'} {k}", k % 2) for k in range(24))
        return tasks.TaskData(self, rows[:16], rows[16:])


def test_a_task_of_a_third_party_is_tuned_and_compared(tmp_path: Path) -> None:
    class Named(Colours, name="my-colours"):
        """The same, by a name."""

    model = tmp_path / "model"
    tiny_bert().save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    settings = TuneSettings(shots=4, max_steps=1, batch_size=2, eval_every=1)
    task = tasks.get("my_colours")
    assert isinstance(task, Named)
    plm, tokenizer = load_plm(str(model))
    result = tune(plm, tokenizer, task.load(), settings, tmp_path / "run", progress=False)
    assert (result["task"], result["metric"]) == ("my-colours", "f1_macro")
    outcome = compare(
        Grid(("my_colours",), (4,), ("lora",), (), (42,), (1.0,), settings),
        tmp_path / "runs",
        str(model),
        None,
        progress=False,
    )
    assert (outcome.done, outcome.failed) == (1, 0)


def test_a_task_whose_metric_there_is_not_is_refused(tmp_path: Path) -> None:
    class Odd(Colours):
        metric = "f1-macro"

    with pytest.raises(BadInput, match="unknown metric 'f1-macro'; did you mean 'f1_macro'"):
        tune(tiny_bert(), tiny_tokenizer(), Odd().load(), TuneSettings(shots=4), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_module_of_the_room_takes_no_name_that_the_room_uses() -> None:
    importlib.import_module("pets.tasks.rendered")  # as `task show --model` does
    with pytest.raises(BadInput, match="nearest is 'rte'"):
        tasks.parse("nope")
