"""What comes with a model beside numbers: code runs only when asked for, pickles are not read."""

from __future__ import annotations

import io
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from own_code import edit, save_own_code
from safetensors.torch import load_file, save_file
from tiny import tiny_bert, tiny_tokenizer
from transformers import BertForMaskedLM

from bridges import BadInput
from pets.cli import main
from pets.tuning.models import load_plm

IDS = torch.arange(5, 14).repeat(2, 1)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_bert().save_pretrained(tmp_path / "plm")
    tiny_tokenizer().save_pretrained(tmp_path / "plm")
    return tmp_path / "plm"


# Code


def test_code_that_a_model_needs_is_refused_in_one_line(tmp_path: Path) -> None:
    trace = save_own_code(tmp_path / "plm")
    with pytest.raises(BadInput) as caught:
        load_plm(str(tmp_path / "plm"))
    told = str(caught.value)
    for part in (
        str(tmp_path / "plm"),
        "modeling.OwnConfig",
        "modeling.OwnModel",
        "--trust-remote-code",
    ):
        assert part in told
    assert "\n" not in told
    assert not trace.exists()


@pytest.mark.parametrize("command", ["fit", "tune", "compare"])
def test_nothing_is_asked_on_standard_input(
    tmp_path: Path,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A `y` meant for something else is not taken for a leave to run code."""
    trace = save_own_code(tmp_path / "plm")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    data = ["--data", str(_glue(tmp_path))]
    rest = {
        "fit": ["--control", "random-map"],
        "tune": ["--task", "sst2", *data],
        "compare": ["--tasks", "sst2", *data],
    }[command]
    with pytest.raises(SystemExit) as stop:
        main([command, "--model", str(tmp_path / "plm"), "--out", str(tmp_path / "out"), *rest])
    assert stop.value.code == 2
    assert "--trust-remote-code" in capsys.readouterr().err
    assert not trace.exists()


def _glue(folder: Path) -> Path:
    where = folder / "glue" / "SST-2"
    where.mkdir(parents=True)
    for name in ("train.tsv", "dev.tsv"):
        rows = [f"the dog runs {k} times\t{k % 2}" for k in range(60)]
        (where / name).write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return where.parent


def test_code_in_the_place_of_a_known_architecture_is_not_run_and_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trace = save_own_code(tmp_path / "plm", model_type="bert", factor=2.0)
    with caplog.at_level(logging.WARNING, logger="pets"):
        plm, _ = load_plm(str(tmp_path / "plm"))
    assert type(plm) is BertForMaskedLM
    assert "modeling.OwnModel) is not run" in caplog.text
    assert not trace.exists()


@pytest.mark.parametrize("auto_map", [["ours.Own", "ours.Own"], {"AutoTokenizer": ["ours.Own", None]}])
def test_a_tokenizers_code_is_not_run_either(
    saved: Path, auto_map: object, caplog: pytest.LogCaptureFixture
) -> None:
    (saved / "ours.py").write_text("raise SystemExit('ran')\n")
    edit(saved / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="Own")
    with caplog.at_level(logging.WARNING, logger="pets"):
        _, tokenizer = load_plm(str(saved))
    assert "ours.Own) is not run" in caplog.text
    assert tokenizer("good [MASK]")["input_ids"] == [2, 5, 4, 3]


def test_code_runs_when_asked_for(tmp_path: Path) -> None:
    trace = save_own_code(tmp_path / "plm", factor=2.0)
    plm, _ = load_plm(str(tmp_path / "plm"), trust_remote_code=True)
    assert trace.exists()
    assert torch.equal(plm(input_ids=IDS).logits, 2 * tiny_bert()(input_ids=IDS).logits)


# Pickles, PETs


def to_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def to_indexed_pickle(folder: Path) -> None:
    names = dict.fromkeys(load_file(folder / "model.safetensors"), "pytorch_model.bin")
    to_pickle(folder)
    index = {"weight_map": names, "metadata": {}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def to_configured_pickle(folder: Path) -> None:
    to_pickle(folder)
    (folder / "pytorch_model.bin").rename(folder / "adapter_model.bin")
    edit(folder / "config.json", transformers_weights="adapter_model.bin")


@pytest.mark.parametrize("change", [to_pickle, to_indexed_pickle, to_configured_pickle])
def test_pickled_weights_are_not_read(
    saved: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(saved)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(BadInput, match=r"_model\.bin.* pickled weights are not read.*: convert"):
        load_plm(str(saved))


def test_a_pet_beside_a_model_is_not_put_on_it_unasked(saved: Path) -> None:
    (saved / "adapter_config.json").write_text("{}")
    with pytest.raises(BadInput, match=r"holds a PET \(adapter_config.json\)"):
        load_plm(str(saved))


# Broken files


DEEP = b"[" * 100_000
CONFIGS = [{"hidden_size": "32"}, {"hidden_act": "nope"}, {"num_attention_heads": 0}, {"auto_map": 3}]
CONFIGS += [{"model_type": ["bert"]}, {"id2label": 3}, {"dtype": "nope"}, {"quantization_config": "z"}]


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_a_config_of_wrong_types_is_one_line(saved: Path, changes: dict[str, object]) -> None:
    edit(saved / "config.json", **changes)
    one_line(saved)


@pytest.mark.parametrize("content", [DEEP, b"[]", b"null", b"\xff\xfe"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_files_that_are_not_what_they_should_be_are_one_line(
    saved: Path, file: str, content: bytes
) -> None:
    (saved / file).write_bytes(content)
    one_line(saved)


@pytest.mark.parametrize("weights", ["missing.safetensors", 3])
def test_a_missing_shard_is_one_line(saved: Path, weights: object) -> None:
    (saved / "model.safetensors").unlink()
    index = {"weight_map": {"bert.embeddings.word_embeddings.weight": weights}, "metadata": {}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    one_line(saved)


def test_other_shapes_are_told_as_such(saved: Path) -> None:
    edit(saved / "config.json", vocab_size=99)
    assert "other shapes than its config says" in one_line(saved)


def one_line(folder: Path) -> str:
    with pytest.raises(BadInput, match=f"model '{folder}'") as caught:
        load_plm(str(folder))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    return str(caught.value)


# Weights that are not there


def test_weights_that_are_missing_are_the_same_every_time(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    kept = {
        k: v for k, v in weights.items() if "cls.predictions.transform" not in k and "layer.2" not in k
    }
    save_file(kept, saved / "model.safetensors", metadata={"format": "pt"})
    torch.manual_seed(random.randrange(1000))
    before = torch.get_rng_state()
    one = load_plm(str(saved))[0].state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    two = load_plm(str(saved))[0].state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    drawn = one["cls.predictions.transform.dense.weight"]
    assert drawn.std() > 0
