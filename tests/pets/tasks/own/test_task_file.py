"""Task files: what they say is what is loaded; what they cannot say is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import own_tasks
import pytest
import yaml

from bridges.errors import BadInput
from pets import tasks
from pets.tasks import OwnSettings
from pets.tasks.own.task_file import read_task, write_first

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_toml_and_yaml_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml = own_tasks.task_toml(tmp_path)
    said = tomllib.loads(toml.read_text())
    said["words"] = {int(key): value for key, value in said["words"].items()}
    other = tmp_path / "film.yaml"
    other.write_text(yaml.safe_dump(said))
    task = tasks.parse(str(toml))
    assert tasks.parse(str(other)) == task
    assert (task.name, task.metric, task.template) == ("films", "f1_macro", "{text} It was {mask}.")
    monkeypatch.chdir("/")  # places are seen from the task file
    data = task.load()
    assert (len(data.train), len(data.reported)) == (52, 20)
    assert data.task.verbalizer == {"0": ["bad"], "1": ["good", "fine"]}


def test_a_source_beside_the_file_or_on_the_hub(tmp_path: Path) -> None:
    saved = own_tasks.saved_folder(tmp_path)
    path = tmp_path / "t.toml"
    path.write_text(f'source = "{saved.name}"\n[splits]\ntrain = "validation"\nseed = 3\nshare = 0.5')
    settings = read_task(path).settings
    assert (settings.source, settings.train) == (str(saved), "validation")
    assert (settings.name, settings.seed, settings.share) == ("t", 3, 0.5)
    path.write_text('source = "owner/name:small"')
    assert read_task(path).settings.source == "owner/name:small"


def test_true_and_false_are_classes_of_yaml(tmp_path: Path) -> None:
    own_tasks.pair_jsonl(tmp_path)
    path = tmp_path / "t.yml"
    path.write_text("source: pairs.jsonl\nlabel: same\nwords: {true: 'yes', false: 'no'}\n")
    assert read_task(path).load().task.words == ("no", "yes")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.toml", "source = ", r"t\.toml is no TOML: "),
        ("t.yaml", "a: [1", r"t\.yaml is no YAML: "),
        ("t.yaml", "- a\n- b\n", "says nothing: expected keys"),
        ("t.toml", "", "says nothing: expected keys"),
        (
            "t.toml",
            'source = "a.csv"\nlabels = "x"',
            r"t\.toml: unknown key 'labels'; did you mean 'label'",
        ),
        ("t.toml", 'source = "a.csv"\nsplits = 3', "splits 3: expected some of train, reported"),
        ("t.toml", 'source = "a.csv"\n[splits]\ntest = "b"', "unknown key 'test'"),
        ("t.toml", 'source = ["a.csv"]', r"source \['a\.csv'\]: expected a text"),
        ("t.toml", 'source = "a.csv"\nanswers = []', r"answers \[\]: expected the name of a column"),
        ("t.toml", 'source = "a.csv"\nwords = ["a"]', r"words \['a'\]: expected a word for each class"),
        ("t.toml", 'source = "a.csv"\nwords = {0 = 1}', "words of '0': 1; expected a word in quotes"),
        ("t.toml", 'source = "a.csv"\nwords = {0 = []}', r"words of '0': \[\]; expected a word"),
        ("t.toml", 'source = "nothing"', "'nothing' is no file or folder beside the task file"),
        ("t.toml", 'name = "x"', "says of no table where it is"),
    ],
)
def test_what_a_file_cannot_say(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=message) as caught:
        read_task(tmp_path / name)
    assert name in str(caught.value)


def test_a_file_that_is_not_there_or_not_utf_8(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"t\.toml cannot be read: No such file"):
        tasks.parse(str(tmp_path / "t.toml"))
    (tmp_path / "t.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(BadInput, match=r"t\.toml is not UTF-8 at byte 8"):
        tasks.parse(str(tmp_path / "t.toml"))


@pytest.mark.parametrize(
    "build",
    [
        own_tasks.text_csv,
        own_tasks.pair_jsonl,
        own_tasks.choice_jsonl,
        own_tasks.generation_jsonl,
        own_tasks.saved_folder,
        own_tasks.label_parquet,
    ],
)
def test_the_first_file_says_what_is_guessed_without_it(tmp_path: Path, build: Any) -> None:
    source = build(tmp_path)
    (tmp_path / "tasks").mkdir()
    path = tmp_path / "tasks" / "first.toml"
    settings = write_first(str(source), path).settings
    task = tasks.parse(str(path))
    assert task.settings.source == str(tmp_path / "tasks" / ".." / source.name)
    said = {**vars(task.settings), "source": None, "words": {}, "metric": None}
    assert said == {**vars(settings), "source": None}
    alone = tasks.parse(str(source))
    if build is own_tasks.pair_jsonl:
        alone = alone.with_words(["false", "true"])
    data, other = task.load(), alone.load()
    assert (data.task.labels, data.train) == (other.task.labels, other.train)
    assert data.reported == other.reported
    assert [p.name for p in path.parent.iterdir()] == ["first.toml"]


def test_names_of_all_kinds_are_quoted(tmp_path: Path) -> None:
    name = 'a "b" \\ c\té'
    rows = [{**row, name: row["text"]} for row in own_tasks.rows()]
    for row in rows:
        del row["text"]
    own_tasks.write_csv(tmp_path / "odd 'name'.csv", rows)
    write_first(str(tmp_path / "odd 'name'.csv"), tmp_path / "t.toml")
    data = tasks.parse(str(tmp_path / "t.toml")).load()
    assert data.train[0].fields == ((name, rows[0][name]),)


# What columns may mean


def guessed(tmp_path: Path, *rows: dict[str, Any]) -> OwnSettings:
    source = own_tasks.write_jsonl(tmp_path / "a.jsonl", rows)
    return write_first(str(source), tmp_path / "a.toml").settings


def test_a_column_with_few_short_values_is_the_label(tmp_path: Path) -> None:
    rows = [
        {"idx": k, "said": f"text {k} of them all", "mood": "so" if k % 3 else "bad"} for k in range(12)
    ]
    settings = guessed(tmp_path, *rows)
    assert (settings.kind, settings.label) == ("classes", "mood")
    assert settings.template == "{said}\nmood: {answer}"


@pytest.mark.parametrize(
    ("rows", "doubt"),
    [
        (
            [{"said": f"text {k}", "mood": k % 2, "tone": k % 3} for k in range(12)],
            "no name says which column has the labels: it may be one of 'mood', 'tone'",
        ),
        (
            [{"a": f"x {k}", "b": f"y {k}", "c": f"z {k}", "label": "no"} for k in range(12)],
            "there are texts in a, b, c",
        ),
        (
            [{"q": f"x {k}", "answer": f"y {k}", "label": ["no", "yes"][k % 2]} for k in range(12)],
            "the columns 'answer' cannot stand in a template",
        ),
        (
            [{"a": f"x {k}", "b": f"y {k}"} for k in range(12)],
            "no name says which column has the labels",
        ),
        (
            [{"a film": f"x {k}", "1": k % 2} for k in range(12)],
            "the label column is called '1' as labels in it are",
        ),
    ],
)
def test_what_is_in_doubt_is_written_down_and_refused_without_a_file(
    tmp_path: Path, rows: list[dict[str, Any]], doubt: str
) -> None:
    guessed(tmp_path, *rows)
    assert f"# In doubt: {doubt}" in (tmp_path / "a.toml").read_text()
    with pytest.raises(
        BadInput, match=r"what its columns mean is not plain: .*bridge-pets task new FILE"
    ):
        tasks.parse(str(tmp_path / "a.jsonl")).load()


@pytest.mark.parametrize(
    ("names", "label", "right"),
    [
        (("choice1", "choice2"), "label", 1),
        (("A", "B", "C"), "answer", "B"),
        (("option_a", "option_b", "option_c"), "correct", "text 3 of b"),
    ],
)
def test_choices_may_stand_in_a_column_each(
    names: tuple[str, ...], label: str, right: Any, tmp_path: Path
) -> None:
    each = [{n: f"text {k} of {n[-1].lower()}" for n in names} for k in range(8)]
    rows = [{"ask": f"which {k}?", **some, label: right} for k, some in enumerate(each)]
    if isinstance(right, str) and len(right) > 1:
        for k, row in enumerate(rows):
            row[label] = f"text {k} of b"
    settings = guessed(tmp_path, *rows)
    assert (settings.kind, settings.choices, settings.label) == ("choice", names, label)
    assert settings.template == "{ask}\nanswer: {answer}"
    assert {example.label for example in tasks.parse(str(tmp_path / "a.toml")).load().train} == {1}
    for k, row in enumerate(rows):  # what tells none of them is no answer among choices
        row[label] = ["left", "right"][k % 2]
    (tmp_path / "a.toml").unlink()
    assert guessed(tmp_path, *rows).kind == "classes"


def test_a_class_that_may_mean_no_label_is_marked(tmp_path: Path) -> None:
    rows = [{"text": f"text {k}", "label": ["no", "yes", "n/a"][k % 3]} for k in range(12)]
    guessed(tmp_path, *rows)
    lines = (tmp_path / "a.toml").read_text().split("\n")
    (marked,) = (line for line in lines if "empty these cells" in line)
    assert marked.startswith('"n/a" = "n/a"  # ')


@pytest.mark.parametrize(
    ("names", "said", "reported"),
    [
        (("train", "validation", "test"), "# ", "validation"),  # whose test has no labels
        (("train", "unlabelled", "eval"), "# ", "eval"),
        (("training", "test", "testing"), "", "testing"),
    ],
)
def test_the_split_to_report_has_labels(
    names: tuple[str, ...], said: str, reported: str, tmp_path: Path
) -> None:
    import datasets

    none = {name: name in ("test", "unlabelled") for name in names}
    made = {
        name: datasets.Dataset.from_list(
            [{"text": f"{name} {k}", "label": -1 if none[name] else k % 2} for k in range(8)]
        )
        for name in names
    }
    datasets.DatasetDict(made).save_to_disk(tmp_path / "saved")
    write_first(str(tmp_path / "saved"), tmp_path / "t.toml")
    lines = (tmp_path / "t.toml").read_text().split("\n")
    assert f'{said}reported = "{reported}"  # scored once' in lines
    assert f'{said}train = "{names[0]}"' in lines


def test_a_column_of_objects_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="bring what is in 'review' into columns of its own"):
        guessed(tmp_path, *({"review": {"body": f"x {k}"}, "label": k % 2} for k in range(8)))


def test_nothing_is_replaced(tmp_path: Path) -> None:
    source = str(own_tasks.text_csv(tmp_path))
    path = tmp_path / "t.toml"
    path.write_text("mine")
    with pytest.raises(BadInput, match=r"t\.toml is there already: name another file with --out"):
        write_first(source, path)
    assert path.read_text() == "mine"
    with pytest.raises(BadInput, match=r"expected a name that ends in .toml"):
        write_first(source, tmp_path / "t.txt")
    with pytest.raises(BadInput, match="no column with texts is left to ask with"):
        guessed(tmp_path, {"label": "a", "n": 1}, {"label": "b", "n": 2})
    assert not (tmp_path / "a.toml").exists()
