"""PET methods by name: the published defaults, and a start that equals the frozen model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from pet_models import ALL, IDS, batch, logits, trainable
from shared_files import needs_shared, shared
from tiny import tiny_model
from transformers import BertForMaskedLM, XLNetConfig, XLNetLMHeadModel

import pets
from bridges import BadInput
from pets.methods import lora
from pets.methods.prompts import PREFIX_MODELS
from pets.tuning.models import load_plm

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
        ("lora", {"rank": 8}, r"PET 'lora' has no option 'rank'; it takes r"),
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


LORA = {
    "deberta": {"in_proj"},
    "deberta-v2": {"query_proj", "value_proj"},
    "distilbert": {"q_lin", "v_lin"},
    "gpt2": {"c_attn"},
    "modernbert": {"Wqkv"},
    "t5": {"q", "v"},
    **{name: {"q_proj", "v_proj"} for name in ("llama", "qwen2", "qwen3")},
}


@pytest.mark.parametrize("model_type", ALL)
def test_lora_finds_query_and_value_in_every_architecture(model_type: str, tmp_path: Path) -> None:
    before = logits(tiny_model(model_type))
    plm = tiny_model(model_type)
    model = get_peft_model(plm, pets.get("lora")).eval()
    assert type(model.peft_config["default"]) is LoraConfig
    assert lora_targets(plm) == LORA.get(model_type, {"query", "value"})
    assert torch.equal(logits(model), before)
    model.save_pretrained(tmp_path)
    targets_in_file = LoraConfig.from_pretrained(tmp_path).target_modules
    assert set(targets_in_file) == lora_targets(plm)


def test_peft_keeps_its_own_lora_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lora.PEFT_LORA_TARGETS, "albert", ["dense"])
    lora.add_lora_targets()
    assert lora.PEFT_LORA_TARGETS["albert"] == ["dense"]
    assert lora.PEFT_LORA_TARGETS["distilbert"] == ["q_lin", "v_lin"]


def test_prefix_and_prompt_have_twenty_tokens() -> None:
    for name, kind in (("prefix", PrefixTuningConfig), ("prompt", PromptTuningConfig)):
        config = pets.get(name)
        assert type(config) is kind
        assert (config.num_virtual_tokens, config.task_type) == (20, "FEATURE_EXTRACTION")
        assert pets.get(name, num_virtual_tokens=3).num_virtual_tokens == 3
        with pytest.raises(BadInput, match="virtual_tokens"):
            pets.get(name, virtual_tokens=3)


@pytest.mark.parametrize("model_type", PREFIX_MODELS)
def test_a_prefix_trains_where_it_is_said_to(model_type: str, tmp_path: Path) -> None:
    plm = tiny_model(model_type)
    base = logits(plm)
    model = get_peft_model(plm, pets.get("prefix", model=plm, num_virtual_tokens=4)).eval()
    after = logits(model)
    assert after.shape == base.shape
    assert not torch.allclose(after, base, atol=1e-3)
    model(**batch(model)).logits.pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in trainable(model).values())
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny_model(model_type), tmp_path).eval()
    assert torch.equal(logits(again), after)


@pytest.mark.parametrize("model_type", [name for name in ALL if name not in PREFIX_MODELS])
def test_a_prefix_that_would_not_be_read_is_refused(model_type: str) -> None:
    plm = tiny_model(model_type)
    with pytest.raises(BadInput, match=rf"not known to work on \w+ \({model_type}\): use 'lora'"):
        pets.get("prefix", model=plm)


def test_a_prefix_under_gradient_checkpointing_is_refused(bert: BertForMaskedLM) -> None:
    bert.gradient_checkpointing_enable()
    with pytest.raises(BadInput, match="no gradient under gradient checkpointing"):
        pets.get("prefix", model=bert)
    bert.gradient_checkpointing_disable()
    pets.get("prefix", model=bert)


@pytest.mark.parametrize("model_type", [name for name in ALL if name != "t5"])
def test_a_prompt_starts_at_a_token_trains_and_comes_back(model_type: str, tmp_path: Path) -> None:
    plm = tiny_model(model_type)
    model = get_peft_model(plm, pets.get("prompt", model=plm, num_virtual_tokens=4)).eval()
    pets.init_prompt(model, 4)
    (prompt,) = trainable(model).values()
    assert torch.equal(prompt, plm.get_input_embeddings().weight[4].expand(4, -1))
    prompt.data.add_(0.1 * torch.randn_like(prompt))
    after = logits(model)
    assert after.shape == (2, 4 + IDS.shape[1], plm.config.vocab_size)
    model(**batch(model)).logits.pow(2).sum().backward()
    assert prompt.grad is not None
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny_model(model_type), tmp_path).eval()
    assert torch.equal(logits(again), after)


def test_four_prompts_at_a_word_read_as_that_word(bert: BertForMaskedLM) -> None:
    model = get_peft_model(bert, pets.get("prompt", model=bert, num_virtual_tokens=4)).eval()
    pets.init_prompt(model, 7)
    ids = torch.cat([torch.full((2, 4), 7), IDS], 1)
    torch.testing.assert_close(logits(model), logits(model.get_base_model(), ids))


def test_where_a_prompt_cannot_start(bert: BertForMaskedLM) -> None:
    with pytest.raises(BadInput, match="BertForMaskedLM has no active soft prompt"):
        pets.init_prompt(bert, 4)
    with pytest.raises(BadInput, match="has no active soft prompt"):
        pets.init_prompt(get_peft_model(bert, pets.get("lora")), 4)
    plm = tiny_model("bert")
    model = get_peft_model(plm, pets.get("prompt", model=plm))
    for token in (-1, plm.config.vocab_size):
        with pytest.raises(BadInput, match=f"token_id={token}: expected a token of the model, 0 to"):
            pets.init_prompt(model, token)
    model = get_peft_model(tiny_model("electra"), pets.get("prompt"))
    with pytest.raises(BadInput, match="the prompt is 32 wide and the word embeddings are 16"):
        pets.init_prompt(model, 4)
    with pytest.raises(BadInput, match="holds no transformers model"):
        pets.get("prompt", model=torch.nn.Linear(2, 2))


def test_every_method_is_there() -> None:
    assert pets.available() == ["adapter", "bitfit", "lora", "prefix", "prompt"]


def test_a_lora_without_known_targets_is_told_its_module_names() -> None:
    config = XLNetConfig(vocab_size=20, d_model=16, n_layer=1, n_head=2, d_inner=24)
    plm = XLNetLMHeadModel(config)
    with pytest.raises(BadInput, match=r"XLNetLMHeadModel \(xlnet\): pass target_modules.* out of: "):
        pets.get("lora", model=plm)
    assert pets.get("lora", model=plm, target_modules=["layer_1"]).target_modules == {"layer_1"}
