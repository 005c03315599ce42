"""PET methods by name: the published defaults, and a start that equals the frozen model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from shared_files import needs_shared, shared
from transformers import BertForMaskedLM

import pets
from bridges import BadInput
from pets.models import load_plm

MINILM = ("models", "minilm-l6-mlm")


def lora_targets(model: torch.nn.Module) -> set[str]:
    """Last names of the layers that got a LoRA."""
    return {
        name.split(".lora_A")[0].rpartition(".")[2]
        for name, _ in model.named_modules()
        if "lora_A" in name
    }


def test_lora_has_the_published_settings(bert: BertForMaskedLM) -> None:
    config = pets.get("lora")
    assert isinstance(config, LoraConfig)
    model = get_peft_model(bert, config)
    assert lora_targets(model) == {"query", "value"}
    layer = bert.bert.encoder.layer[0].attention.self.query
    assert layer.lora_A["default"].weight.shape == (8, 32)
    assert layer.scaling == {"default": 1.0}


def test_only_the_lora_is_trainable(bert: BertForMaskedLM) -> None:
    model = get_peft_model(bert, pets.get("lora"))
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {name for name, _ in model.named_parameters() if "lora_" in name}
    assert len(trainable) == 3 * 2 * 2  # layers, projections, factors


def test_alpha_follows_r_so_that_the_scale_stays_one(bert: BertForMaskedLM) -> None:
    model = get_peft_model(bert, pets.get("lora", r=4))
    assert model.peft_config["default"].lora_alpha == 4
    assert bert.bert.encoder.layer[0].attention.self.value.scaling == {"default": 1.0}


def test_options_replace_the_defaults(bert: BertForMaskedLM) -> None:
    config = pets.get("lora", r=2, lora_alpha=6, target_modules=["key"], lora_dropout=0.5)
    model = get_peft_model(bert, config)
    assert lora_targets(model) == {"key"}
    assert bert.bert.encoder.layer[0].attention.self.key.scaling == {"default": 3.0}
    assert config.lora_dropout == 0.5


def test_every_call_gives_a_config_of_its_own() -> None:
    first = pets.get("lora")
    first.r = 1
    assert pets.get("lora").r == 8


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lorra", {}, r"unknown PET 'lorra'; did you mean 'lora'\? \(known: .*lora.*\)"),
        ("xyzzy", {}, r"unknown PET 'xyzzy' \(known: "),
        (None, {}, r"unknown PET None"),
        ("lora", {"rank": 8}, r"PET 'lora' with \{'rank': 8\}: .*'rank'"),
    ],
)
def test_what_is_unknown_is_refused_by_name(name: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        pets.get(name, **options)


def test_available_names_can_all_be_got() -> None:
    assert "lora" in pets.available()
    assert pets.available() == sorted(pets.available())
    for name in pets.available():
        pets.get(name)


def test_a_new_lora_leaves_the_logits_bit_for_bit(bert: BertForMaskedLM) -> None:
    ids = torch.randint(5, 60, (3, 9))
    with torch.no_grad():
        before = bert(input_ids=ids).logits
        after = get_peft_model(bert, pets.get("lora"))(input_ids=ids).logits
    assert torch.equal(before, after)


@needs_shared(*MINILM)
def test_a_new_lora_leaves_a_real_models_logits_bit_for_bit() -> None:
    plm, tokenizer = load_plm(str(shared(*MINILM)))
    batch = tokenizer(["the film was [MASK].", "good"], return_tensors="pt", padding=True)
    with torch.no_grad():
        before = plm(**batch).logits
        after = get_peft_model(plm, pets.get("lora"))(**batch).logits
    assert torch.equal(before, after)
