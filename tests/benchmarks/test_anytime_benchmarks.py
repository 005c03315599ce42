"""Runs, their layers' readings, times and tables of answers before the last layer, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from tiny import TEXTS, tiny_model, tiny_tokenizer

from benchmarks import anytime, anytime_runs, anytime_times, natural, readme
from benchmarks.anytime_tables import Setting, comparisons, settings
from benchmarks.natural import Template

pytestmark = pytest.mark.slow
WORDS = ("film", "book", "story", "dog", "cat", "bird", "house", "tree", "river", "moon", "sun", "rain")
LAYERS = 4


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, texts and SST-2 of two kinds of sentences, in words that the tiny vocabulary has."""
    plm = tiny_model("bert", num_hidden_layers=LAYERS)
    plm.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n".join(TEXTS))
    glue = tmp_path / "glue" / "SST-2"
    glue.mkdir(parents=True)
    starts = [f"{article} {word}" for word in WORDS for article in ("a", "the", "this", "that")]
    rows = [f"{start} was {e}\t{k}" for start in starts for k, e in enumerate(("poor", "fine"))]
    for name in ("train", "dev"):
        (glue / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    templates = {"sst2": Template(" it was", " .", ("bad", "good"))}
    for module in (natural, anytime, anytime_runs, anytime_times):
        monkeypatch.setattr(module, "TEMPLATES", templates)
    for module in (anytime, anytime_times, readme):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    return tmp_path


def call(command: Any, *arguments: Any) -> None:
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_runs_are_made_once_and_read_in_four_ways(folder: Path) -> None:
    runs = folder / "runs"
    given = ["--model", folder / "model", "--data", folder, "--text", folder / "text.txt"]
    given += ["--folder", runs, "--shots", 2, "--splits", 2, "--steps", 3, "--batch", 2, "--test", 12]
    call(anytime_runs.main, *given, "--arms", "vanilla", "posterior", "early-exit", "truncated")
    call(anytime_runs.main, *given, "--ratio", 0.1, "--arms", "posterior-exit")
    files = {path.name: path for path in (runs / "sst2-2").iterdir()}
    assert len(files) == 10
    vanilla = files["vanilla.1.safetensors"]
    before = vanilla.stat().st_mtime_ns
    call(anytime_runs.main, *given, "--arms", "vanilla")
    assert vanilla.stat().st_mtime_ns == before

    kept, other = load_file(vanilla), load_file(files["posterior-exit~0.1.1.safetensors"])
    assert kept["labelled_labels"].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert torch.equal(kept["test_labels"], other["test_labels"])
    assert not torch.equal(kept["test_states"], other["test_states"])
    assert len(kept["test_states"]) == LAYERS + 1
    assert len(load_file(files["truncated-3.1.safetensors"])["test_states"]) == 4
    states = anytime.states_of(kept, "test")
    assert (states[-1].square().mean(-1).sqrt() > 0.1).all()  # as they were, not over their largest

    call(anytime.main, "--model", folder / "model", "--folder", runs, "--out", "anytime.json")
    record = json.loads((folder / "anytime.json").read_text())
    found = {(run["arm"], run["split"]): run for run in record["anytime"]["runs"]}
    assert len(found) == 10
    one = found["vanilla", 1]
    assert {len(one[reader]) for reader in ("exit", "lens", "probe", "head", "exit_ece")} == {LAYERS - 1}
    assert one["full"] == float((kept["test_scores"].argmax(1) == kept["test_labels"]).double().mean())
    assert "exit" not in found["truncated-3", 1]
    page = readme.render({"anytime.json": record})
    assert "| truncated-3, own head |  |" in page
    assert "exit on posterior - probe on vanilla | 1/2 |" in page

    options = ["--model", folder / "model", "--data", folder, "--lens", runs / "lens", "--rounds", 1]
    call(anytime_times.main, *options, "--dtype", "float32", "--threads", 1, "--out", "times.json")
    times = json.loads((folder / "times.json").read_text())
    assert times["anytime_times"]["layer"] == 3
    assert set(times["anytime_times"]["batches"]) == {"1", "32"}
    assert "| 32 |" in readme.render({"times.json": times})


def made_up(gain: float) -> dict[str, Any]:
    """Eight splits of which the exits of vanilla are so much better than the probe, and others equal."""
    runs = []
    for split in range(8):
        base = 0.6 + 0.01 * split
        for arm in ("vanilla", "posterior"):
            by_layer = [base + 0.001 * (k + split % 2) for k in range(11)]
            runs.append(
                {
                    **{"task": "t", "shots": 4, "arm": arm, "split": split, "full": base},
                    "exit": [value + gain for value in by_layer],
                    **dict.fromkeys(("probe", "head", "lens"), by_layer),
                }
            )
        runs.append({"task": "t", "shots": 4, "arm": "truncated-9", "split": split, "full": base - 0.1})
    return {"model": "m", "layers": 12, "runs": runs}


def test_differences_are_paired_at_the_layers_of_the_shares() -> None:
    (setting,) = settings(made_up(0.05))
    assert [setting.at(share) for share in (1 / 2, 2 / 3, 3 / 4)] == [6, 8, 9]
    assert Setting("s", 6, {}).at(3 / 4) == 5
    found = {(one.what, one.share): one.found for one in comparisons(setting)}
    gain = found["exit on vanilla - probe on vanilla", "3/4"]
    assert gain.mean == pytest.approx(0.05)
    assert gain.low == pytest.approx(0.05)
    assert found["exit on posterior - exit on vanilla", "1/2"].mean == pytest.approx(0)
    assert ("exit on vanilla - exit on vanilla", "1/2") not in found
    # state 9 is number 8 of the list, and the truncated model counts where it was cut alone
    whole = found["exit on vanilla - full vanilla model", "3/4"].mean
    assert whole == pytest.approx(0.05 + 0.0085)
    cut = "exit on vanilla - model truncated, then tuned"
    assert found[cut, "3/4"].mean == pytest.approx(0.15 + 0.0085)
    assert (cut, "2/3") not in found


def test_the_calibration_error_is_the_mean_gap_of_bins() -> None:
    sure = torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.55, 0.45], [0.45, 0.55]])
    right = torch.tensor([0, 1, 0, 1])
    error = anytime._calibration_error(sure, right)
    assert error == pytest.approx((2 * 0.45 + 2 * 0.45) / 4)
