"""Loading: what is missing, unknown or broken is said, never passed over."""

from __future__ import annotations

import json
import logging
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from tiny import tiny_bert, tiny_model, tiny_tokenizer
from torch import Tensor
from transformers import BertForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

import pets
from bridges import BadInput, ModelSpec
from pets.tuning.models import HowLoaded, load_outline, load_pet, load_plm


@pytest.fixture
def saved(tmp_path: Path, bert: BertForMaskedLM, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with the tiny BERT and its tokenizer."""
    return save(bert, tokenizer, tmp_path / "plm")


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def pet(tmp_path: Path) -> tuple[Path, Tensor]:
    """A saved LoRA that changes the logits, and the logits of the tuned model."""
    model = get_peft_model(tiny_bert(), pets.get("lora", init_lora_weights=False)).eval()
    model.save_pretrained(tmp_path / "pet")
    return tmp_path / "pet", model(input_ids=IDS).logits.detach()


IDS = torch.arange(5, 14).repeat(2, 1)


def test_a_whole_model_loads_as_it_was_without_a_warning(
    saved: Path, bert: BertForMaskedLM, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="pets"):
        plm, tokenizer = load_plm(str(saved))
    assert not caplog.records
    assert not plm.training
    assert torch.equal(plm(input_ids=IDS).logits, bert(input_ids=IDS).logits)
    assert tokenizer("good [MASK]")["input_ids"] == [2, 5, 4, 3]


def test_a_half_precision_checkpoint_is_loaded_in_float32(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    save(tiny_bert().to(torch.bfloat16), tokenizer, tmp_path / "half")
    plm, _ = load_plm(str(tmp_path / "half"))
    assert {p.dtype for p in plm.parameters()} == {torch.float32}


def test_missing_head_weights_are_named(
    saved: Path, bert: BertForMaskedLM, caplog: pytest.LogCaptureFixture
) -> None:
    config = (saved / "config.json").read_text()  # says BertForMaskedLM
    bert.bert.save_pretrained(saved)  # the encoder's weights alone
    (saved / "config.json").write_text(config)
    with caplog.at_level(logging.WARNING, logger="pets"):
        load_plm(str(saved))
    (message,) = [r.getMessage() for r in caplog.records if r.name == "pets.tuning.models"]
    assert "cls.predictions.transform.dense.weight" in message
    assert "random" in message
    assert "bert.encoder" not in message


HEADS = ("BertForMaskedLM", "LlamaForCausalLM", "T5ForConditionalGeneration", "BertLMHeadModel")


@pytest.mark.parametrize("name", [*HEADS, "BertForSequenceClassification"])
def test_a_model_is_loaded_as_what_it_was_saved_as(
    name: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    kind = re.match("Bert|Llama|T5", name)
    assert kind is not None
    options = {"is_decoder": True} if name == "BertLMHeadModel" else {}
    plm = tiny_model(kind[0].lower(), head=name.removeprefix(kind[0]), **options)
    folder = save(plm, tokenizer, tmp_path / "plm")
    loaded, _ = load_plm(str(folder))
    assert type(loaded).__name__ == name
    inputs = {"input_ids": IDS, **({"decoder_input_ids": IDS} if kind[0] == "T5" else {})}
    assert torch.equal(loaded(**inputs).logits, plm(**inputs).logits)
    assert type(load_outline(str(folder))[0]).__name__ == name


@pytest.mark.parametrize(
    ("pad", "end", "used"), [("[PAD]", "[SEP]", 0), (None, "[SEP]", 3), (None, None, 0)]
)
def test_a_causal_classifier_without_a_padding_token_can_be_asked(
    pad: str | None, end: str | None, used: int, tmp_path: Path
) -> None:
    plm = tiny_model("gpt2", head="ForSequenceClassification", num_labels=2)
    plm.config.pad_token_id = None
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token, tokenizer.eos_token = pad, end
    loaded, _ = load_plm(str(save(plm, tokenizer, tmp_path / "plm")))
    assert loaded.config.pad_token_id == used
    assert ModelSpec.of(loaded).hidden_size == 32


def test_a_config_that_names_no_class_gets_the_first_that_there_is(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    del config["architectures"]
    (saved / "config.json").write_text(json.dumps(config))
    assert isinstance(load_plm(str(saved))[0], BertForMaskedLM)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_kept_in_the_dtype_that_is_asked_for(dtype: str, saved: Path) -> None:
    plm, _ = load_plm(str(saved), HowLoaded(dtype))
    assert {p.dtype for p in plm.parameters()} == {getattr(torch, dtype)}


def test_another_way_to_keep_them_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="unknown dtype 'int8'"):
        HowLoaded("int8")
    with pytest.raises(BadInput, match="unknown quantize '2bit'"):
        HowLoaded(quantize="2bit")
    monkeypatch.setattr("pets.tuning.models.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="needs bitsandbytes, which is not installed"):
        HowLoaded(quantize="4bit").options()


@pytest.mark.parametrize("name", ["/no/such/folder", "no/such-model", "nosuch"])
def test_a_model_that_is_not_there_is_one_line(name: str) -> None:
    with pytest.raises(BadInput, match=f"^model '{name}' cannot be loaded: ") as caught:
        load_plm(name)
    assert "\n" not in str(caught.value)


def test_without_a_connection_it_is_told_what_to_do() -> None:
    """In the tests' processes HF_HUB_OFFLINE is set."""
    words = "it is no folder here, and the hub cannot be asked: .* go online, or give a local folder"
    with pytest.raises(BadInput, match=words):
        load_plm("nosuch/model")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"{}"),
        ("model.safetensors", b"no weights"),
        ("model.safetensors", None),
        ("tokenizer.json", b"{"),
    ],
)
def test_a_broken_model_folder_is_one_line(saved: Path, file: str, content: bytes | None) -> None:
    if content is None:
        (saved / file).unlink()
    else:
        (saved / file).write_bytes(content)
    with pytest.raises(BadInput, match=r"cannot be loaded: \w") as caught:
        load_plm(str(saved))
    assert "\n" not in str(caught.value)


def test_weights_of_other_shapes_are_refused(saved: Path) -> None:
    config = saved / "config.json"
    config.write_text(config.read_text().replace('"intermediate_size": 48', '"intermediate_size": 40'))
    with pytest.raises(BadInput, match="cannot be loaded"):
        load_plm(str(saved))


def test_a_pet_comes_back_bit_for_bit(pet: tuple[Path, Tensor], bert: BertForMaskedLM) -> None:
    folder, logits = pet
    assert not torch.equal(bert(input_ids=IDS).logits, logits)
    assert torch.equal(load_pet(bert, folder).eval()(input_ids=IDS).logits, logits)


FIRST = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight"


def less(tensors: dict[str, Tensor]) -> None:
    del tensors[FIRST]


def more(tensors: dict[str, Tensor]) -> None:
    tensors[FIRST.replace("query", "key")] = tensors[FIRST].clone()


def other(tensors: dict[str, Tensor]) -> None:
    tensors[FIRST] = tensors[FIRST][:4].clone()


@pytest.mark.parametrize(
    ("change", "named"), [(less, FIRST), (more, "key"), (other, "layer.0.attention.self.query.lora_A")]
)
def test_a_pet_must_fit_weight_by_weight(
    pet: tuple[Path, Tensor], bert: BertForMaskedLM, change: object, named: str
) -> None:
    path = pet[0] / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)  # type: ignore[operator]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=named) as caught:
        load_pet(bert, pet[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("content", [None, b"broken"], ids=["missing", "corrupt"])
def test_a_pet_folder_with_a_bad_file_is_refused(
    pet: tuple[Path, Tensor], bert: BertForMaskedLM, file: str, content: bytes | None
) -> None:
    (pet[0] / file).unlink()
    if content is not None:
        (pet[0] / file).write_bytes(content)
    with pytest.raises(BadInput, match="holds no PET for this model") as caught:
        load_pet(bert, pet[0])
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_holds_no_pet(tmp_path: Path, bert: BertForMaskedLM) -> None:
    with pytest.raises(BadInput, match="nowhere holds no PET"):
        load_pet(bert, tmp_path / "nowhere")


def test_a_pet_of_a_wider_model_is_refused(pet: tuple[Path, Tensor]) -> None:
    with pytest.raises(BadInput, match="holds no PET for this model"):
        load_pet(tiny_bert(hidden_size=64), pet[0])


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        ({"amx_tile": True, "avx512_bf16": False}, "bfloat16"),
        ({"amx_tile": False, "avx512_bf16": True}, "bfloat16"),
        ({"amx_tile": False, "avx512_bf16": False}, "float32"),
        ({}, "float32"),  # a torch that cannot be asked
    ],
)
def test_auto_is_the_dtype_that_is_fast_here(
    has: dict[str, bool],
    expected: str,
    saved: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("amx_tile", "avx512_bf16"):
        monkeypatch.delattr(torch.cpu, f"_is_{name}_supported", raising=False)
        if name in has:
            has_it = partial(bool, has[name])
            monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", has_it, raising=False)
    with caplog.at_level("INFO"):
        how = HowLoaded("auto")
    assert f"--dtype auto is {expected} on this machine" in caplog.text
    assert how == HowLoaded(expected)
    plm, _ = load_plm(str(saved), how)
    assert {p.dtype for p in plm.parameters()} == {getattr(torch, expected)}


@pytest.mark.parametrize("bf16", [True, False])
def test_auto_on_a_gpu_asks_whether_it_has_bfloat16(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    assert HowLoaded("auto").dtype == ("bfloat16" if bf16 else "float32")
