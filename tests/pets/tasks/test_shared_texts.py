"""Texts met twice: counted, told once, recorded."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path

import pytest
from tiny import WORDS, tiny_bert, tiny_tokenizer

from pets import tasks
from pets.study.cells.context import Context
from pets.study.cells.grid import Grid
from pets.tasks.base import Example, TaskData
from pets.tasks.shared_texts import shared_texts, warn_of_shared_texts
from pets.tuning.settings import TuneSettings
from pets.tuning.tune import tune

SST2 = tasks.get("sst2").with_words(("bad", "good"))
TRAIN = tuple(Example(f"film {i}", i % 2) for i in range(20))


def test_clean_data_has_none(caplog: pytest.LogCaptureFixture) -> None:
    data = TaskData(SST2, TRAIN, (Example("book", 0), Example("book", 0)))
    with caplog.at_level(logging.WARNING):
        found = warn_of_shared_texts(data)
    assert found == {
        "reported_in_train": 0,
        "two_labels": 0,
        "examples": {"reported_in_train": None, "two_labels": None},
    }
    assert not caplog.records


def test_reported_texts_of_the_train_set_are_counted_with_an_example(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reported = (Example("book", 0), Example("film 3", 1), Example("film 3", 1), Example("film 4", 0))
    with caplog.at_level(logging.WARNING):
        found = warn_of_shared_texts(TaskData(SST2, TRAIN, reported))
    assert (found["reported_in_train"], found["two_labels"]) == (3, 0)
    (record,) = caplog.records
    assert "3 of 4 reported examples have a text that is in the train set too" in record.getMessage()
    assert "'film 3'" in record.getMessage()


def test_texts_with_two_labels_are_counted_in_both_sets_together() -> None:
    train = (*TRAIN, Example("film 1", 0), Example("film 1", 1))
    found = shared_texts(TaskData(SST2, train, (Example("film 2", 1), Example("new", 0))))
    assert found["two_labels"] == 2
    assert found["examples"] == {"reported_in_train": "film 2", "two_labels": "film 1"}


def test_a_huge_text_is_recorded_in_short() -> None:
    text = "film " * 100_000
    found = shared_texts(TaskData(SST2, (Example(text, 0),), (Example(text, 1),)))
    assert (found["reported_in_train"], found["two_labels"]) == (1, 1)
    assert len(json.dumps(found)) < 1000


def test_compare_tells_it_once_for_each_task(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, files = tmp_path / "model", tmp_path / "glue" / "SST-2"
    tiny_bert().save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    files.mkdir(parents=True)
    rows = [f"{a} {b}\t{i % 2}" for i, (a, b) in enumerate(itertools.product(WORDS[:6], WORDS[6:10]))]
    for name, part in (("train.tsv", rows), ("dev.tsv", [*rows[:3], "new\t1"])):
        (files / name).write_text("\n".join(["sentence\tlabel", *part]) + "\n")
    grid = Grid(("sst2",), (2,), ("lora", "bitfit"), ("vanilla",), (42, 43), (0.5,))
    context = Context(grid, tmp_path / "out", str(model), tmp_path / "glue")
    with caplog.at_level(logging.WARNING):
        context.check()
    told = [r.getMessage() for r in caplog.records if "in the train set too" in r.getMessage()]
    assert len(told) == 1
    assert "3 of 4 reported" in told[0]


def test_tune_tells_it_once_and_records_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ("is", "it", "the", "a", "of", "in", "on", "at")
    train = tuple(Example(f"film {word}", i % 2) for i, word in enumerate(words))
    data = TaskData(SST2, train, train[:2])
    settings = TuneSettings(shots=2, max_steps=1, eval_every=1)
    with caplog.at_level(logging.WARNING):
        result = tune(tiny_bert(), tiny_tokenizer(), data, settings, tmp_path / "run", progress=False)
        assert tune(
            tiny_bert(), tiny_tokenizer(), data, settings, tmp_path / "run", progress=False
        ) == json.loads(json.dumps(result))
    told = [r.getMessage() for r in caplog.records if "in the train set too" in r.getMessage()]
    assert len(told) == 1
    assert "2 of 2 reported" in told[0]
    assert result["shared_texts"] == shared_texts(data)
    assert result["shared_texts"]["reported_in_train"] == 2


def test_case_and_spaces_make_no_other_text() -> None:
    train = (*TRAIN, Example("Film  1", 0))
    found = shared_texts(TaskData(SST2, train, (Example("FILM 2", 0), Example("new", 0))))
    assert (found["reported_in_train"], found["two_labels"]) == (1, 1)
    assert found["examples"] == {"reported_in_train": "FILM 2", "two_labels": "film 1"}
