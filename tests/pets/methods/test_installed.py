"""Methods of the installed peft by their own names, and the configs of saved adapters."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from tiny import tiny_model

import pets
from bridges import BadInput
from pets import methods
from pets.tasks.base import CLASSES
from pets.tasks.families import CAUSAL
from pets.tuning.tune import tune
from tests.pets.tasks.test_asking import SETTINGS, TOKENIZER, data_of, model_of

WORK = ("boft", "ia3", "ln_tuning", "loha", "lokr", "oft", "p_tuning", "vera")


@pytest.mark.parametrize("name", WORK)
def test_another_method_of_peft_is_tuned_with(name: str, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, pet=name)
    data = data_of(CLASSES)
    result = tune(model_of(CAUSAL), TOKENIZER, data, settings, tmp_path / "run", progress=False)
    assert result["trainable_parameters"] > 0
    assert result["pet"] == name
    config = json.loads((tmp_path / "run" / "pet" / "adapter_config.json").read_text())
    assert config["peft_type"].lower() == name


def test_names_are_peft_s_in_any_writing() -> None:
    assert methods.split("LN-tuning") == ("ln_tuning", {})
    assert methods.split("prefix_tuning:num_virtual_tokens=3") == ("prefix", {"num_virtual_tokens": 3})
    assert isinstance(pets.get("ia3"), IA3Config)
    assert pets.available() == ["adapter", "bitfit", "lora", "prefix", "prompt"]
    with pytest.raises(BadInput, match=r"unknown PET 'lorra'.*Others of the installed peft: .*ia3"):
        methods.split("lorra")
    for name, takes in (
        ("lora", "r, target_modules, .*lora_alpha"),
        ("ia3", "target_modules, .*init_ia3"),
    ):
        with pytest.raises(BadInput, match=f"PET '{name}' has no option 'rank'; it takes {takes}"):
            pets.get(name, rank=3)


def test_a_saved_adapter_s_config_is_its_method_and_options(tmp_path: Path) -> None:
    plm = tiny_model("llama")
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj"], use_rslora=True)
    get_peft_model(plm, config).save_pretrained(tmp_path / "saved")
    name, options = methods.split(str(tmp_path / "saved"))
    assert name == "lora"
    assert {k: options[k] for k in ("r", "lora_alpha", "use_rslora")} == {
        "r": 3,
        "lora_alpha": 6,
        "use_rslora": True,
    }
    assert (name, options) == methods.split(str(tmp_path / "saved" / "adapter_config.json"))
    again: Any = pets.get(name, **options)
    shapes = [
        {n: p.shape for n, p in get_peft_model(tiny_model("llama"), c).named_parameters()}
        for c in (config, again)
    ]
    assert shapes[0] == shapes[1]
    assert torch.equal(torch.tensor(again.lora_alpha), torch.tensor(6))


@pytest.mark.parametrize("alpha", [8, 4, 2.5])
def test_a_saved_number_that_is_peft_s_default_is_kept(alpha: float, tmp_path: Path) -> None:
    config = LoraConfig(r=4, lora_alpha=alpha, target_modules=["q_proj"])  # peft's own is 8, ours is r
    get_peft_model(tiny_model("llama"), config).save_pretrained(tmp_path)
    again: Any = pets.get("lora", **methods.split(str(tmp_path))[1])
    assert (again.r, again.lora_alpha) == (4, alpha)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "says peft_type None"),
        ('{"peft_type": "MAGIC"}', "says peft_type 'MAGIC': expected the adapter_config.json"),
    ],
)
def test_what_is_no_config_is_refused(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text(content)
    with pytest.raises(BadInput, match=words) as caught:
        methods.split(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["poly", "adaption_prompt", "trainable_tokens", "miss"])
def test_what_cannot_be_tuned_so_is_one_line(name: str, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, pet=name)
    with pytest.raises(BadInput, match=f"PET '{name}'") as caught:
        tune(model_of(CAUSAL), TOKENIZER, data_of(CLASSES), settings, tmp_path / "run", progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
