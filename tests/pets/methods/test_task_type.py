"""The task type of a config, found in the model, and what peft's Auto classes make of the saved PET."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import AutoPeftModel, AutoPeftModelForFeatureExtraction, LoraConfig, PeftModel, get_peft_model
from pet_models import batch, shuffle
from tiny import tiny_model
from torch import nn
from transformers import LlamaForCausalLM

import pets
from pets.methods import task_type as rooms

HEADS = [
    ("llama", None, "CAUSAL_LM", "CausalLM"),
    ("t5", None, "SEQ_2_SEQ_LM", "Seq2SeqLM"),
    ("bert", "ForSequenceClassification", "SEQ_CLS", "SequenceClassification"),
    ("bert", "ForTokenClassification", "TOKEN_CLS", "TokenClassification"),
    ("bert", "ForQuestionAnswering", "QUESTION_ANS", "QuestionAnswering"),
    ("llama", "Model", "FEATURE_EXTRACTION", "FeatureExtraction"),
]
METHODS = ["lora", "adapter", "bitfit", "prompt", "ia3", "vera"]


def first(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch(model))[0]  # type: ignore[no-any-return]


def put(plm: Any, name: str) -> PeftModel:
    """With weights as if trained."""
    model = get_peft_model(plm, pets.get(name)).eval()
    shuffle(model)
    return model


@pytest.mark.parametrize("pet", METHODS)
@pytest.mark.parametrize(("model_type", "head", "kind", "auto"), HEADS, ids=[h[2] for h in HEADS])
def test_a_saved_pet_is_loaded_by_peft_s_auto_class(
    model_type: str, head: str | None, kind: str, auto: str, pet: str, tmp_path: Path
) -> None:
    if pet == "bitfit" and model_type != "bert":
        pytest.skip("no bias there")
    if pet == "prompt" and kind in ("SEQ_2_SEQ_LM", "TOKEN_CLS", "QUESTION_ANS"):
        pytest.skip("peft's own forward wants labels or more of the model here")
    tiny_model(model_type, head=head).save_pretrained(tmp_path / "base")
    plm = type(tiny_model(model_type, head=head)).from_pretrained(tmp_path / "base").eval()
    model = put(plm, pet)
    assert model.peft_config["default"].task_type == kind
    model.save_pretrained(tmp_path / "pet")
    loaded = getattr(peft, f"AutoPeftModelFor{auto}").from_pretrained(tmp_path / "pet").eval()
    assert type(loaded.get_base_model()) is type(plm)
    assert torch.equal(first(loaded), first(model))


@pytest.mark.parametrize("pet", ["lora", "adapter"])
def test_a_masked_lm_s_pet_is_put_on_it(pet: str, tmp_path: Path) -> None:
    """peft has no task type for it: its Auto class of features finds no place for the weights."""
    tiny_model("bert").save_pretrained(tmp_path / "base")
    plm = type(tiny_model("bert")).from_pretrained(tmp_path / "base").eval()
    model = put(plm, pet)
    assert model.peft_config["default"].task_type == "FEATURE_EXTRACTION"
    model.save_pretrained(tmp_path / "pet")
    again = PeftModel.from_pretrained(tiny_model("bert"), tmp_path / "pet").eval()
    assert torch.equal(first(again), first(model))
    with pytest.warns(UserWarning, match="missing adapter keys"):  # what the docstring warns of
        AutoPeftModelForFeatureExtraction.from_pretrained(tmp_path / "pet")
    plm = type(plm).from_pretrained(tmp_path / "base").eval()
    model = get_peft_model(plm, pets.get(pet, task_type=None)).eval()
    shuffle(model)
    model.save_pretrained(tmp_path / "without")
    loaded = AutoPeftModel.from_pretrained(tmp_path / "without").eval()
    assert torch.equal(first(loaded), first(model))


def test_a_class_of_ones_own_is_what_it_inherits_or_does() -> None:
    class Mine(LlamaForCausalLM):
        pass

    plm = Mine(tiny_model("llama").config)
    assert rooms.task_type(plm) == "CAUSAL_LM"
    assert get_peft_model(plm, pets.get("lora")).peft_config["default"].task_type == "CAUSAL_LM"


def test_what_was_said_stays() -> None:
    model = get_peft_model(tiny_model("llama"), pets.get("lora", task_type="FEATURE_EXTRACTION"))
    assert type(model).__name__ == "PeftModelForFeatureExtraction"
    config = LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=["q_proj"])
    model = get_peft_model(tiny_model("llama"), config)
    assert type(model) is peft.PeftModelForFeatureExtraction
    assert config.task_type == "FEATURE_EXTRACTION"


def test_a_module_that_is_no_transformers_model_is_as_before() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 3)

    model = get_peft_model(Net(), pets.get("lora", target_modules=["one"]))
    assert type(model) is peft.PeftModelForFeatureExtraction


def test_it_is_installed_once() -> None:
    importlib.reload(rooms)
    entry: Any = peft.MODEL_TYPE_TO_PEFT_MODEL_MAPPING["FEATURE_EXTRACTION"]
    assert entry.__wrapped__ is peft.PeftModelForFeatureExtraction
