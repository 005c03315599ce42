"""PETs by name: what is known of them, their text form, and one of a third party."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from peft import IA3Config, LoraConfig, get_peft_model
from tiny import tiny_bert
from torch import nn

import pets
from bridges import BadInput
from pets import methods
from pets.tuning.settings import TuneSettings
from tests.pets.tuning.test_tuning import run


def test_what_is_known_of_a_pet() -> None:
    record = pets.info("lora")
    assert record.cls is methods.Lora
    assert record.description.startswith("Low-rank updates")
    assert record.defaults["r"] == 8
    assert {"target_modules", "lora_alpha"} <= set(record.defaults)
    assert not {"task_type", "peft_type", "base_model_name_or_path"} & set(record.defaults)
    assert pets.info("prompt").defaults["num_virtual_tokens"] == 20
    for name in pets.available():
        assert pets.info(name).description.rstrip(".")[-1].isdigit(), name  # its source


def test_a_pet_in_one_word() -> None:
    assert isinstance(pets.parse("lora"), LoraConfig)
    config = pets.parse("lora:r=16,target_modules=all-linear,use_dora=true,lora_dropout=0.5")
    assert (config.r, config.lora_alpha, config.target_modules) == (16, 16, "all-linear")
    assert (config.use_dora, config.lora_dropout) == (True, 0.5)
    assert pets.parse("lora:target_modules=[query,key]").target_modules == {"query", "key"}
    assert pets.parse("prompt:num_virtual_tokens=3", model=tiny_bert()).token_dim == 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lara:r=2", r"unknown PET 'lara'; did you mean 'lora'"),
        ("lora:r", r"PET 'lora:r': 'r' is not key=value, as in lora:r=16,target_modules=all-linear"),
        ("lora:r=0", r"r=0: expected a whole number above 0"),
        ("lora:rank=2", r"PET 'lora' has no option 'rank'; it takes r"),
        ("lora:lora_alpha=-1", r"PET 'lora' with lora_alpha=-1: expected a number above 0"),
        (3, r"PET 3: expected a text like lora:r=16"),
    ],
)
def test_what_cannot_be_read_is_refused(text: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        pets.parse(text)


def test_a_third_partys_pet_is_tuned_by_name(tmp_path: Path) -> None:
    class IA3(pets.PET, name="ia3"):
        """Scales keys, values and feed-forward: Liu et al., NeurIPS 2022, arXiv 2205.05638."""

        config_class = IA3Config
        learning_rate = 3e-3

        def on(self, model: nn.Module) -> dict[str, Any]:
            if type(model).__name__ == "LlamaForCausalLM":
                raise BadInput("not here")
            return {"target_modules": ["key"], "feedforward_modules": [], **super().on(model)}

    plm = tiny_bert()
    model = get_peft_model(plm, pets.get("ia3", model=plm))
    assert [n for n, p in model.named_parameters() if p.requires_grad]
    model.unload()
    assert pets.info("ia3").cls is IA3
    assert TuneSettings(pet="ia3").rate == 3e-3
    result = run(tmp_path, plm=plm, pet="ia3", max_steps=1, eval_every=1)
    assert result["pet"] == "ia3"
    with pytest.raises(BadInput, match=r"PET name 'lora' is taken by pets\.methods\.lora\.Lora"):
        type("Mine", (pets.PET,), {}, name="lora")
