"""What a run is made of: another model, tokenizer or code is never taken for the one it began with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from own_code import save_own_code
from peft import get_peft_model
from tiny import TEXTS, tiny_bert, tiny_tokenizer
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import nn
from transformers import PreTrainedTokenizerFast

import bridges
import pets
from bridges import BadInput, RunningCost
from bridges.fitting.loop import FitLoop
from bridges.model.identity import model_identity, own_code
from pets.tuning.models import load_plm

Change = Callable[[Any], object]


def differing(change_model: Change | None = None, change_tokenizer: Change | None = None) -> set[str]:
    """Which parts of the identity a change makes another."""
    before = model_identity(tiny_bert(), tiny_tokenizer())
    plm, tokenizer = tiny_bert(), tiny_tokenizer()
    if change_model:
        change_model(plm)
    if change_tokenizer:
        change_tokenizer(tokenizer)
    after = model_identity(plm, tokenizer)
    return {name for name in before if before[name] != after[name]}


def one_weight(plm: Any) -> None:
    with torch.no_grad():
        plm.bert.encoder.layer[1].output.dense.weight[3, 5] += 1e-6


def scaled_norm(plm: Any) -> None:
    plm.bert.encoder.layer[2].output.LayerNorm.eps = 1e-3


def other_dropout(plm: Any) -> None:
    plm.bert.embeddings.dropout.p = 0.3


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (one_weight, "model_sha256"),
        (lambda plm: plm.cls.predictions.bias.data.add_(1), "model_sha256"),
        (lambda plm: setattr(plm.config, "attention_probs_dropout_prob", 0.5), "config_sha256"),
        (lambda plm: setattr(plm.config, "is_decoder", True), "config_sha256"),
        (lambda plm: plm.set_attn_implementation("eager"), "config_sha256"),
        (scaled_norm, "config_sha256"),
        (other_dropout, "config_sha256"),
    ],
)
def test_what_a_model_computes_with_counts(change: Change, part: str) -> None:
    assert differing(change) == {part}


def swapped_words(tokenizer: PreTrainedTokenizerFast) -> None:
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = pipeline["model"]["vocab"]
    vocabulary["liked"], vocabulary["snow"] = vocabulary["snow"], vocabulary["liked"]
    other = type(tokenizer.backend_tokenizer).from_str(json.dumps(pipeline))
    tokenizer._tokenizer = other


@pytest.mark.parametrize(
    "change",
    [
        swapped_words,
        lambda t: setattr(t.backend_tokenizer, "normalizer", NFC()),
        lambda t: setattr(t.backend_tokenizer, "pre_tokenizer", WhitespaceSplit()),
        lambda t: t.add_tokens(["terrific"]),
        lambda t: setattr(t, "padding_side", "left"),
        lambda t: setattr(t, "mask_token", "[UNK]"),
    ],
)
def test_what_a_tokenizer_does_counts(change: Change) -> None:
    assert differing(change_tokenizer=change) == {"tokenizer_sha256"}


def test_where_it_is_from_and_how_it_was_used_do_not_count() -> None:
    def use(tokenizer: Any) -> None:
        tokenizer(["a dog", "dog"], padding=True, truncation=True, max_length=4)
        tokenizer.chat_template = "x"
        tokenizer.name_or_path = "there"

    def move(plm: Any) -> None:
        plm.config.name_or_path = "there"
        plm.train()
        plm(input_ids=torch.tensor([[5]]), output_hidden_states=True)
        plm.requires_grad_(False)

    assert not differing(move, use)


def test_files_and_objects_and_processes_agree(tmp_path: Path) -> None:
    tiny_bert().save_pretrained(tmp_path / "plm")
    tiny_tokenizer().save_pretrained(tmp_path / "plm")
    expected = model_identity(*load_plm(str(tmp_path / "plm")))
    script = f"""
import json
from bridges.model.identity import model_identity
from pets.tuning.models import load_plm
print(json.dumps(model_identity(*load_plm({str(tmp_path / "plm")!r}))))
"""
    assert json.loads(processes.run(["-c", script]).stdout) == expected


def test_a_pet_on_the_model_counts_with_its_weights() -> None:
    found = []
    for scale in (1.0, 1.0, 2.0):
        torch.manual_seed(0)
        model = get_peft_model(tiny_bert(), pets.get("lora", init_lora_weights=False))
        for name, value in model.named_parameters():
            if "lora_A" in name:
                value.data.mul_(scale)
        found.append(model_identity(model, tiny_tokenizer())["model_sha256"])
    assert found[0] == found[1]
    assert len({*found, model_identity(tiny_bert(), tiny_tokenizer())["model_sha256"]}) == 3


# Code


def test_code_of_libraries_is_known_by_their_versions() -> None:
    assert own_code(tiny_bert(), tiny_tokenizer(), RunningCost.for_model(tiny_bert())) is None


def test_a_class_of_ones_own_counts_with_its_file() -> None:
    class Doubled(nn.Linear):
        pass

    assert own_code(nn.Sequential(nn.Linear(2, 2))) is None
    assert own_code(nn.Sequential(nn.Linear(2, 2), Doubled(2, 2))) is not None


def test_code_that_comes_with_a_model_counts_with_all_its_files(tmp_path: Path) -> None:
    """The class is the same in both, and so are all weights; a file that it imports is another."""
    found = []
    for name, factor in (("one", 1.0), ("same", 1.0), ("two", 2.0)):
        save_own_code(tmp_path / name, factor=factor)
        code = (tmp_path / name / "modeling.py").read_text().replace(f"{name}-ran", "ran")
        (tmp_path / name / "modeling.py").write_text(code)
        found.append(model_identity(*load_plm(str(tmp_path / name), trust_remote_code=True)))
    one, same, two = found
    assert one == same
    assert {part for part in one if one[part] != two[part]} == {"model_code"}


# An interrupted fit


def interrupted_fit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = FitLoop.step

    def stop(self: FitLoop, reading: Any) -> None:
        if reading.number == 3:
            raise KeyboardInterrupt
        step(self, reading)

    with monkeypatch.context() as patch:
        patch.setattr(FitLoop, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(folder, tiny_bert(), tiny_tokenizer())


def fit(folder: Path, plm: Any, tokenizer: Any) -> None:
    cost = RunningCost.for_model(plm, "brownian")
    settings = {"max_steps": 6, "eval_every": 2, "batch_size": 4, "max_length": 16, "held_out": 8}
    cost.fit(plm, tokenizer, TEXTS, folder=folder, progress=False, **settings)


@pytest.mark.parametrize(
    ("of_model", "of_tokenizer", "told"),
    [
        (one_weight, None, "another model: other weights"),
        (other_dropout, None, "another model: another config"),
        (None, swapped_words, "another tokenizer"),
    ],
)
def test_an_interrupted_fit_does_not_go_on_with_another_model(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    of_model: Change | None,
    of_tokenizer: Change | None,
    told: str,
) -> None:
    interrupted_fit(tmp_path / "fit", monkeypatch)
    plm, tokenizer = tiny_bert(), tiny_tokenizer()
    if of_model:
        of_model(plm)
    if of_tokenizer:
        of_tokenizer(tokenizer)
    with pytest.raises(BadInput, match=rf"is from another run \({told}.*give what it was made with"):
        fit(tmp_path / "fit", plm, tokenizer)
    fit(tmp_path / "fit", tiny_bert(), tiny_tokenizer())


def test_an_interrupted_fit_does_not_go_on_with_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_fit(tmp_path / "fit", monkeypatch)
    monkeypatch.setattr(bridges.fitting.together, "source_digest", lambda *folders: "0" * 12)
    with pytest.raises(BadInput, match=r"code '\w+' there, '0+' here"):
        fit(tmp_path / "fit", tiny_bert(), tiny_tokenizer())
