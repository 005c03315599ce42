"""Reading tsv files and the hub: exact round trips, and every refusal by its message."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared_files import needs_shared, shared

from bridges.errors import BadInput
from pets import tasks
from pets.tasks.base import Example
from pets.tasks.data import GlueTask
from pets.tasks.protocol import OURS, PUBLISHED

SST2 = "sentence\tlabel\n"
QQP = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"


def write(folder: Path, task: str, train: str | bytes, reported: str | bytes | None = None) -> Path:
    """A task's two files; the reported one repeats the train one unless it is given."""
    files = folder / tasks.get(task).folder
    files.mkdir(parents=True, exist_ok=True)
    for name, content in (
        (tasks.get(task).train_file, train),
        (tasks.get(task).reported_file, train if reported is None else reported),
    ):
        (files / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return files


# Everything a tsv field can hold: tabs and "\n" separate; a "\r" before "\n" ends a line.
nasty = st.text(
    st.one_of(
        st.sampled_from("\"'\r\x0b\x0c\x1c\x85\u2028\u2029\u200b\ufeff,\\ "),
        st.characters(codec="utf-8", exclude_characters="\t\n"),
    ),
    min_size=1,
).filter(str.strip)
rows_of_pairs = st.lists(st.tuples(nasty, nasty, st.integers(0, 1)), min_size=1, max_size=8)


@given(
    rows=rows_of_pairs,
    newline=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
    ended=st.booleans(),
)
def test_tsv_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, int]],
    newline: str,
    bom: bool,
    ended: bool,
) -> None:
    task = tasks.get("rte")
    lines = ["index\tsentence1\tsentence2\tlabel"]
    lines += [f"{i}\t{a}\t{b}\t{task.labels[k].tsv}" for i, (a, b, k) in enumerate(rows)]
    content = ("\ufeff" if bom else "") + newline.join(lines) + (newline if ended else "")
    folder = tmp_path_factory.mktemp("glue")
    write(folder, "rte", content)
    expected = tuple(Example(f"{a.strip()} {b.strip()}", k) for a, b, k in rows)
    loaded = task.load(folder)
    assert loaded.train == expected
    assert loaded.reported == expected


def test_files_directly_in_the_folder(tmp_path: Path) -> None:
    files = write(tmp_path, "sst2", SST2 + "good \t1\n", SST2 + "bad\t0\n")
    loaded = tasks.get("sst2").load(files)
    assert loaded.train == (Example("good", 1),)
    assert loaded.reported == (Example("bad", 0),)
    assert loaded == tasks.get("sst2").load(str(tmp_path))


def test_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    write(tmp_path, "mrpc", "\ufeff" + header + '1\t7\t8\tHe "said.\tSo "he.\n')
    assert tasks.get("mrpc").load(tmp_path).train == (Example('He "said. So "he.', 1),)


def test_cola_has_no_header_and_keeps_its_first_row(tmp_path: Path) -> None:
    write(tmp_path, "cola", "gj04\t1\t\tFirst.\ncj99\t0\t*\tSecond the.\n")
    loaded = tasks.get("cola").load(tmp_path)
    assert loaded.train == (Example("First.", 1), Example("Second the.", 0))


def test_mnli_reads_gold_labels_of_the_matched_dev_set(tmp_path: Path) -> None:
    train = "index\tsentence1\tsentence2\tlabel1\tgold_label\n0\tA.\tB.\tneutral\tentailment\n"
    dev = "index\tsentence1\tsentence2\tlabel1\tlabel2\tgold_label\n0\tA.\tB.\tx\ty\tneutral\n"
    files = write(tmp_path, "mnli", train, dev)
    assert (files / "dev_matched.tsv").exists()
    loaded = tasks.get("mnli").load(tmp_path)
    assert loaded.train == (Example("A. B.", 2),)
    assert loaded.reported == (Example("A. B.", 0),)


def test_a_full_stop_is_kept_beside_the_text_where_the_published_protocol_puts_one(
    tmp_path: Path,
) -> None:
    """Of the pairs of MNLI, where the first text ends with none of ``.?!``; the text stays as it is."""
    firsts = ["It is", "It is.", "Is it?", "It is!", 'He said "it is."', "well,", "..."]
    head = "index\tsentence1\tsentence2\tgold_label\n"
    rows = "".join(f"{k}\t{first}\tB\tneutral\n" for k, first in enumerate(firsts))
    write(tmp_path, "mnli", head + rows)
    loaded = tasks.get("mnli").load(tmp_path).train
    assert [example.text for example in loaded] == [f"{first} B" for first in firsts]
    stopped = ["It is. B", None, None, None, 'He said "it is.". B', "well,. B", None]
    assert [example.stopped for example in loaded] == stopped
    assert [PUBLISHED.text(example) for example in loaded] == [
        stop or example.text for stop, example in zip(stopped, loaded, strict=True)
    ]
    assert [OURS.text(example) for example in loaded] == [example.text for example in loaded]


def test_other_pairs_have_no_full_stop_put_into_them(tmp_path: Path) -> None:
    write(tmp_path, "rte", "index\tsentence1\tsentence2\tlabel\n0\tIt is\tB\tentailment\n")
    assert tasks.get("rte").load(tmp_path).train == (Example("It is B", 1),)
    write(tmp_path, "qqp", QQP + "0\t1\t2\tIs it\tIs that\t1\n")
    assert tasks.get("qqp").load(tmp_path).train[0].stopped is None


def test_line_ends_of_old_macs_are_named_in_a_short_line(tmp_path: Path) -> None:
    rows = "".join(f"a film\t{i % 2}\n" for i in range(50_000))
    write(tmp_path, "sst2", (SST2 + rows).replace("\n", "\r"))
    with pytest.raises(BadInput, match=r"train\.tsv has 50001 line ends CR and no LF") as caught:
        tasks.get("sst2").load(tmp_path)
    assert len(str(caught.value)) < 500


def test_huge_fields_are_quoted_in_a_short_line(tmp_path: Path) -> None:
    for content in (f"{'x' * 10**6}\tlabel\n", SST2 + f"good\t{'x' * 10**6}\n"):
        write(tmp_path, "sst2", content)
        with pytest.raises(
            BadInput, match=r"column 'sentence' is missing|is not one of '0', '1'"
        ) as caught:
            tasks.get("sst2").load(tmp_path)
        assert len(str(caught.value)) < 500


def test_a_few_broken_rows_are_skipped_and_many_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = "".join(f"{i}\t1\t2\ta {i}\tb\t{i % 2}\n" for i in range(400))
    write(tmp_path, "qqp", QQP + good + "broken\n" * 40, QQP + good)
    with caplog.at_level(logging.WARNING):
        assert len(tasks.get("qqp").load(tmp_path).train) == 400
    (record,) = caplog.records
    assert record.getMessage().endswith("skipped 40 broken rows: " + _FIRST + " and 28 more")
    write(tmp_path, "qqp", QQP + good + "broken\n" * 50_000, QQP + good)
    with pytest.raises(
        BadInput, match=r"has 50000 broken rows: .* and 49988 more; the original"
    ) as caught:
        tasks.get("qqp").load(tmp_path)
    assert len(str(caught.value)) < 500


_FIRST = ", ".join(str(402 + k) for k in range(12))


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("sst2", "", r"train\.tsv is empty; expected rows"),
        ("sst2", SST2, r"train\.tsv holds no examples; expected rows"),
        ("sst2", "text\tlabel\na\t1\n", r"column 'sentence' is missing; .* are 'text', 'label'$"),
        ("sst2", SST2 + "a\t1\nb\n", r"train\.tsv, row 3: 1 tab-separated fields, expected 2$"),
        ("sst2", SST2 + "a\t1\n\nb\t1\n", r"row 3: 1 tab-separated fields, expected 2$"),
        ("sst2", SST2 + "a\tb\t1\n", r"row 2: 3 tab-separated fields, expected 2$"),
        ("sst2", SST2 + " \u2028\t1\n", r"row 2: column 'sentence' is empty"),
        ("sst2", SST2 + "a\t\n", r"row 2: the label is empty$"),
        ("sst2", SST2 + "a\t2\n", r"row 2: label '2' is not one of '0', '1'$"),
        ("rte", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tneutral\n",
         r"row 2: label 'neutral' is not one of 'not_entailment', 'entailment'$"),
        ("cola", "source\tlabel\tstar\tsentence\n", r"row 1: label 'label' is not one of '0', '1'"),
        ("cola", b"gj04\t1\t\tok\ngj04\t1\t\tcaf\xe9\n", r"row 2: byte 0xe9 is not UTF-8; convert"),
        ("sst2", b"s\xff\tlabel\n", r"train\.tsv, row 1: byte 0xff is not UTF-8; convert"),
        ("qqp", QQP + "0\t1\t2\ta\tb\t7\n", r"row 2: label '7' is not one of '0', '1'"),
        ("qqp", QQP + "0\t1\n", r"train\.tsv holds no examples"),
    ],
)  # fmt: skip
def test_malformed_files_are_refused_by_place(
    tmp_path: Path, task: str, content: str | bytes, message: str
) -> None:
    write(tmp_path, task, content)
    with pytest.raises(BadInput, match=message) as caught:
        tasks.get(task).load(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("row ") <= 1


def test_the_reported_file_is_checked_too(tmp_path: Path) -> None:
    write(tmp_path, "sst2", SST2 + "a\t1\n", SST2 + "a\n")
    with pytest.raises(BadInput, match=r"dev\.tsv, row 2"):
        tasks.get("sst2").load(tmp_path)


def test_missing_folder_and_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere is not a folder; pass the one with the original"):
        tasks.get("sst2").load(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"train\.tsv cannot be read \(No such file.*dev_matched\.tsv"):
        tasks.get("mnli").load(tmp_path)


def test_only_qqp_skips_broken_rows_and_says_which(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = QQP + "0\t1\t2\tfirst\nhalf\tsecond\t1\n3\t4\t5\tx\ty\t1\n6\t7\t8\t\ty\t0\n"
    write(tmp_path, "qqp", content, QQP + "3\t4\t5\tx\ty\t0\n")
    with caplog.at_level(logging.WARNING):
        loaded = tasks.get("qqp").load(tmp_path)
    assert loaded.train == (Example("x y", 1),)
    (record,) = caplog.records
    assert record.getMessage().endswith("train.tsv: skipped 3 broken rows: 2, 3, 5")


def hub(task: GlueTask, rows: list[tuple[Any, ...]], splits: tuple[str, ...]) -> datasets.DatasetDict:
    """An in-memory copy of the hub's layout: text columns, label, idx."""
    names = [label.name for label in sorted(task.labels, key=lambda label: label.hub)]
    features = datasets.Features(
        {column: datasets.Value("string") for column in task.hub_texts}
        | {"label": datasets.ClassLabel(names=names), "idx": datasets.Value("int32")}
    )
    columns = dict(zip(features, zip(*rows, strict=True), strict=True))
    columns = {name: list(values) for name, values in columns.items()}
    split = datasets.Dataset.from_dict(columns, features=features)
    return datasets.DatasetDict(dict.fromkeys(splits, split))


def test_hub_rows_get_the_task_s_class_order(monkeypatch: pytest.MonkeyPatch) -> None:
    task = tasks.get("mnli")
    rows = [("P.", "H. ", 0, 0), ("P.", "I.", 1, 1), ("P.", "J.", 2, 2)]
    asked: list[tuple[str, str]] = []

    def load_dataset(path: str, name: str) -> datasets.DatasetDict:
        asked.append((path, name))
        return hub(task, rows, ("train", "validation_matched", "validation_mismatched"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    loaded = task.load()
    assert asked == [("nyu-mll/glue", "mnli")]
    assert loaded.train == (Example("P. H.", 2), Example("P. I.", 0), Example("P. J.", 1))
    assert loaded.reported == loaded.train


@pytest.mark.parametrize(
    ("rows", "splits", "message"),
    [
        ([("a", 1, 0), ("a", -1, 1)], ("train", "validation"),
         r"nyu-mll/glue sst2 train, row 2: label -1 is not one of 0, 1$"),
        ([("a", 1, 0), (" ", 0, 1)], ("train", "validation"), r"row 2: column 'sentence' is empty"),
        ([(None, 1, 0)], ("train", "validation"), r"row 1: column 'sentence' is empty"),
        ([("a", None, 0)], ("train", "validation"), r"row 1: the label is empty"),
        ([("a", 1, 0)], ("train", "test"), r"sst2 validation: no such split; .*: train, test$"),
    ],
)  # fmt: skip
def test_hub_rows_are_checked(
    monkeypatch: pytest.MonkeyPatch,
    rows: list[tuple[Any, ...]],
    splits: tuple[str, ...],
    message: str,
) -> None:
    task = tasks.get("sst2")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: hub(task, rows, splits))
    with pytest.raises(BadInput, match=message):
        task.load()


def test_hub_columns_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = hub(tasks.get("cola"), [("a", 1, 0)], ("train", "validation"))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: loaded)
    with pytest.raises(BadInput, match=r"qnli train: column 'question' is missing; .* 'sentence'"):
        tasks.get("qnli").load()


def test_hub_qqp_skips_empty_questions(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task = tasks.get("qqp")
    loaded = hub(task, [("a", "b", 1, 0), ("a", "", 0, 1)], ("train", "validation"))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: loaded)
    assert task.load().train == (Example("a b", 1),)
    assert "qqp train: skipped 1 broken rows: 2" in caplog.text


@pytest.mark.parametrize("error", [ConnectionError("no\nroute"), ValueError("no cache")])
def test_unreachable_hub_points_to_the_data_option(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def load_dataset(*_: str) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(BadInput, match=r"could not be loaded \(.*\); pass --data DIR") as caught:
        tasks.get("sst2").load()
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_missing_datasets_package_points_to_the_data_option(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match=r"ModuleNotFoundError: .*pass --data DIR"):
        tasks.get("sst2").load()


@needs_shared("data", "glue")
@pytest.mark.parametrize(
    ("name", "train", "reported"),
    [
        ("sst2", 20_000, {0: 428, 1: 444}),
        ("cola", 8_551, 1_043),
        ("rte", 2_490, 277),
        ("mrpc", 3_668, 408),
    ],
)
def test_real_files(name: str, train: int, reported: int | dict[int, int]) -> None:
    task = tasks.get(name)
    loaded = task.load(shared("data", "glue"))
    assert len(loaded.train) == train
    classes = Counter(example.label for example in loaded.reported)
    assert (classes.total() if isinstance(reported, int) else dict(classes)) == reported
    assert {example.label for example in loaded.train} == set(range(len(task.labels)))


@needs_shared("data", "glue")
def test_real_first_rows() -> None:
    cola = tasks.get("cola").load(shared("data", "glue")).train[0]
    assert cola.text.startswith("Our friends won't buy this analysis")
    assert tasks.get("cola").labels[cola.label].name == "acceptable"
    rte = tasks.get("rte").load(shared("data", "glue")).train[0]
    assert rte.text == (
        "No Weapons of Mass Destruction Found in Iraq Yet. Weapons of Mass Destruction Found in Iraq."
    )
    assert tasks.get("rte").labels[rte.label].name == "not_entailment"
