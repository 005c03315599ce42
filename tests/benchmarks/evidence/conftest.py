"""Small shared data, and a task of them in the words of the tiny vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import TEXTS

from benchmarks.evidence import made_tasks
from benchmarks.evidence.made_tasks import SENTIMENT, Made


@pytest.fixture
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shared data that are small, and a task in the words of the tiny vocabulary."""
    data = tmp_path / "data"
    lines = [(f"{text} {'good' if k % 2 else 'bad'}", k % 2) for k, text in enumerate(TEXTS)]
    for name, part in (
        ("glue/SST-2/train", lines[:44]),
        ("glue/SST-2/dev", lines[44:]),
        ("sentiment/yelp", lines[:10]),
        ("sentiment/amazon", lines[10:20]),
    ):
        path = data / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = "\n".join(["sentence\tlabel", *(f"{t}\t{y}" for t, y in part)])
        path.write_text(rows + "\n", encoding="utf-8")
    (data / "text.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    words = dict(zip(SENTIMENT, ("bad", "good"), strict=True))
    task = Made(made_tasks.TASKS["sst2"].examples, "{text} it was {answer} .", words, reported=12)
    monkeypatch.setitem(made_tasks.TASKS, "films", task)
    monkeypatch.setattr(made_tasks, "SHIFTED", 16)
    return data
