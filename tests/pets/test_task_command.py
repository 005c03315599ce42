"""``bridge-pets task new`` and ``show``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import own_tasks
import pytest

from pets import tasks
from pets.cli import main
from pets.commands.options import asked

Run = Callable[..., list[str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call the command line in ``tmp_path``; gives the lines of its output."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> list[str]:
        capsys.readouterr()
        main(["task", *args])
        return capsys.readouterr().out.splitlines()

    return call


def test_a_first_file_is_written_and_shown(tmp_path: Path, run: Run) -> None:
    own_tasks.text_csv(tmp_path)
    assert run("new", "reviews.csv") == []
    assert run("show", "task.toml") == [
        "task: reviews",
        "kind: classes",
        "source: reviews.csv",
        "columns: text",
        r"template: '{text}\nlabel: {answer}'",
        "metric: accuracy",
        "examples: 54 train, 18 reported",
        "class negative: negative (27 train, 9 reported)",
        "class positive: positive (27 train, 9 reported)",
        "texts in both: 0 reported examples have a text that is trained on",
        "texts with two labels: 0",
        "example 1:",
        "    the film was bad and red",
        "    label: [negative]",
        "example 2:",
        "    the film was good and red",
        "    label: [positive]",
        "example 3:",
        "    the film was poor and red",
        "    label: [negative]",
    ]
    assert run("new", "reviews.csv", "--out", "other.toml") == []
    assert {path.name for path in tmp_path.iterdir()} == {"reviews.csv", "task.toml", "other.toml"}


def test_another_template_and_other_words_are_shown(tmp_path: Path, run: Run) -> None:
    own_tasks.task_toml(tmp_path)
    shown = run(
        "show", "film.toml", "--template", "{text} Was it {mask}?", "--label-words", "no", "yes,sure"
    )
    assert "class 1: yes, sure (26 train, 10 reported)" in shown
    assert "    the film was good and red Was it [yes]?" in shown
    chat = run("show", "film.toml", "--chat", "--label-words", "no,yes")
    assert "chat: asked as a user" in chat
    assert "    the film was good and red It was [yes]." in chat


def test_a_chat_without_a_template_is_of_the_columns_that_are_there(tmp_path: Path, run: Run) -> None:
    rows = [{"body": row["text"], "label": row["label"]} for row in own_tasks.rows()]
    own_tasks.write_csv(tmp_path / "mails.csv", rows)
    shown = run("show", "mails.csv", "--chat")
    assert {"columns: body", "chat: asked as a user"} <= set(shown)
    # What tune and compare ask is the same.
    for given in ("mails.csv", "sst2"):
        chosen = asked(tasks.parse(given), None, True, ())
        assert chosen.chat
        assert (chosen.template is None) == (given == "mails.csv")


def test_choices_and_answers_are_shown(tmp_path: Path, run: Run) -> None:
    own_tasks.choice_jsonl(tmp_path)
    shown = run("show", "choices.jsonl")
    example = shown[shown.index("example 1:") :][:5]
    assert example[1:3] == ["    the film was bad and red", "    answer: [bad]"]
    assert sorted(example[3:]) == ["    choice: bad", "    choice: good"]
    own_tasks.generation_jsonl(tmp_path)
    shown = run("show", "questions.jsonl")
    assert "    answer: [film]" in shown
    assert "metric: exact_match" in shown


def test_what_is_left_out_and_what_is_there_twice(tmp_path: Path, run: Run) -> None:
    rows = own_tasks.rows()
    rows[0]["label"], rows[1]["text"] = "", " "
    rows += [{"text": rows[4]["text"], "label": "positive"}]
    own_tasks.write_csv(tmp_path / "a.csv", rows[:50])
    own_tasks.write_csv(tmp_path / "b.csv", rows[48:])
    (tmp_path / "t.toml").write_text("[splits]\ntrain = 'a.csv'\nreported = 'b.csv'\n")
    shown = run("show", "t.toml")
    assert "left out: label missing, 1 of the rows" in shown
    assert "left out: text empty, 1 of the rows" in shown
    assert any(line.startswith("left out: train rows whose text is reported too, ") for line in shown)
    assert "texts in both: 0 reported examples have a text that is trained on" in shown


def test_a_task_of_glue_is_shown(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "SST-2"
    folder.mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (folder / name).write_text(f"sentence\tlabel\na film in {name}\t1\nbad\t0\n")
    shown = run("show", "sst2", "--data", ".")
    assert shown[:2] == ["task: sst2", "kind: classes"]
    assert "template: the published layout" in shown
    assert shown[shown.index("example 1:") :][1:3] == ["    a film in train.tsv", "    [positive]"]
