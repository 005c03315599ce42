"""A plan run to its page, interrupted and run on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from comparison_cases import rows_of, save_model
from evidence_cases import SAID, write_plan
from transformers import AutoModelForMaskedLM, AutoTokenizer

from benchmarks.evidence import __main__ as command
from benchmarks.evidence.made_tasks import SENTIMENT
from benchmarks.evidence.records import Cell
from benchmarks.evidence.tables import BEGIN, END


@pytest.mark.slow
@pytest.mark.usefixtures("few_rounds")
def test_a_plan_runs_and_runs_on_to_the_same_bytes(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "models" / "model")
    write_plan(tmp_path, SAID)
    (tmp_path / "EVIDENCE.md").write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    places = {"plan": "PLAN.md", "models": "models", "out": "runs", "results": "kept", "pages": "."}
    arguments = [part for name, place in places.items() for part in (f"--{name}", str(tmp_path / place))]
    arguments += ["--data", str(films)]

    def run(*more: str) -> str:
        done = CliRunner().invoke(command.main, [*arguments, *more])
        assert done.exit_code == 0, done.output
        return done.output

    with pytest.raises(AssertionError, match="holds no model: give the folder of tiny"):
        run("--model", f"tiny={tmp_path}")
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.evidence.studies.compare", None)  # refused before any study runs
        later = {**SAID["studies"][0], "name": "later", "loss": "labelz"}
        write_plan(tmp_path, {**SAID, "studies": [*SAID["studies"], later]})
        with pytest.raises(AssertionError, match="labelz"):
            run()
    write_plan(tmp_path, SAID)
    assert "\nread, 6 of 6" in run()
    study = tmp_path / "runs" / "main"
    assert len(rows_of(study)) == 6
    kept, page = tmp_path / "kept" / "main.jsonl", tmp_path / "EVIDENCE.md"
    written = (kept, page, tmp_path / "EVIDENCE_TABLES.md", tmp_path / "evidence.png")
    before = [path.read_bytes() for path in written]
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    for line in lines:
        found = line["readings"]
        assert found["calibration"]["accuracy"] == pytest.approx(
            line["score"]
        )  # the PET that was chosen
        assert {name: len(layers) for name, layers in found["depth"].items()} == dict.fromkeys(
            ("probe", "exit", "head"), 4
        )
        assert found["depth"]["head"][-1] == found["calibration"]
        right = Cell(line).right
        assert right is not None
        assert sum(right) / 12 == pytest.approx(line["score"])
        assert 0 <= found["shift"]["accuracy"] <= 1

    facts = json.loads((tmp_path / "kept" / "main.json").read_text(encoding="utf-8"))
    assert facts["untuned"] == {"films": pytest.approx(_by_hand(tmp_path))}
    assert f"the model is at {facts['untuned']['films']:.3f} on films." in page.read_text()

    first, *_ = sorted((study / "readings").iterdir())
    first.unlink()  # stopped before the last reading, and before the page
    page.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    assert "\nread, 1 of 1" in run("--jobs", "2")
    assert [path.read_bytes() for path in written] == before
    monkeypatch.setattr("benchmarks.evidence.readings._of_cell", None)
    monkeypatch.setattr("pets.study.compare.run.run_cell", None)
    run()
    run("--tables")
    assert [path.read_bytes() for path in written] == before


def _by_hand(folder: Path) -> float:
    """The accuracy of the model as it is on the reported examples, one at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "models" / "model")
    model = AutoModelForMaskedLM.from_pretrained(folder / "models" / "model").eval()
    words = tokenizer.convert_tokens_to_ids(["bad", "good"])
    right = []
    with (folder / "runs" / "tasks" / "films_reported.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            ids = tokenizer(f"{row['text']} it was [MASK] .", return_tensors="pt")
            at = ids["input_ids"][0].tolist().index(tokenizer.mask_token_id)
            with torch.no_grad():
                guess = model(**ids).logits[0, at, words].argmax()
            right.append(sorted(SENTIMENT)[int(guess)] == row["label"])
    return sum(right) / len(right)
