"""Tasks that are none: one line that says what to do, exit code 2, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import own_tasks
import pytest

from pets.cli import main

GOOD = "text,label\na,no\nb,yes\nc,no\nd,yes\n"


class Bad(NamedTuple):
    """Files by name, what is typed, and what has to be said of it."""

    files: dict[str, str | bytes]
    args: list[str]
    said: tuple[str, ...]


def show(text: str | bytes, *said: str, name: str = "a.csv", args: tuple[str, ...] = ()) -> Bad:
    return Bad({name: text}, ["show", name, *args], said)


def task(text: str, *said: str, data: str = GOOD) -> Bad:
    return Bad({"t.toml": text, "a.csv": data}, ["show", "t.toml"], said)


def lines(*rows: object) -> str:
    return "\n".join(map(json.dumps, rows))


CHOICE = 'source = "a.jsonl"\nkind = "choice"\nchoices = "c"\nlabel = "l"\ntemplate = "{t} {mask}"'
CASES = {
    # files
    "no such file": Bad({}, ["show", "a.csv"], ("a.csv", "No such file", "check its name")),
    "no such task": Bad({}, ["show", "sst3"], ("'sst3' is unknown", ".csv", "owner/name", "'sst2'")),
    "no hub": Bad({}, ["show", "owner/name"], ("owner/name", "hub", "network", "give a file")),
    "empty": show("", "a.csv is empty"),
    "header alone": show("text,label\n", "no rows"),
    "cell too many": show(GOOD + "e, f,no\n", "row 6", "3 cells", "stands in quotes"),
    "cell too few": show(GOOD + "e\n", "row 6", "1 cells", "expected 2"),
    "open quote": show(GOOD + '"e,no\n', "row 6", "unexpected end"),
    "two names": show("text,text\na,b\n", "several columns of the name 'text'"),
    "latin": show("text,label\né,no\n".encode("latin-1"), "line 2", "UTF-8", "iconv"),
    "tabs in tsv": show("text\tlabel\na\tb\tno\n", "row 2", "jsonl", name="a.tsv"),
    "colons": show("text:label\na:no\nb:yes\n", "one column", "commas, semicolons or tabs"),
    "json line": show('{"text": 1}\n{"text"\n', "line 2", "one object a line", name="a.jsonl"),
    "json list": show("[1, 2]", "holds no objects", name="a.json"),
    "parquet": show("no parquet", "cannot be read as parquet", name="a.parquet"),
    "no saved folder": Bad({"d/x.txt": "a"}, ["show", "d"], ("save_to_disk", "task new")),
    # templates
    "no answer": show(GOOD, "no place for the answer", args=("--template", "{text}")),
    "no column": show(GOOD, "no column 'txt'", "'text'", args=("--template", "{txt} {mask}")),
    "open brace": show(GOOD, "a brace itself is written twice", args=("--template", "{text {mask}")),
    "nested text": show(
        lines({"text": ["a"], "label": "no"}, {"text": ["b"], "label": "yes"}),
        "row 1", "holds a list", name="a.jsonl", args=("--template", "{text} {mask}"),
    ),
    # labels
    "one class": show("text,label\na,no\nb,no\n", "only the label 'no'", "at least 2"),
    "numbers without words": show("text,label\na,0\nb,1\n", "'0', '1'", "--label-words"),
    "words too many": show(GOOD, "needs 2 words", "no, yes", args=("--label-words", "a", "b", "c")),
    "regression": show(
        "text,label\n" + "".join(f"a{k},{k / 7}\n" for k in range(30)), "no classes", "put them into"
    ),
    "too many classes": show(
        "text,label\n" + "".join(f"a{k},b{k}\n" for k in range(101)), "101 different", "generation"
    ),
    "no label column": show("one,two\n" + "".join(f"a {k},b {k}\n" for k in range(9)), "task new"),
    "all left out": show("text,label\n ,no\n ,yes\n", "no example", "text empty (2)"),
    "unknown class": task('source = "a.csv"\nwords = {yess = "a"}', "'yess'", "'no', 'yes'", "nearest"),
    "choices vary": Bad(
        {"t.toml": CHOICE, "a.jsonl": lines(
            {"t": "x", "c": ["a", "b"], "l": 0}, {"t": "y", "c": ["a"], "l": 0}
        )},
        ["show", "t.toml"],
        ("row 2", "1 choices", "expected 2"),
    ),
    "no right choice": Bad(
        {"t.toml": CHOICE, "a.jsonl": lines({"t": "x", "c": ["a", "b"], "l": "z"})},
        ["show", "t.toml"],
        ("row 1", "'z'", "a letter from A on"),
    ),
    # task files and splits
    "no toml": task("source = ", "t.toml is no TOML"),
    "unknown key": task('source = "a.csv"\ntemplat = "x"', "'templat'", "'template'"),
    "no source": task('name = "x"', "t.toml", "says of no table"),
    "unknown kind": task('source = "a.csv"\nkind = "regression"', "'regression'", "generation"),
    "metric of another kind": task(
        'source = "a.csv"\nkind = "classes"\nmetric = "rouge_l"', "'rouge_l'", "f1_macro"
    ),
    "no split": task('source = "a.csv"\nsplits = {reported = "x"}', "no split 'x'", "files have none"),
    "no split file": task('source = "a.csv"\n[splits]\nreported = "b.csv"', "b.csv", "No such file"),
    "the same twice": task('splits = {train = "a.csv", reported = "a.csv"}', "both trained on"),
    "new class in reported": Bad(
        {"a.csv": GOOD, "b.csv": "text,label\ne,maybe\n",
         "t.toml": '[splits]\ntrain = "a.csv"\nreported = "b.csv"'},
        ["show", "t.toml"],
        ("b.csv, row 2", "'maybe'", "'no', 'yes'"),
    ),
    "share": task('source = "a.csv"\n[splits]\nshare = 2', "share 2", "0 < share < 1"),
    "one text": task('source = "a.csv"', "too few", data="text,label\na,no\nb,yes\n"),
    # task new
    "file there": Bad({"a.csv": GOOD, "task.toml": "x"}, ["new", "a.csv"], ("there already", "--out")),
    "no toml name": Bad({"a.csv": GOOD}, ["new", "a.csv", "--out", "t.txt"], (".toml",)),
    "no folder": Bad({"a.csv": GOOD}, ["new", "a.csv", "--out", "d/t.toml"], ("not be written",)),
    "new of nothing": Bad({}, ["new", "a.csv"], ("No such file",)),
    "new of no table": Bad({}, ["new", "nothing"], ("'nothing' is no table",)),
    "no texts": Bad({"a.csv": "label,n\na,1\nb,2\n"}, ["new", "a.csv"], ("no column with texts",)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_line_exit_code_2_and_nothing_written(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    files, args, said = CASES[case]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["task", *args])
    assert stopped.value.code == 2
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert [words for words in said if words not in line] == [], line
    assert contents(tmp_path) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "build", [own_tasks.text_csv, own_tasks.choice_jsonl, own_tasks.task_toml, own_tasks.saved_folder]
)
def test_what_is_right_is_not_refused(
    build: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["task", "show", str(build(tmp_path))])
    assert "examples: " in capsys.readouterr().out
