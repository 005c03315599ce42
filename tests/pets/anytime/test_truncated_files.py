"""A truncated classifier as a folder: it comes back as it was, or is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from places import script_environment
from safetensors.torch import load_file, save_file
from tiny import tiny_tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from truncated_cases import CASES, WORDS, batches, build, lens_cost, unlabelled

import bridges
import pets
from bridges import BadInput
from pets import TruncatedClassifier, truncate

_CAUSAL = ("gpt2", "llama", "qwen3")


def made(*args: Any, layer: int = 2, merge: bool = False, bridge: str = "ou", **changes: Any) -> Any:
    model = build(*args, **changes)
    cost = lens_cost(model, bridges.parse(bridge))
    return truncate(model, cost, WORDS, layer=layer, merge=merge, batches=unlabelled())


def asked(model: TruncatedClassifier) -> torch.Tensor:
    (batch,) = batches(1, seed=5)
    found: torch.Tensor = model(**batch).probabilities
    return found


@pytest.mark.parametrize(("model_type", "pet", "head"), CASES)
def test_it_comes_back_to_the_bit_and_transformers_loads_its_model(
    model_type: str, pet: str | None, head: str | None, tmp_path: Path
) -> None:
    model = made(model_type, pet, head)
    model.save_pretrained(tmp_path / "cut", tiny_tokenizer())
    again = TruncatedClassifier.from_pretrained(tmp_path / "cut")
    assert torch.equal(asked(again), asked(model))
    assert repr(again) == repr(model)
    assert again.verbalizer == WORDS
    assert (tmp_path / "cut" / "pet" / "adapter_config.json").exists() is (pet is not None)
    auto: Any = AutoModelForCausalLM if model_type in _CAUSAL else AutoModelForMaskedLM
    plm = (AutoModelForSequenceClassification if head else auto).from_pretrained(tmp_path / "cut").eval()
    inputs = {k: v for k, v in batches(1)[0].items() if k != "labels"}
    assert len(plm(**inputs, output_hidden_states=True).hidden_states) == 3
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "cut")
    assert tokenizer("good dog").input_ids == tiny_tokenizer()("good dog").input_ids


@pytest.mark.parametrize(
    ("model_type", "pet"), [("bert", "lora"), ("gpt2", "bitfit"), ("albert", "lora")]
)
def test_merged_it_has_no_pet_and_comes_back_to_the_bit(
    model_type: str, pet: str, tmp_path: Path
) -> None:
    model = made(model_type, pet, merge=True)
    model.save_pretrained(tmp_path / "cut")
    assert not (tmp_path / "cut" / "pet").exists()
    assert torch.equal(asked(TruncatedClassifier.from_pretrained(tmp_path / "cut")), asked(model))


@pytest.mark.parametrize("pet", ["lora", "prefix", "prompt"])
def test_bfloat16_stays(pet: str, tmp_path: Path) -> None:
    build("llama", None).save_pretrained(tmp_path / "whole")
    # Not by model.to: it rounds the frequencies of rotary positions too, which files do not hold.
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.bfloat16)
    cost = lens_cost(model)
    wrapped = peft.get_peft_model(model, pets.get(pet, model=model)).eval()
    found = truncate(wrapped, cost, WORDS, layer=2, batches=unlabelled())
    found.save_pretrained(tmp_path / "cut")
    again = TruncatedClassifier.from_pretrained(tmp_path / "cut")
    dtypes = {name: p.dtype for name, p in found.model.named_parameters()}
    assert torch.bfloat16 in dtypes.values()
    assert {name: p.dtype for name, p in again.model.named_parameters()} == dtypes
    assert torch.equal(asked(again), asked(found))


def test_an_exit_that_reads_the_embedding_layer_comes_back(tmp_path: Path) -> None:
    model = made("bert", "lora", bridge="fractional:likelihood=path")
    model.save_pretrained(tmp_path / "cut")
    assert torch.equal(asked(TruncatedClassifier.from_pretrained(tmp_path / "cut")), asked(model))


def test_an_adapter_of_another_name(tmp_path: Path) -> None:
    plm = build("bert", None)
    model = peft.get_peft_model(
        plm, peft.LoraConfig(init_lora_weights=False), adapter_name="mine"
    ).eval()
    found = truncate(model, lens_cost(plm), WORDS, layer=2)
    found.save_pretrained(tmp_path / "cut")
    assert torch.equal(asked(TruncatedClassifier.from_pretrained(tmp_path / "cut")), asked(found))


@pytest.mark.slow
def test_in_another_process(tmp_path: Path) -> None:
    model = made("bert", "bitfit")
    model.save_pretrained(tmp_path / "cut")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch\n"
        "from pets import TruncatedClassifier\n"
        "from truncated_cases import batches\n"
        "found = TruncatedClassifier.from_pretrained(sys.argv[1])(**batches(1, seed=5)[0])\n"
        "torch.save(found.probabilities, sys.argv[2])\n"
    )
    command = [sys.executable, str(script), str(tmp_path / "cut"), str(tmp_path / "found")]
    told = subprocess.run(command, env=script_environment(), capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert torch.equal(torch.load(tmp_path / "found"), asked(model))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cut") / "cut"
    made("bert", "lora").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "cut"))


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "exit.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def set_tensors(folder: Path, **changes: torch.Tensor) -> None:
    """Other numbers of the exit, as if it had been saved with them."""
    file = folder / "exit.safetensors"
    save_file({**load_file(file), **changes}, file)
    digests = json.loads((folder / "exit.json").read_text())["files_sha256"]
    edit(folder, files_sha256={**digests, file.name: hashlib.sha256(file.read_bytes()).hexdigest()})


def other_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["bert.encoder.layer.1.output.dense.weight"][0, 0] += 0.01
    save_file(tensors, file, metadata={"format": "pt"})


def fewer_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["bert.encoder.layer.1.output.dense.weight"]
    save_file(tensors, file, metadata={"format": "pt"})


def cut_short(name: str) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        file = folder / name
        file.write_bytes(file.read_bytes()[:-20])

    return cut


def appended(name: str) -> Callable[[Path], None]:
    def append(folder: Path) -> None:
        file = folder / name
        file.write_bytes(file.read_bytes() + b" ")

    return append


def blocks(*paths: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder, blocks=[[path, 0] for path in paths])


BROKEN: list[tuple[Callable[[Path], Any], str]] = [
    (lambda f: (f / "exit.json").unlink(), r"cut holds no truncated model: exit\.json cannot be read"),
    (lambda f: shutil.rmtree(f), "cut holds no truncated model"),
    (lambda f: (f / "exit.json").write_text("[1"), r"exit\.json cannot be read"),
    (lambda f: (f / "exit.json").write_text("[1]"), "has format None, expected 1"),
    (lambda f: edit(f, format=2), "has format 2, expected 1: .* or by a newer version"),
    (lambda f: edit(f, reads=[7]), r"reads \[7\]: expected layers up to 2"),
    (lambda f: edit(f, reads=[]), r"reads \[\]: expected layers up to 2"),
    (lambda f: edit(f, reads="2"), "reads is '2', expected a list"),
    (lambda f: edit(f, full_size={"layers": 4}), r"full_size\.parameters is missing"),
    (lambda f: edit(f, blocks=[]), "expected layers up to 0"),
    (lambda f: edit(f, model={}), r"exit\.json is incomplete or malformed \(KeyError"),
    (blocks("bert.encoder.layer.0", "bert.encoder.layer.2"), "is incomplete or malformed"),
    (lambda f: set_tensors(f, bias=torch.full((3,), torch.nan)), "has tensors of shapes"),
    (lambda f: set_tensors(f, bias=torch.full((4,), torch.nan)), "bias has numbers that are not finite"),
    (lambda f: set_tensors(f, scale=torch.tensor(torch.inf)), "scale has numbers that are not finite"),
    (lambda f: set_tensors(f, weight=torch.zeros(1, 4, 48)), r"expected .*\(1, 4, 32\)"),
    (cut_short("exit.safetensors"), r"exit\.safetensors is another file than exit\.json was saved with"),
    (appended("config.json"), r"config\.json is another file than exit\.json was saved with"),
    (appended("pet/adapter_config.json"), r"adapter_config\.json is another file"),
    (cut_short("pet/adapter_model.safetensors"), r"adapter_model\.safetensors is another file"),
    (lambda f: shutil.rmtree(f / "pet"), "cut lacks pet/"),
    (lambda f: (f / "exit.safetensors").unlink(), r"cut lacks exit\.safetensors"),
    (lambda f: (f / "config.json").unlink(), r"cut lacks config\.json"),
    (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded"),
    (cut_short("model.safetensors"), "cannot be loaded"),
    (other_weights, r"the weights in .* are others than exit\.json was saved with"),
    (fewer_weights, "has no weights for bert.encoder.layer.1.output.dense.weight"),
]


@pytest.mark.parametrize(("spoil", "message"), BROKEN)
def test_broken_files_are_refused_in_one_line(
    spoil: Callable[[Path], Any], message: str, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(BadInput, match=message) as error:
        TruncatedClassifier.from_pretrained(folder)
    assert "\n" not in str(error.value)


def test_an_exit_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    made("bert", None, hidden_size=48).save_pretrained(tmp_path / "wide")
    for name in ("exit.safetensors", "exit.json"):
        shutil.copy(tmp_path / "wide" / name, folder / name)
    with pytest.raises(BadInput, match=r"config\.json is another file than exit\.json was saved with"):
        TruncatedClassifier.from_pretrained(folder)


def test_what_it_wrote_is_replaced_and_what_others_wrote_is_not(folder: Path, tmp_path: Path) -> None:
    other = made("llama", None)
    other.save_pretrained(folder)
    assert not (folder / "pet").exists()
    assert torch.equal(asked(TruncatedClassifier.from_pretrained(folder)), asked(other))
    (folder / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(BadInput, match="cut exists and is not just a truncated model"):
        other.save_pretrained(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    plm = build("bert", None)
    plm.save_pretrained(tmp_path / "model")
    with pytest.raises(BadInput, match="model exists and is not just a truncated model"):
        other.save_pretrained(tmp_path / "model")


def test_files_of_others_in_the_pets_folder_are_kept(folder: Path) -> None:
    (folder / "pet" / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="is not just a truncated model"):
        made("bert", None).save_pretrained(folder)


def test_what_does_not_come_back_is_not_written(tmp_path: Path) -> None:
    """TinyLoRA numbers its vectors through all layers."""
    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType("TINYLORA")](target_modules=["query"])
    model = made("bert", config)
    with pytest.raises(BadInput, match=r"does not come back from its files as it is: .* merge=True"):
        model.save_pretrained(tmp_path / "cut")
    assert list(tmp_path.iterdir()) == []
    made("bert", config, merge=True).save_pretrained(tmp_path / "cut")


def test_a_tokenizer_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="tokenizer='bert': expected the model's tokenizer"):
        made("bert", None).save_pretrained(tmp_path / "cut", "bert")
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_of_another_mask_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.mask_token = "good"
    with pytest.raises(BadInput, match=r"mask is token \d+, and the labels' words were made with"):
        made("bert", None).save_pretrained(tmp_path / "cut", tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_a_file_is_kept(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    (folder / "model.safetensors" / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="is not just a truncated model"):
        made("bert", None).save_pretrained(folder)
    assert (folder / "model.safetensors" / "notes.txt").read_text() == "mine"
