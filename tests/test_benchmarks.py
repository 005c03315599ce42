"""The measurements run at tiny size, guard themselves, and the page they make is up to date."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import TEXTS, tiny_bert, tiny_tokenizer

import bridges
from benchmarks import few_shot, readme, step_cost


@pytest.fixture
def model(tmp_path: Path) -> str:
    tiny_bert(vocab_size=1100).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_step_cost_reports_time_and_memory(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_cost, "RESULTS", tmp_path)
    args = ["--model", model, "--batch", "2", "--length", "8", "--steps", "2", "--out", "r.json"]
    done = CliRunner().invoke(step_cost.main, args, catch_exceptions=False)
    assert done.exit_code == 0
    assert "peak memory" in done.output
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["peak_mebibytes"]["vanilla"] > 100
    assert record["time"]["milliseconds"]["vanilla"]["p50"] > 0
    assert "| added (of the medians) |" in readme.render({"r.json": record})


def test_step_cost_times_nothing_when_the_cost_is_wrong(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = step_cost.Workload(model, 2, 8)
    cost = bridges.RunningCost.for_model(work.plm)
    work.check(cost)
    good = cost.forward
    monkeypatch.setattr(cost, "forward", lambda *a: 1.01 * good(*a))
    with pytest.raises(AssertionError, match="not close"):
        work.check(cost)


def test_few_shot_makes_a_table_and_resumes(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(few_shot, "RESULTS", tmp_path)
    glue = tmp_path / "glue" / "SST-2"
    glue.mkdir(parents=True)
    rows = [f"{text}\t{k % 2}" for k, text in enumerate(TEXTS)]
    for name, part in (("train.tsv", rows[:40]), ("dev.tsv", rows[40:])):
        (glue / name).write_text("\n".join(["sentence\tlabel", *part]) + "\n")
    plm = tiny_bert(vocab_size=1100)
    cost = bridges.RunningCost.for_model(plm, "ou")
    cost.fit(plm, tiny_tokenizer(), TEXTS, max_steps=2, progress=False)
    cost.save_pretrained(tmp_path / "ou")
    args = [
        "--model",
        model,
        "--data",
        str(glue.parent),
        "--costs",
        str(tmp_path / "ou"),
        "--tasks",
        "sst2",
    ]
    args += ["--seeds", "1", "2", "--steps", "2", "--shots", "3", "--out", "f.json"]
    args += ["--work", str(tmp_path / "runs")]
    first = CliRunner().invoke(few_shot.main, args, catch_exceptions=False)
    assert first.exit_code == 0
    record = json.loads((tmp_path / "f.json").read_text())
    found = record["tasks"]["sst2"]
    assert [(r["arm"], r["seed"]) for r in found["runs"]] == [
        ("vanilla", 1),
        ("ou", 1),
        ("vanilla", 2),
        ("ou", 2),
    ]
    assert found["summary"]["ou"]["count"] == 2
    assert found["table"] in readme.render({"f.json": record})
    (tmp_path / "f.json").unlink()
    again = CliRunner().invoke(few_shot.main, args, catch_exceptions=False)
    assert again.exit_code == 0
    assert json.loads((tmp_path / "f.json").read_text())["tasks"] == record["tasks"]


def test_the_committed_page_is_what_the_committed_results_make() -> None:
    records = {path.name: json.loads(path.read_text()) for path in readme.RESULTS.glob("*.json")}
    assert readme.TARGET.read_text() == readme.render(records)
