"""The rows of a comparison, one by one and as a table: read whole, or refused in the same words."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import Truth, rows

from bridges import BadInput
from pets.study.cells.rows import Row
from pets.study.compare.table import read_all, read_rows, read_table, write_row, write_table

FAILED = ("sst2", 16, "lora", "vanilla", 42)
ROWS = rows(
    Truth(
        settings=(("sst2", 16), ("sst2", None)),
        pets=("lora",),
        arms=("vanilla", "brownian"),
        failed={FAILED: "RuntimeError: no room"},
    )
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    for row in ROWS:
        write_row(tmp_path, Row.from_dict(row))
    assert _json(read_rows(tmp_path).values()) == {row["cell"]: row for row in ROWS}
    last = {ROWS[0]["cell"]}
    write_table(tmp_path, map(Row.from_dict, ROWS), last)
    found = [row.to_dict() for row in read_table(tmp_path)]
    assert found[-1] == ROWS[0]
    assert sorted(map(str, found)) == sorted(map(str, ROWS))
    before = (tmp_path / "results.jsonl").read_bytes()
    write_table(tmp_path, map(Row.from_dict, reversed(ROWS)), last)
    assert (tmp_path / "results.jsonl").read_bytes() == before


def _json(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    return {row.cell: row.to_dict() for row in rows}


def test_a_row_is_read_as_what_it_says() -> None:
    row, failed = Row.from_dict(ROWS[-1]), Row.from_dict(ROWS[0])
    assert (row.key, row.score, row.kind) == (
        ("sst2", None, "lora", "brownian", 46),
        ROWS[-1]["score"],
        "bridges",
    )
    assert [t.strength for t in row.tries] == [0.3, 1.0, 3.0]
    assert row.chosen.curves[0].dev == ROWS[-1]["tries"][row.restart]["curves"][0]["dev"]
    assert (failed.is_done, failed.error, failed.tries) == (False, "RuntimeError: no room", ())


@pytest.mark.parametrize("source", [ROWS[0], ROWS[-1]], ids=["failed", "done"])
def test_a_row_without_its_source_says_the_same(source: dict[str, Any]) -> None:
    """As one that was not read but made: all fields, null where there is no score."""
    made = dataclasses.replace(Row.from_dict(source), source=None).to_dict()
    # Later than the rows of these tests:
    later = {"regularizer": None, "by_ratio": False, "shared_texts": None, "hashes": {}}
    tries = source["tries"] and [{**tried, "weight": None} for tried in source["tries"]]
    assert json.loads(json.dumps({name: made[name] for name in source})) == {**source, "tries": tries}
    assert {name: value for name, value in made.items() if name not in source} == later


def test_what_a_newer_version_wrote_is_not_lost(tmp_path: Path) -> None:
    row = ROWS[-1] | {"energy": {"joules": 3}, "tries": [t | {"mood": 1} for t in ROWS[-1]["tries"]]}
    write_table(tmp_path, [Row.from_dict(row)], ())
    before = (tmp_path / "results.jsonl").read_bytes()
    assert json.loads(before) == row
    write_table(tmp_path, read_table(tmp_path), ())
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_a_folder_without_a_cell_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "new") == {}
    (tmp_path / "cells" / "0123").mkdir(parents=True)
    (tmp_path / "cells" / "0123" / ".row.json.new").write_text("{")  # as a kill leaves it
    assert read_rows(tmp_path) == {}


def test_rows_that_the_table_alone_has_are_kept(tmp_path: Path) -> None:
    """Where the cells' folders are gone; of a cell that has one its own row counts."""
    write_table(tmp_path, map(Row.from_dict, ROWS), ())
    changed = ROWS[0] | {"device": "another"}
    write_row(tmp_path, Row.from_dict(changed))
    assert _json(read_all(tmp_path).values()) == {row["cell"]: row for row in (*ROWS[1:], changed)}
    (tmp_path / "results.jsonl").write_text("{")
    with pytest.raises(BadInput, match="line 1 is broken"):
        read_all(tmp_path)


DONE, NOT_DONE = ROWS[-1], ROWS[0]


def without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k != name}


def with_look(look: object) -> dict[str, Any]:
    return DONE | {"tries": [DONE["tries"][0] | {"curves": look}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(DONE)[:40], r" is broken \(.* at character \d+\): delete it"),
        ("", r" is broken \(Expecting value at character 0\): delete it"),
        ([1], " is no row of a comparison, an object with a format: delete it"),
        (without(DONE, "format"), " is no row of a comparison"),
        (
            DONE | {"format": 7},
            " has format 7, .* reads format 1: use the version that wrote it",
        ),
        (DONE | {"status": "open"}, " has status 'open', expected 'done' or 'failed': delete it"),
        (without(DONE, "status"), " has status None, expected 'done' or"),
        (without(DONE, "arm"), ": arm is missing, expected text: delete it"),
        (without(DONE, "cell"), ": cell is missing, expected text"),
        (without(DONE, "seed"), ": seed is missing, expected a whole number"),
        (DONE | {"score": "high"}, ": score is 'high', expected a number: delete it"),
        (DONE | {"shots": "16"}, ": shots is '16', expected a whole number or null"),
        (DONE | {"fit": [1] * 99}, r": fit is \[1, 1,.*\.\.\.\], expected an object or null"),
        (NOT_DONE | {"error": None}, ": error is None, expected text"),
        (NOT_DONE | {"status": "done"}, ": score is None, expected a number"),
        (DONE | {"tries": [{}]}, ": a try lacks some of strength, .*: delete it"),
        (DONE | {"seed": True}, ": seed is True, expected a whole number: delete it"),
        (DONE | {"metric": "f1"}, r": tries\[0\]\.dev\.f1 is missing, expected a finite number: delete"),
        (
            DONE | {"tries": [DONE["tries"][0] | {"strength": "1"}]},
            r": tries\[0\]\.strength is '1', expected a finite number or null: delete it",
        ),
        (DONE | {"fit": {"first": 1.0, "best": 1.0}}, r": fit\.steps is missing, expected a whole"),
        (f'{{"format": {"9" * 5000}}}', " is broken "),
        ("[" * 9999, " is broken "),
        (DONE | {"right": 7}, ": right is 7, expected text"),
        (DONE | {"right": "0x"}, ": right is '0x', expected hexadecimal digits: delete it"),
        (
            DONE | {"right": "ff", "examples": {"reported": 9}},
            ": right has 2 digits, expected those of 9 examples: delete it",
        ),
        (with_look(None), ": a try lacks some of"),
        (with_look([{"step": 0}]), ": a try lacks some of"),
    ],
)
def test_a_bad_row_is_refused_in_the_same_words_in_both_places(
    tmp_path: Path, content: object, message: str
) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "results.jsonl").write_text(f"{json.dumps(DONE)}\n{text}\n", encoding="utf-8")
    (tmp_path / "cells" / "0123").mkdir(parents=True)
    (tmp_path / "cells" / "0123" / "row.json").write_text(text, encoding="utf-8")
    said = [
        _refused(read_table, tmp_path, rf"results\.jsonl, line 2{message}"),
        _refused(read_rows, tmp_path, rf"row\.json{message}"),
    ]
    assert said[0].partition("line 2")[2] == said[1].partition("row.json")[2]


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_bytes(b"\xff\xfe")
    _refused(read_table, tmp_path, r"results\.jsonl cannot be read")
    (tmp_path / "cells" / "0123" / "row.json").mkdir(parents=True)
    _refused(read_rows, tmp_path, r"row\.json cannot be read")


def _refused(read: Callable[[Path], object], folder: Path, message: str) -> str:
    with pytest.raises(BadInput, match=message) as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)
