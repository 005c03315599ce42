"""What is kept of a study, read again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evidence_cases import cell

from benchmarks.evidence.records import read_records
from bridges.errors import BadInput


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"task": ', "is no result of a study"),
        ("{}", "line 2: task is missing, expected text"),
        ('"a"', "line 2: it is 'a', expected an object"),
        (json.dumps({**cell("vanilla", 1, 0.5).line, "score": None}), "line 2: score is None"),
        (json.dumps(dict(cell("vanilla", 1, 0.5).line)), "line 2: vanilla, seed 1 is there twice"),
    ],
)
def test_a_kept_line_that_is_none_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "main.jsonl"
    path.write_text(f"{json.dumps(dict(cell('vanilla', 1, 0.6).line))}\n{line}\n", encoding="utf-8")
    with pytest.raises(BadInput, match=message):
        read_records(tmp_path)
    path.write_text(json.dumps(dict(cell("vanilla", 1, 0.6).line)), encoding="utf-8")
    assert [one.seed for one in read_records(tmp_path)["main"]] == [1]
