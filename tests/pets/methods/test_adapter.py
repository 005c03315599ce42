"""Bottleneck adapters: where they sit, what they compute, what they refuse."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from peft import get_peft_model
from pet_models import (
    ALL,
    IDS,
    batch,
    changed,
    logits,
    loss,
    shuffle,
    trainable,
    without_numbers,
    wrapped,
)
from tiny import tiny_model
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM, OPTConfig, OPTForCausalLM

import pets
from bridges import BadInput
from pets.methods.adapter import AdapterConfig, AdapterLayer

H, FF, LAYERS = 32, 48, 2
BERT = {"encoder.layer.N.attention.output.dense", "encoder.layer.N.output.dense"}
LLAMA = {"model.layers.N.self_attn.o_proj", "model.layers.N.mlp.down_proj"}
ALBERT = "albert.encoder.albert_layer_groups.N.albert_layers.N."
SITES = {
    "albert": {ALBERT + "attention.dense", ALBERT + "ffn_output"},
    "bert": {f"bert.{name}" for name in BERT},
    "deberta": {f"deberta.{name}" for name in BERT},
    "deberta-v2": {f"deberta.{name}" for name in BERT},
    "distilbert": {f"distilbert.transformer.layer.N.{n}" for n in ("attention.out_lin", "ffn.lin2")},
    "electra": {f"electra.{name}" for name in BERT},
    "gpt2": {"transformer.h.N.attn.c_proj", "transformer.h.N.mlp.c_proj"},
    "llama": LLAMA,
    "megatron-bert": {f"bert.{name}" for name in BERT},
    "modernbert": {"model.layers.N.attn.Wo", "model.layers.N.mlp.Wo"},
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "roberta": {f"roberta.{name}" for name in BERT},
    "t5": {
        "encoder.block.N.layer.N.SelfAttention.o",
        "encoder.block.N.layer.N.DenseReluDense.wo",
        "decoder.block.N.layer.N.SelfAttention.o",
        "decoder.block.N.layer.N.EncDecAttention.o",
        "decoder.block.N.layer.N.DenseReluDense.wo",
    },
    "xlm-roberta": {f"roberta.{name}" for name in BERT},
}


def layers(model: nn.Module) -> dict[str, AdapterLayer]:
    return {k: m for k, m in model.named_modules() if isinstance(m, AdapterLayer)}


@pytest.mark.parametrize("model_type", ALL)
@pytest.mark.parametrize("placement", ["serial", "parallel"])
def test_a_new_adapter_is_the_frozen_model_bit_for_bit_and_sits_where_it_should(
    model_type: str, placement: str
) -> None:
    before = logits(tiny_model(model_type))
    plm, model = wrapped("adapter", model_type, placement=placement)
    assert without_numbers(layers(plm)) == SITES[model_type]
    assert torch.equal(logits(model), before)
    blocks = {"albert": 2, "t5": 10}.get(model_type, 2 * LAYERS)
    if placement == "serial":
        assert model.get_nb_trainable_parameters()[0] == blocks * (2 * 8 * H + 8 + H)
    assert all("bottleneck_" in name for name in trainable(model))


@pytest.mark.parametrize("model_type", ALL)
def test_every_parameter_trains_and_a_loss_falls(model_type: str) -> None:
    _, model = wrapped("adapter", model_type)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=1e-2)
    losses = []
    for _ in range(6):
        value = loss(model)
        optimizer.zero_grad()
        value.backward()
        losses.append(value.item())
        optimizer.step()
    assert all(p.grad is not None and p.grad.any() for p in trainable(model).values())
    assert losses[-1] < losses[0]
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if not p.requires_grad)


class Bottleneck(nn.Module):
    """The definition, written down once more: what it adds to a projection's output."""

    def __init__(self, layer: AdapterLayer, scaling: float) -> None:
        super().__init__()
        down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
        self.a, self.b = down.weight, down.bias  # [r, in], [r]
        self.c, self.d = up.weight, up.bias  # [H, r], [H]
        self.scaling = scaling

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        inner = torch.einsum("bsi,ri->bsr", h, self.a) + self.b
        return self.scaling * (torch.einsum("bsr,hr->bsh", F.gelu(inner), self.c) + self.d)


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
@pytest.mark.parametrize("placement", ["serial", "parallel"])
@pytest.mark.parametrize("scaling", [1.0, 4.0])
def test_both_placements_against_a_model_written_with_hooks(
    model_type: str, placement: str, scaling: float
) -> None:
    plm, model = wrapped("adapter", model_type, placement=placement, scaling=scaling)
    shuffle(model)
    reference = tiny_model(model_type)
    for name, layer in layers(plm).items():
        mine = Bottleneck(layer, scaling)
        reference.get_submodule(name).register_forward_hook(
            lambda _, x, y, f=mine: y + f(y if placement == "serial" else x[0])
        )
    assert (logits(reference) - logits(tiny_model(model_type))).abs().max() > 0.01
    torch.testing.assert_close(logits(model), logits(reference), rtol=1e-5, atol=1e-6)


def test_a_parallel_adapter_is_as_wide_as_its_projections_input() -> None:
    _, model = wrapped("adapter", placement="parallel", r=4)
    attention, ffn = 2 * 4 * H + 4 + H, 4 * (FF + H) + 4 + H
    assert model.get_nb_trainable_parameters()[0] == LAYERS * (attention + ffn)


@pytest.mark.parametrize(
    ("sites", "left"),
    [("attention", "attention.output"), (["ffn"], "layer.N.output"), (["ffn", "attention"], "")],
)
def test_sites_choose_the_sublayers(sites: Any, left: str) -> None:
    plm, model = wrapped("adapter", sites=sites)
    assert without_numbers(layers(plm)) == {name for name in SITES["bert"] if left in name}
    assert model.peft_config["default"].sites is None


def test_target_modules_replace_the_sites_in_architectures_that_are_not_known() -> None:
    plm, _ = wrapped("adapter", target_modules=["intermediate.dense"])
    assert without_numbers(layers(plm)) == {"bert.encoder.layer.N.intermediate.dense"}
    plm, _ = wrapped("adapter", target_modules=r".*\.value", exclude_modules=r".*\.1\..*")
    assert set(layers(plm)) == {"bert.encoder.layer.0.attention.self.value"}


def test_cross_attention_gets_one_too() -> None:
    plm = tiny_model("bert", head="LMHeadModel", is_decoder=True, add_cross_attention=True)
    get_peft_model(plm, pets.get("adapter", sites="attention"))
    assert len([name for name in layers(plm) if "crossattention" in name]) == LAYERS


def test_an_unknown_architecture_is_told_its_module_names() -> None:
    config = OPTConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=24
    )
    plm = OPTForCausalLM(config)
    with pytest.raises(BadInput, match=r"OPTForCausalLM \(opt\): pass target_modules") as caught:
        get_peft_model(plm, pets.get("adapter"))
    assert "model.decoder.layers.*.self_attn.out_proj, model.decoder.layers.*.fc1," in str(caught.value)
    assert "roberta" in str(caught.value)
    assert not layers(plm)
    get_peft_model(plm, pets.get("adapter", target_modules=["out_proj", "fc2"]))
    assert len(layers(plm)) == 4


@pytest.mark.parametrize("target", ["LayerNorm", "word_embeddings", "attention"])
def test_what_is_no_linear_layer_is_refused_before_anything_is_replaced(target: str) -> None:
    plm = tiny_model("bert")
    with pytest.raises(
        BadInput, match=rf"target module \S*{target} is a .*choose target_modules out of"
    ):
        get_peft_model(plm, pets.get("adapter", target_modules=["query", target]))
    assert not layers(plm)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r=0: expected a whole number above 0"),
        ({"activation": "gelo"}, "unknown activation 'gelo'; did you mean 'gelu'"),
        ({"activation": "prelu"}, "activation 'prelu' has parameters of its own"),
        ({"placement": "before"}, r"unknown placement 'before' \(known: parallel, serial\)"),
        ({"sites": ["atention"]}, "unknown site 'atention'; did you mean 'attention'"),
        ({"sites": []}, "give at least one site"),
        ({"sites": "ffn", "target_modules": ["key"]}, "not both"),
        ({"dropout": 1.0}, r"dropout=1.0: expected a number in \[0, 1\)"),
        ({"scaling": 0.0}, "scaling=0.0"),
        ({"scaling": float("nan")}, "scaling=nan"),
        ({"rank": 8}, "'rank'"),
        ({"task_type": "MASKED_LM"}, "Invalid task type"),
    ],
)
def test_bad_settings_are_refused_when_they_are_given(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        pets.get("adapter", **options)


def test_the_defaults_are_the_published_ones() -> None:
    config = pets.get("adapter")
    assert isinstance(config, AdapterConfig)
    assert (config.r, config.activation, config.placement) == (8, "gelu", "serial")
    assert (config.dropout, config.scaling, config.sites) == (0.0, 1.0, None)
    assert config.task_type == "FEATURE_EXTRACTION"


def test_dropout_acts_in_training_only() -> None:
    model = changed("adapter", dropout=0.5)
    for module in model.modules():
        if isinstance(module, nn.Dropout) and module.p != 0.5:
            module.p = 0.0
    still = logits(model)
    assert torch.equal(logits(model), still)
    model.train()
    assert not torch.equal(logits(model), logits(model))


def test_active_adapters_add_up_whatever_their_order() -> None:
    plm, model = wrapped("adapter")
    model.add_adapter("other", pets.get("adapter", r=3, placement="parallel", init_weights=False))
    shuffle(model)
    name, layer = next(iter(layers(plm).items()))
    x = torch.randn(2, 5, H)
    base = layer.base_layer(x)
    terms = []
    for adapter in ("default", "other"):
        model.set_adapter(adapter)
        terms.append(layer(x) - base)
    assert all(term.abs().max() > 0 for term in terms), name
    for order in (["default", "other"], ["other", "default"]):
        model.base_model.set_adapter(order)
        torch.testing.assert_close(layer(x), base + terms[0] + terms[1])


def test_it_cannot_be_merged_and_says_so_before_anything_happens() -> None:
    model = changed("adapter")
    before = logits(model)
    for call in (model.merge_adapter, model.merge_and_unload, next(iter(layers(model).values())).merge):
        with pytest.raises(BadInput, match=r"cannot be merged: .*unload\(\)"):
            call()
    whole = wrapped("adapter", modules_to_save=["word_embeddings"])[1]
    keys = list(whole.state_dict())
    with pytest.raises(BadInput, match="cannot be merged"):
        whole.merge_and_unload()
    assert list(whole.state_dict()) == keys
    with pytest.raises(BadInput, match="not linear in their weights"):
        model.add_weighted_adapter(["default"], [0.5], "half")
    with pytest.warns(UserWarning, match="Already unmerged"):
        model.unmerge_adapter()
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("pet", ["adapter", "bitfit"])
def test_an_adapter_for_each_example_is_refused_not_dropped(pet: str) -> None:
    model = changed(pet)
    with pytest.raises(BadInput, match="takes no adapter_names in forward"):
        model(**batch(model), adapter_names=["default", "default"])


def test_on_a_bfloat16_model_it_stays_float32() -> None:
    plm = tiny_model("bert").to(torch.bfloat16)
    before = logits(plm)
    model = get_peft_model(plm, pets.get("adapter"))
    assert {p.dtype for p in trainable(model).values()} == {torch.float32}
    assert torch.equal(logits(model), before)
    shuffle(model)
    after = logits(model)
    assert after.dtype == torch.bfloat16
    assert not torch.equal(after, before)
    loss(model).backward()
    assert all(p.grad.isfinite().all() for p in trainable(model).values())


def test_under_autocast() -> None:
    model = changed("adapter")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(model)
    value.backward()
    torch.testing.assert_close(value, loss(model), rtol=0.05, atol=0.05)
    assert {p.grad.dtype for p in trainable(model).values()} == {torch.float32}


def test_a_copy_is_independent() -> None:
    model = changed("adapter")
    before, twin = logits(model), copy.deepcopy(model)
    shuffle(model)
    assert torch.equal(logits(twin), before)
    assert not torch.equal(logits(model), before)


def test_a_model_outside_transformers_needs_target_modules() -> None:
    def network() -> nn.Sequential:
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))

    with pytest.raises(BadInput, match=r"Sequential .*: 0, 2 \("):
        get_peft_model(network(), AdapterConfig())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = get_peft_model(network(), AdapterConfig(target_modules=["2"]))
    x = torch.randn(3, 6)
    assert torch.equal(model(x), network()(x))
    assert model.get_nb_trainable_parameters()[0] == 4 * 8 + 8 + 8 * 4 + 4


def test_bert_without_a_head_and_with_a_classifier_have_the_same_adapters() -> None:
    config = BertConfig(**tiny_model("bert").config.to_diff_dict())
    for plm in (BertForMaskedLM(config).bert, tiny_model("bert", head="ForSequenceClassification")):
        get_peft_model(plm, pets.get("adapter"))
        assert {n.removeprefix("bert.") for n in without_numbers(layers(plm))} == BERT
    assert IDS.shape == (2, 9)
