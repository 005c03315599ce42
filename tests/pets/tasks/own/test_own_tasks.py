"""Own tasks: classes, choices and answers in words, what is left out, what is set aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import own_tasks
import pytest

from bridges.errors import BadInput
from pets import tasks
from pets.tasks import OwnSettings, OwnTask, TaskData
from pets.tasks.base import same_text


def load(path: Path, rows: list[dict[str, Any]], **settings: Any) -> TaskData:
    """A task of these rows; of a template they have a column "text"."""
    source = own_tasks.write_jsonl(path / "rows.jsonl", rows)
    told = {"kind": "classes", "template": "{text} is {mask}", "label": "label", **settings}
    told = {key: value for key, value in told.items() if value is not None}
    return OwnTask(OwnSettings("mine", str(source), **told)).load()


def labelled(*labels: Any) -> list[dict[str, Any]]:
    """Eight texts for each of the labels."""
    return [
        {"text": f"text {k} {i}", "label": label} for i in range(8) for k, label in enumerate(labels)
    ]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ((10, 9, 2), ["2", "9", "10"]),
        ((1.0, 0.0), ["0", "1"]),
        (("1.0", "0", "10"), ["0", "1", "10"]),
        ((True, False), ["false", "true"]),
        (("no", " yes ", "maybe"), ["maybe", "no", "yes"]),
        ((-5, 3), ["-5", "3"]),
        (("10", "9", "x"), ["10", "9", "x"]),
        (("0.5", "1.5"), ["0.5", "1.5"]),
        (("10.5", "9.5"), ["9.5", "10.5"]),
    ],
)
def test_classes_are_in_the_order_of_numbers_or_of_the_alphabet(
    tmp_path: Path, labels: tuple[Any, ...], names: list[str]
) -> None:
    data = load(tmp_path, labelled(*labels), words={name: f"word{k}" for k, name in enumerate(names)})
    assert [label.name for label in data.task.labels] == names
    assert data.task.words == tuple(f"word{k}" for k in range(len(names)))
    first = next(example for example in data.train if example.text.startswith("text 0 "))
    written = str(labels[0]).lower().strip()
    assert data.task.labels[first.label].name in (written, written.removesuffix(".0"))


def test_a_class_label_has_its_own_order_and_names(tmp_path: Path) -> None:
    data = tasks.parse(str(own_tasks.label_parquet(tmp_path))).load()
    assert data.task.words == ("positive", "negative")
    for example in (*data.train, *data.reported):
        told = own_tasks.TELLING[1 - example.label]
        assert set(told) & set(example.text.split())


def test_a_class_without_rows_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["bad", "unknown", "good"])
    )
    columns = {"text": [f"text {k}" for k in range(20)], "label": [2 * (k % 2) for k in range(20)]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "saved"))
    data = tasks.parse(str(tmp_path / "saved")).load()
    assert data.task.words == ("bad", "good")
    assert {example.text[-1] in "13579" for example in data.train if example.label == 1} == {True}
    assert "no rows have the labels 'unknown'" in caplog.text


def test_labels_that_look_alike_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(tmp_path, labelled("Good", "good ", "good.", "not_bad", "Not  bad", "bad"))
    (message,) = [m for m in caplog.messages if "'good'" in m]
    assert "'Good' (8 rows), 'good' (8 rows), 'good.' (8 rows) are classes of their own" in message
    assert any("'Not  bad' (8 rows), 'not_bad' (8 rows)" in m for m in caplog.messages)
    caplog.clear()
    load(tmp_path, labelled("C", "C++", "A-", "A", "-x", "x"))
    load(tmp_path, labelled("-2", "2"), words={"2": "a", "-2": "b"})
    assert not caplog.messages


def test_a_table_without_names_is_told_of(tmp_path: Path) -> None:
    rows = "".join(
        f"{k},text {k},{('phone', 'mail')[k % 2]},{('a b', 'c d')[k % 2]}\n" for k in range(20)
    )
    (tmp_path / "a.csv").write_text(rows)
    with pytest.raises(
        BadInput, match=r"may be one of 'phone', 'a b'; the first row looks like the others"
    ):
        tasks.parse(str(tmp_path / "a.csv")).load()


def test_words_of_a_task_file_are_of_one_class_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        BadInput, match=r"the word 'x' stands for the classes 'a' and 'b': give each its own"
    ):
        load(tmp_path, labelled("a", "b"), words={"a": "x", "b": "x"})
    load(tmp_path, labelled("a", "b"), words={"a": "b", "b": "c"})
    (message,) = caplog.messages
    assert "the word 'b' stands for the class 'a', and there is a class 'b'" in message


def test_all_rows_with_a_label_that_is_unknown_are_named(tmp_path: Path) -> None:
    for name, labels in (("a", "0110" * 5), ("b", "01x0yx1")):
        rows = "".join(f"text {k},c{label}\n" for k, label in enumerate(labels))
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{rows}")
    (tmp_path / "t.toml").write_text('[splits]\ntrain = "a.csv"\nreported = "b.csv"\n')
    with pytest.raises(
        BadInput, match=r"b.csv, row 4: label 'cx' .*'c0', 'c1'. 2 more rows are so: 6, 7$"
    ):
        tasks.parse(str(tmp_path / "t.toml")).load()


def test_rows_without_label_or_text_are_left_out_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = [
        {"text": "a", "label": -1},
        {"text": "b", "label": -1},
        {"text": "c", "label": None},
        {"text": " ", "label": 1},
        {"text": None, "label": 0},
    ]
    data = load(tmp_path, labelled(0, 1) + more, words={"0": "bad", "1": "good"})
    assert data.left_out == {"label -1": 2, "label missing": 1, "text empty": 2}
    assert len(data.train) + len(data.reported) == 16
    assert caplog.messages == [
        "task mine: rows that are left out: label -1 (2), text empty (2), label missing (1)"
    ]


def test_minus_one_is_a_class_where_words_or_texts_say_so(tmp_path: Path) -> None:
    data = load(tmp_path, labelled(-1, 1), words={"-1": "bad", "1": "good"})
    assert (data.task.words, data.left_out) == (("bad", "good"), {})
    data = load(tmp_path, labelled("-1", "x"), words={"-1": "bad"})
    assert (data.task.words, data.left_out) == (("bad", "x"), {})
    with pytest.raises(BadInput, match=r"only the label '1', .* -1 is read as 'no label' unless words"):
        load(tmp_path, labelled(-1, 1))


@pytest.mark.parametrize("words", [("bad", "so", "good"), ("bad,so,good",)])
def test_minus_one_is_a_class_where_words_are_as_many_as_with_it(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    path = own_tasks.write_jsonl(tmp_path / "mine.jsonl", labelled(-1, 0, 1))
    task = OwnTask(OwnSettings("mine", str(path), template="{text} {mask}", label="label"))
    data = task.with_words(words).load()
    assert [(label.name, label.word) for label in data.task.labels] == [
        ("-1", "bad"),
        ("0", "so"),
        ("1", "good"),
    ]
    assert data.left_out == {}
    of_two = task.with_words(("bad", "good")).load()
    assert [label.name for label in of_two.task.labels] == ["0", "1"]
    assert of_two.left_out["label -1"] > 0


def test_words_are_named_counted_or_the_classes_own(tmp_path: Path) -> None:
    data = load(tmp_path, labelled("no", "not_yes"), words={"not_yes": "yes,sure"})
    assert data.task.verbalizer == {"no": ["no"], "not_yes": ["yes", "sure"]}
    task = OwnTask(OwnSettings("mine", str(tmp_path / "rows.jsonl"), template="{text} {mask}"))
    for words in (["bad", "good,fine"], ["bad,good"]):
        later = task.with_words(words)
        assert later != task
        assert later.identity != task.identity
        assert later.load().task.words[0] == "bad"
    with pytest.raises(BadInput, match="needs 2 words, in the class order no, not_yes"):
        task.with_words(["a", "b", "c"]).load()
    assert task.load().task.words == ("no", "not yes")  # a class's name, written as words
    for name in ("1st, 2nd", "3"):
        with pytest.raises(BadInput, match=rf"'{name}' is no word .*, in this order"):
            load(tmp_path, labelled("no", name))


def test_white_space_around_is_removed_and_nothing_else(tmp_path: Path) -> None:
    rows = [{"text": f"\n A  b\t{k} ", "label": k % 2} for k in range(8)]
    data = load(tmp_path, rows, words={"0": "a", "1": "b"})
    assert {e.text for e in (*data.train, *data.reported)} == {f"A  b\t{k}" for k in range(8)}


def test_a_pair_has_fields_in_the_template_s_order(tmp_path: Path) -> None:
    source = own_tasks.pair_jsonl(tmp_path)
    task = OwnTask(OwnSettings("pairs", str(source), template="{second}? {mask}, {first}"))
    data = task.with_words(["no", "yes"]).load()
    first = data.train[0]
    assert [name for name, _ in first.fields] == ["second", "first"]
    assert first.text == " ".join(text for _, text in first.fields)
    told = [
        next(k for k in (0, 1) if set(own_tasks.TELLING[k]) & set(t.split())) for _, t in first.fields
    ]
    assert first.label == (told[0] == told[1])


# Choices

ANSWERED = [("cat", "dog"), ("sun", "moon"), ("red", "blue"), ("day", "night")]


@pytest.mark.parametrize(
    "answer",
    [
        lambda pair, k: k,
        lambda pair, k: str(k),
        lambda pair, k: float(k),
        lambda pair, k: "AB"[k],
        lambda pair, k: "ab"[k],
        lambda pair, k: pair[k],
        lambda pair, k: f" {pair[k]} ",
    ],
)
def test_the_right_choice_by_place_letter_or_text(
    tmp_path: Path, answer: Callable[[tuple[str, str], int], Any]
) -> None:
    rows = [
        {
            "text": f"text {k}",
            "label": answer(pair, k % 2),
            "choices": pair,
            "one": pair[0],
            "two": pair[1],
        }
        for k, pair in enumerate(ANSWERED)
    ]
    for choices in (("choices",), ("one", "two")):
        data = load(tmp_path, rows, kind="choice", choices=choices)
        found = {example.fields[0][1]: example for example in (*data.train, *data.reported)}
        for k, pair in enumerate(ANSWERED):
            example = found[f"text {k}"]
            assert (example.choices, example.label) == (pair, k % 2)
        assert (data.task.metric, data.task.labels, data.task.strata) == ("accuracy", (), ("all",))


def test_choices_that_are_numbers_are_meant_by_their_text(tmp_path: Path) -> None:
    rows = [{"text": f"text {k}", "label": "1", "choices": ["0", "2", "1"]} for k in range(4)]
    data = load(tmp_path, rows, kind="choice", choices=("choices",))
    assert {example.label for example in data.train} == {2}


@pytest.mark.parametrize(
    ("choices", "answer", "right"),
    [
        (["1.0", "0.0"], "1.0", 0),
        ([2.0, 0.0, 1.0], 1.0, 2),
        ([2, 0, 1], 1, 2),
        (["+1", "-1"], "+1", 0),
        (["-1", "1"], "-1", 0),
        (["2.0", "1"], "2", 0),
        (["10", "01", "1"], "01", 1),
        (["2", "0", "1"], 1, 1),  # a number beside texts is a place
    ],
)
def test_the_right_choice_among_numbers(
    tmp_path: Path, choices: list[Any], answer: Any, right: int
) -> None:
    rows = [{"text": f"text {k}", "label": answer, "choices": choices} for k in range(4)]
    for named in (("choices",), tuple("abc"[: len(choices)])):
        flat = [{**row, **dict(zip("abc", choices, strict=False))} for row in rows]
        data = load(tmp_path, flat, kind="choice", choices=named)
        assert {example.label for example in (*data.train, *data.reported)} == {right}


def test_choices_that_are_read_in_one_of_two_ways_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for choices in (["0", "1"], ["1", "0"], ["B", "A"]):
        answer = "A" if "A" in choices else "1"
        rows = [{"text": f"text {k}", "label": answer, "choices": choices} for k in range(4)]
        load(tmp_path, rows, kind="choice", choices=("choices",))
    told = [record.getMessage() for record in caplog.records]
    assert [("'1', which is read as the text" in t, "not as its letter" in t) for t in told] == [
        (True, False),
        (False, True),
    ]


def test_choices_as_in_arc(tmp_path: Path) -> None:
    rows = [
        {"text": "q 0", "label": "B", "choices": {"text": ["B", "x"], "label": ["A", "B"]}},
        {"text": "q 1", "label": "1", "choices": {"text": ["u", "v"], "label": ["1", "2"]}},
        {"text": "q 2", "label": "", "choices": {"text": ["u", "v"], "label": ["1", "2"]}},
        {"text": "q 3", "label": "1", "choices": {"text": ["u", " "], "label": ["1", "2"]}},
    ]
    data = load(tmp_path, rows, kind="choice", choices=("choices",))
    found = {example.fields[0][1]: example for example in (*data.train, *data.reported)}
    assert {name: example.label for name, example in found.items()} == {"q 0": 1, "q 1": 0}
    assert data.left_out == {"label missing": 1, "choices empty": 1}


def test_the_same_question_with_other_choices_is_another_example(tmp_path: Path) -> None:
    rows = [{"text": "which?", "label": 0, "choices": pair} for pair in ANSWERED]
    data = load(tmp_path, rows, kind="choice", choices=("choices",))
    assert (len(data.train), len(data.reported)) == (3, 1)
    assert data.apart == data


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": ["a", "b", "c"]}, "row 3: 3 choices in choices, expected 2 as in the first row"),
        ({"label": 2}, "row 3: column 'label' says '2', which is none of the 2 choices"),
        ({"label": "C"}, "row 3: column 'label' says 'C'"),
        ({"choices": [["a"], ["b"]]}, "row 3: column 'choices' holds a list"),
    ],
)
def test_a_row_with_wrong_choices_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    rows = [{"text": f"text {k}", "label": k % 2, "choices": ["a", "b"]} for k in range(2)]
    rows.append({**rows[0], **row})
    with pytest.raises(BadInput, match=message):
        load(tmp_path, rows, kind="choice", choices=("choices",))


# Answers in words


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (" a cat ", ("a cat",)),
        (["cat", " cat", "dog", ""], ("cat", "dog")),
        ({"text": ["cat", "dog"], "answer_start": [0, 5]}, ("cat", "dog")),
        (42, ("42",)),
    ],
)
def test_accepted_answers(tmp_path: Path, answer: Any, expected: tuple[str, ...]) -> None:
    rows = [{"text": f"text {k}", "reply": answer} for k in range(4)]
    empty = {str: "", list: [], dict: {"text": [], "answer_start": []}}.get(type(answer))
    rows.append({"text": "text 5", "reply": empty})
    data = load(tmp_path, rows, kind="generation", answers=("reply",), label=None)
    assert {example.answers for example in (*data.train, *data.reported)} == {expected}
    assert (data.left_out, data.task.metric) == ({"reply missing": 1}, "exact_match")


def test_answers_of_several_columns(tmp_path: Path) -> None:
    rows = [{"text": f"text {k}", "a": "cat", "b": ["dog"]} for k in range(4)]
    data = load(tmp_path, rows, kind="generation", answers=("a", "b"), label=None)
    assert data.train[0].answers == ("cat", "dog")


# Splits


def test_a_share_of_each_class_is_set_aside_where_no_split_is_given(tmp_path: Path) -> None:
    source = str(own_tasks.text_csv(tmp_path))
    data = tasks.parse(source).load()
    assert Counter(example.label for example in data.train) == {0: 27, 1: 27}
    assert Counter(example.label for example in data.reported) == {0: 9, 1: 9}
    assert data.apart == data
    assert tasks.parse(source).load() == data
    other = OwnTask(OwnSettings("reviews", source, seed=1)).load()
    assert other.reported != data.reported
    assert len(OwnTask(OwnSettings("reviews", source, share=0.5)).load().reported) == 36


def test_given_splits_and_a_test_whose_labels_others_keep(tmp_path: Path) -> None:
    saved = own_tasks.saved_folder(tmp_path)
    data = tasks.parse(str(saved)).load()
    assert (len(data.train), len(data.reported)) == (48, 12)
    assert data.left_out == {}
    texts = {example.text for example in data.reported}
    assert texts == {row["text"] for row in own_tasks.rows()[48:60]}
    swapped = OwnTask(OwnSettings("s", str(saved), train="validation", reported="train")).load()
    assert (swapped.train, swapped.reported) == (data.reported, data.train)
    with pytest.raises(BadInput, match="no example: all rows are left out, label -1"):
        OwnTask(OwnSettings("s", str(saved), reported="test")).load()
    with pytest.raises(
        BadInput, match=r"there is no split 'dev': .* has the splits 'validation', 'test'"
    ):
        OwnTask(OwnSettings("s", str(saved), reported="dev")).load()


def test_a_test_with_labels_is_reported_rather_than_the_validation(tmp_path: Path) -> None:
    rows = {"text": ["a", "b"], "label": ["no", "yes"]}
    splits = {
        name: datasets.Dataset.from_dict({**rows, "text": [f"{name} {t}" for t in rows["text"]]})
        for name in ("train", "validation", "test")
    }
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    task = OwnTask(OwnSettings("s", str(tmp_path / "saved"), "classes", "{text} {mask}", label="label"))
    assert [example.text for example in task.load().reported] == ["test a", "test b"]


def test_a_label_that_train_does_not_have_is_named(tmp_path: Path) -> None:
    train = own_tasks.write_jsonl(tmp_path / "train.jsonl", labelled("no", "yes"))
    scored = own_tasks.write_jsonl(tmp_path / "scored.jsonl", labelled("no", "maybe"))
    task = OwnTask(OwnSettings("s", train=str(train), reported=str(scored)))
    with pytest.raises(
        BadInput, match=r"scored\.jsonl, row 2: label 'maybe' is not one of .* 'no', 'yes'"
    ):
        task.load()


def test_texts_that_differ_in_case_and_spaces_alone_are_the_same() -> None:
    assert same_text(" A  straße\n") == same_text("a STRASSE")
    train = (tasks.Example("A  film", 0), tasks.Example("b", 1))
    data = TaskData(tasks.get("sst2"), train, (tasks.Example("a FILM", 0),))
    assert data.apart.train == train[1:]


# What there is too much or too little of


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((0.25, 0.5, 3), r"holds numbers such as .* which are no classes: put them into classes"),
        (tuple(f"label {k}" for k in range(101)), "has 101 different labels, .* at most 100 classes"),
        (("same",), "only the label 'same', expected at least 2 classes"),
        ((None,), "has no labels, expected at least 2 classes"),
        (([1],), r"row 1: column 'label' holds \[1\], expected a label"),
    ],
)
def test_what_are_no_classes(tmp_path: Path, labels: tuple[Any, ...], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load(tmp_path, labelled(*labels))


@pytest.mark.parametrize("cell", [["a"], {"a": 1}])
def test_a_nested_cell_is_no_text(tmp_path: Path, cell: Any) -> None:
    rows = [{**row, "text": cell} for row in labelled("no", "yes")]
    with pytest.raises(
        BadInput, match=r"row 1: column 'text' holds (a list|an object), .* expected a text"
    ):
        load(tmp_path, rows)


def test_a_template_names_columns_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no column 'txt'; there are 'text', 'label'"):
        load(tmp_path, labelled("no", "yes"), template="{txt} is {mask}")
    with pytest.raises(BadInput, match=r"rows.jsonl has no column 'lab'; there are 'text', 'label'"):
        load(tmp_path, labelled("no", "yes"), label="lab")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "sentiment"}, "unknown kind 'sentiment'"),
        ({"kind": "choice", "metric": "f1"}, "unknown metric of the kind 'choice' 'f1'"),
        ({"kind": "generation", "label": "label"}, "of kind 'generation', which has no label"),
        ({"kind": "choice", "words": {"0": "a"}}, "of kind 'choice', which has no words"),
        ({"share": 1.0}, "share 1.0 is out of range"),
        ({"seed": -1}, "seed=-1: expected a whole number"),
        ({"chat": "yes"}, "chat='yes': expected True or False"),
        ({"template": "{text}"}, "no place for the answer"),
        ({"source": None}, "says of no table where it is"),
        ({"train": "a.csv", "reported": "a.csv"}, "'a.csv' is both trained on and reported"),
        ({"name": " "}, "task name ' ': expected"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        OwnSettings(**{"name": "mine", "source": "a.csv", **settings})


# Answers in words


def test_how_long_an_answer_may_be_is_said_and_is_part_of_what_a_run_is(tmp_path: Path) -> None:
    source = own_tasks.generation_jsonl(tmp_path)
    (tmp_path / "t.toml").write_text(
        f'kind = "generation"\nsource = "{source.name}"\nanswers = "answers"\n'
        'template = "{question} {answer}"\nanswer_tokens = 5\n'
    )
    task = tasks.parse(str(tmp_path / "t.toml"))
    assert task.answer_tokens == task.load().task.answer_tokens == 5
    assert task.identity["answer_tokens"] == 5
    text = (tmp_path / "t.toml").read_text()
    (tmp_path / "t.toml").write_text(text.replace("= 5", "= 0"))
    with pytest.raises(BadInput, match="answer_tokens=0"):
        tasks.parse(str(tmp_path / "t.toml"))
