"""The reader table and the first comparison of costs about the label: on tiny models; their pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tiny import TEXTS, tiny_bert, tiny_llama, tiny_tokenizer

from benchmarks import label_costs, natural, reader
from benchmarks.label_tables import label_costs_table, reader_table
from benchmarks.natural import Asked, Template, few_shot, look, one_against_rest
from bridges import RunningCost

WORDS = ("film", "book", "story", "dog", "cat", "bird", "house", "tree")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SST-2 of two kinds of sentences, asked in words that the tiny vocabulary has."""
    folder = tmp_path / "glue" / "SST-2"
    folder.mkdir(parents=True)
    rows = [f"the {w} was {e}\t{k}" for w in WORDS for k, e in enumerate(("poor", "fine"))]
    for name in ("train", "dev"):
        (folder / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    templates = {"sst2": Template(" it was", " .", ("bad", "good"))}
    for module in (natural, reader, label_costs):
        monkeypatch.setattr(module, "TEMPLATES", templates)
    return tmp_path


def asked_of(data: Path, *, causal: bool) -> Asked:
    tokenizer = tiny_tokenizer()
    if causal:
        tokenizer.mask_token = None
    return Asked("sst2", data, tokenizer, train=10, test=7)


@pytest.mark.parametrize("causal", [False, True])
def test_states_and_logits_are_those_that_predict_the_label_word(data: Path, causal: bool) -> None:
    """One example at a time, without padding."""
    asked = asked_of(data, causal=causal)
    plm = tiny_llama() if causal else tiny_bert()
    cost = RunningCost.for_model(plm, "brownian", latent_dim=8)
    path, logits = look(plm, asked, asked.test, cost)
    assert len(asked.test) == 7
    assert path.states.shape[1] == path.context.shape[1] == len(logits) == 7
    for i, row in enumerate(asked.test.ids):
        with torch.no_grad():
            output = plm(torch.tensor([row]), output_hidden_states=True)
        at = asked.test.places[i] - causal
        for state, hidden in zip(path.states[:, i], output.hidden_states, strict=True):
            torch.testing.assert_close(state, hidden[0, at], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits[i], output.logits[0, at, asked.words], rtol=1e-4, atol=1e-5)


def test_auc_of_one_against_the_rest_by_hand() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    scores = torch.tensor([[2.0, 0.0], [0.5, 0.0], [0.0, 0.0], [1.0, 0.0]])
    assert one_against_rest(scores, labels) == pytest.approx(3 / 4)  # of four pairs one is the wrong way
    chosen = few_shot(torch.tensor([0, 1] * 10), 3, seed=5)
    assert [i % 2 for i in chosen] == [0, 0, 0, 1, 1, 1]
    assert len(set(chosen)) == 6
    assert chosen == few_shot(torch.tensor([0, 1] * 10), 3, seed=5)


def run(command: Any, *arguments: str) -> None:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny_bert(initializer_range=0.3).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n".join(TEXTS))
    return tmp_path / "model"


@pytest.mark.slow
def test_both_commands_and_their_pages(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (reader, label_costs):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    common = ("--model", str(model), "--data", str(data), "--text", str(tmp_path / "text.txt"))
    small = ("--tasks", "sst2", "--steps", "2", "--splits", "2", "--out", "reader.json")
    monkeypatch.setattr(reader, "SHOTS", 4)
    run(reader.main, *common, *small, "--readers", "lens-white", "mlp-pca")
    record = json.loads((tmp_path / "reader.json").read_text())
    assert list(record["reader"]["readers"]) == ["lens, white", "mlp, pca"]
    assert len(record["reader"]["adapted"]["sst2"]["reader"]) == 2
    page = reader_table("reader.json", record)
    assert page.count("| sst2, ") == 3
    assert "| sst2 | adapted lens |" in page
    options = ("--shots", "3", "--splits", "3", "--steps", "3", "--batch", "2", "--fit-steps", "2")
    costs = (*options, "--costs", str(tmp_path / "costs"), "--out", "costs.json")
    run(label_costs.main, *common, *costs)
    first = json.loads((tmp_path / "costs.json").read_text())["label_costs"]
    assert {(r["arm"], r["split"]) for r in first["runs"]} == {
        (arm, split) for arm in label_costs.ARMS for split in (1, 2, 3)
    }
    assert all(r["weight"] > 0 for r in first["runs"] if r["arm"] != label_costs.VANILLA)
    run(label_costs.main, *common, *costs)  # all is there
    record = json.loads((tmp_path / "costs.json").read_text())
    assert record["label_costs"]["runs"] == first["runs"]
    page = label_costs_table("costs.json", record)
    assert "a difference of about" in page
    assert page.count("| posterior, adapted lens |") == 3


def test_the_weight_makes_the_ratio_of_gradient_norms(data: Path) -> None:
    asked = asked_of(data, causal=False)
    plm = tiny_bert(initializer_range=0.3).requires_grad_(False)
    costs = {"brownian, lens": RunningCost.for_model(plm, "posterior", map="lens", latent_dim=8)}
    settings = {"shots": 3, "steps": 1, "batch": 4, "lr": 0.1, "ratio": 0.7}
    comparison = label_costs.Comparison(plm, asked, costs, settings)
    model, cost = comparison.model(0), costs["brownian, lens"]
    train = few_shot(asked.train.labels, 3, 0)
    weight = comparison.weight(model, train, cost)
    task, running = comparison.terms(model, train, cost, comparison.labels(train))
    assert running is not None
    parameters = [p for p in model.parameters() if p.requires_grad]

    def norm(term: torch.Tensor) -> float:
        grads = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        return sum(float(g.double().square().sum()) for g in grads if g is not None) ** 0.5

    assert weight * norm(running) == pytest.approx(0.7 * norm(task), rel=1e-4)
