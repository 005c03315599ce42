"""Tables as files have them: every cell is what is written, and what is broken is refused by row."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridges.errors import BadInput
from pets.tasks.own import tables
from pets.tasks.own.tables import Table


def table(path: Path, content: str | bytes) -> Table:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    (found,) = tables.read(str(path)).values()
    return found


def columns(found: Table) -> dict[str, list[Any]]:
    return {name: found.column(name) for name in found.names}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "t,l\nNA,0\nNone,007\nnull,1.0\n,\n",
            {"t": ["NA", "None", "null", ""], "l": ["0", "007", "1.0", ""]},
        ),
        (b"\xef\xbb\xbft,l\na,0\n", {"t": ["a"], "l": ["0"]}),
        ("t,l\ra,0\rb,1\r", {"t": ["a", "b"], "l": ["0", "1"]}),
        ('t,l\r\n"a\nb, ""c""",0\r\n\r\nd,1\r\n', {"t": ['a\nb, "c"', "d"], "l": ["0", "1"]}),
        (" t ,l \na,0\n", {"t": ["a"], "l": ["0"]}),
        (",t,l\n0,a,0\n", {"unnamed 1": ["0"], "t": ["a"], "l": ["0"]}),
        ("t,l\na\u2028b\x85c,0\n", {"t": ["a\u2028b\x85c"], "l": ["0"]}),
        ('t;l\n"a;";b,c\n', {"t": ["a;"], "l": ["b,c"]}),
        ("t\tl\ra, b;\tc\r", {"t": ["a, b;"], "l": ["c"]}),
        ("t,l;\na,0\n", {"t": ["a"], "l;": ["0"]}),  # commas first
        ("t,l\n" + "x" * 200_000 + ",0\n", {"t": ["x" * 200_000], "l": ["0"]}),
    ],
)
def test_csv(tmp_path: Path, content: str | bytes, expected: dict[str, list[str]]) -> None:
    assert columns(table(tmp_path / "a.csv", content)) == expected


def test_a_quote_in_tsv_is_text_unless_it_encloses_others(tmp_path: Path) -> None:
    cells = ['"a" b', '"c', 'd"', '"e ""f"""', '"g" and "h"', '"', '""', '"i."', '""j"" k', '"l "" m']
    content = "t\tl\n" + "".join(f"{cell}\t0\n" for cell in cells)
    found = table(tmp_path / "a.tsv", content)
    assert found.column("t") == [
        *('"a" b', '"c', 'd"', 'e "f"', '"g" and "h"', '"', "", '"i."', '""j"" k', '"l "" m'),
    ]


def test_tsv_whose_header_stands_in_quotes_is_quoted_all_over(tmp_path: Path) -> None:
    found = table(tmp_path / "a.tsv", '"t"\t"l"\n"i."\t0\n"a\tb\n""c"""\t"1"\n')
    assert columns(found) == {"t": ["i.", 'a\tb\n"c"'], "l": ["0", "1"]}


cell = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=6)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.tuples(cell, cell), min_size=1, max_size=4), quoting=st.sampled_from([0, 1]))
def test_csv_of_any_cells_is_read_as_it_was_written(
    rows: list[tuple[str, str]], quoting: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    written = io.StringIO(newline="")
    csv.writer(written, quoting=quoting).writerows([("t", "l"), *rows])
    found = table(tmp_path_factory.mktemp("csv") / "a.csv", written.getvalue())
    assert columns(found) == {"t": [t for t, _ in rows], "l": [label for _, label in rows]}


def test_rows_are_counted_as_spreadsheets_do(tmp_path: Path) -> None:
    assert table(tmp_path / "a.csv", "t,l\na,0\n").row(0).endswith("a.csv, row 2")
    assert table(tmp_path / "a.jsonl", '{"t": "a"}\n').row(0).endswith("a.jsonl, row 1")


def test_a_sheet_is_to_be_exported() -> None:
    with pytest.raises(BadInput, match=r"'a.xlsx' is no table .*; export the sheet as .csv"):
        tables.read("a.xlsx")


def test_json_keeps_types(tmp_path: Path) -> None:
    rows = [{"t": "a", "l": 1, "c": ["x"], "b": True}, {"t": "b", "l": None, "c": [], "b": False}]
    expected = {"t": ["a", "b"], "l": [1, None], "c": [["x"], []], "b": [True, False]}
    lines = "\n".join(json.dumps(row) for row in rows)
    assert columns(table(tmp_path / "a.jsonl", lines)) == expected
    assert columns(table(tmp_path / "a.json", json.dumps(rows, indent=1))) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty: expected columns"),
        ("a.csv", "\ufeff\n \n", "is empty: expected columns"),
        ("a.csv", "t,l\n", "has a header and no rows"),
        ("a.csv", "t,l\na,0,5\nb,1,6\n", r"row 2 \(line 2\): 3 cells, expected 2, .* columns t, l"),
        ("a.csv", "t,l\na,0\nb,1,6\n", r"row 3 \(line 3\): 3 cells, expected 2"),
        ("a.csv", 't,l\n"a\nb",0\nc\n', r"row 3 \(line 4\): 1 cells, expected 2, .* stands in quotes"),
        ("a.csv", "t,l\na\nb,0\nc,1,2\nd,1,\n", r"row 2 .*: 1 cells.*\. 2 more rows are so: 4, 5$"),
        ("a.csv", 't,l\n"a"b,0\n', r"row 2 \(line 2\): ',' expected after '\"'"),
        ("a.csv", 't,l\n"a,0\nb,1\n', r"row 2 \(line 3\): unexpected end of data"),
        ("a.csv", "t l\na 0\n", "has one column, 't l', .* commas, semicolons or tabs"),
        ("a.csv", "t;l\na;b;0\n", r"row 2 \(line 2\): 3 cells, .* with semicolons, .*; c\""),
        ("a.tsv", "t l\na 0\n", "has one column, 't l', .* separated by tabs"),
        ("a.csv", "t,t\na,0\n", "several columns of the name 't'"),
        ("a.csv", b"t,l\na,0\n\xe9,1\n", "line 3: byte 0xe9 is not UTF-8; convert the file"),
        ("a.csv", "t,l\na,0\n".encode("utf-16"), "line 1: byte 0xff is not UTF-8"),
        ("a.tsv", "t\tl\n\"a\tb\"\t0\n", r"row 2 \(line 2\): 3 cells, .* another form, csv or jsonl"),
        ("a.jsonl", '{"t": "a"}\n{"t": "b"\n', "line 2: .*; expected one object a line"),
        ("a.jsonl", '{"t": "a"}\n5\n', "line 2: no object; expected one object a line$"),
        ("a.jsonl", '{"t": "a"}\n5\n{"t"\n', r"line 2: no object; .* a line\. 1 more row is so: 3$"),
        ("a.jsonl", '"a"\n"b"\n', "holds no objects: expected one a line"),
        ("a.json", "[1, 2]", "holds no objects: expected one a line"),
        ("a.json", "[]", "holds no objects: expected one a line"),
        ("a.json", '[{"t": 1}', "cannot be read as json: "),
        ("a.jsonl", '{"t": 1, "t": 2}\n', "cannot be read as json: .*twice"),
        ("a.parquet", "PAR1 and more", "cannot be read as parquet: .*; write the table anew as parquet"),
    ],
)  # fmt: skip
def test_what_is_broken_is_refused(
    tmp_path: Path, name: str, content: str | bytes, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        table(tmp_path / name, content)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert capfd.readouterr() == ("", "")


def test_times_are_no_texts(tmp_path: Path) -> None:
    found = table(tmp_path / "a.jsonl", '{"t": "2020-01-01", "l": 1}\n')
    with pytest.raises(BadInput, match=r"column 't' is read as times, .* as csv, where all is text"):
        found.column("t")
    assert table(tmp_path / "a.csv", "t,l\n2020-01-01,1\n").column("t") == ["2020-01-01"]


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"a\.csv has no column 'x'; there are 't', 'l'"):
        table(tmp_path / "a.csv", "t,l\na,0\n").column("x")


def test_a_saved_folder_and_parquet(tmp_path: Path) -> None:
    features = datasets.Features(t=datasets.Value("string"), l=datasets.ClassLabel(names=["no", "yes"]))
    data = datasets.Dataset.from_dict({"t": ["a", "b"], "l": [1, -1]}, features=features)
    datasets.DatasetDict(train=data, test=data).save_to_disk(str(tmp_path / "both"))
    data.save_to_disk(str(tmp_path / "one"))
    data.to_parquet(str(tmp_path / "a.parquet"))
    both = tables.read(str(tmp_path / "both"))
    assert list(both) == ["train", "test"]
    (one,) = tables.read(str(tmp_path / "one")).values()
    (parquet,) = tables.read(str(tmp_path / "a.parquet")).values()
    for found in (both["test"], one, parquet):
        assert columns(found) == {"t": ["a", "b"], "l": [1, -1]}
        assert found.classes("l") == ("no", "yes")
        assert found.classes("t") is None


def test_an_index_of_pandas_is_no_column(tmp_path: Path) -> None:
    import pandas

    pandas.DataFrame({"t": ["a", "b"]}, index=[5, 7]).to_parquet(tmp_path / "a.parquet")
    (found,) = tables.read(str(tmp_path / "a.parquet")).values()
    assert found.names == ("t",)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.csv", "nowhere.csv cannot be read"),
        ("a\0.csv", "cannot be read"),
        ("x" * 5000 + ".csv", "cannot be read"),
        ("owner/name:small", "owner/name:small is no file that is there, .* hub .* or give a file"),
        ("nothing", "'nothing' is no table that is there: expected a .csv"),
        (".", r"\. cannot be read .* expected a folder that save_to_disk wrote"),
    ],
)
def test_what_is_not_there(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=message):
        tables.read(source)
    assert not list(tmp_path.iterdir())


def test_the_hub_is_asked_for_the_name_and_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*args: Any) -> Any:
        asked.append(args)
        return datasets.DatasetDict(train=datasets.Dataset.from_dict({"t": ["a"]}))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert tables.read("owner/na-me.v2:small")["train"].column("t") == ["a"]
    assert tables.read("owner/name")["train"].where == "owner/name train"
    assert asked == [("owner/na-me.v2", "small"), ("owner/name", None)]


def test_reading_a_file_leaves_nothing_behind_and_changes_no_setting(tmp_path: Path) -> None:
    before = datasets.utils.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    table(tmp_path / "a.csv", "t,l\na,0\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    assert (datasets.utils.logging.get_verbosity(), datasets.are_progress_bars_disabled()) == before
