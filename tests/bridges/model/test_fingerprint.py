"""Which weights a model has: to the bit for runs that go on, and as a cost remembers them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import ARCHITECTURES, tiny_bert, tiny_model
from torch import nn
from torch.nn.utils import parametrize

import pets
from bridges import BadInput
from bridges.model.fingerprint import Fingerprint, weights_sha256
from bridges.model.weights import base_weights

HALF = (torch.float16, torch.bfloat16)


def of(model: Any) -> Fingerprint:
    """Through JSON, as a cost keeps it."""
    found = Fingerprint.of(model)
    kept = json.loads(json.dumps({"entries": found.entries, "parts": found.parts}))
    assert Fingerprint.from_json(kept) == found
    return found


def lora(model: nn.Module, **options: Any) -> PeftModel:
    options = {"target_modules": ["q_proj"], "r": 4, **options}
    return get_peft_model(model, LoraConfig(**options))  # type: ignore[return-value]


def merge_one_layer(model: Any) -> None:
    lora(model, layers_to_transform=[1], init_lora_weights=False).merge_and_unload()


def swap_layers(model: Any) -> None:
    layers = model.model.layers
    layers[0], layers[1] = layers[1], layers[0]


def train_a_bias_of_one_norm(model: Any) -> None:
    model.model.layers[1].input_layernorm.weight.data[3] *= 1.001


def train_one_weight(model: Any) -> None:
    model.model.layers[0].mlp.up_proj.weight.data[3, 3] += 1e-3


def retrain_below_the_same_embeddings(model: Any) -> None:
    other = tiny_model("llama", seed=1)
    model.model.layers.load_state_dict(other.model.layers.state_dict())


CHANGES: list[Callable[[Any], None]] = [
    merge_one_layer,
    swap_layers,
    train_a_bias_of_one_norm,
    train_one_weight,
    retrain_below_the_same_embeddings,
]


@pytest.mark.parametrize("change", CHANGES)
def test_other_weights_are_noticed(change: Callable[[Any], None]) -> None:
    model = tiny_model("llama")
    mark, digest = of(model), weights_sha256(model)
    change(model)
    assert mark.differences(of(model))
    assert weights_sha256(model) != digest


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("change", [merge_one_layer, swap_layers, retrain_below_the_same_embeddings])
def test_and_in_another_dtype_too(change: Callable[[Any], None], dtype: torch.dtype) -> None:
    model = tiny_model("llama")
    mark = of(model)
    change(model)
    assert mark.differences(of(model.to(dtype)))


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_cost_knows_its_model_in_every_dtype(model_type: str) -> None:
    dtypes = (torch.float32, torch.float64, *HALF)
    marks = [of(tiny_model(model_type).to(dtype)) for dtype in dtypes]
    marks += [of(tiny_model(model_type).to(dtype).float()) for dtype in HALF]
    assert not [mark.differences(other) for mark in marks for other in marks if mark.differences(other)]
    assert len({weights_sha256(tiny_model(model_type).to(dtype)) for dtype in dtypes}) == len(dtypes)
    assert marks[0].differences(of(tiny_model(model_type, seed=1)))


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "t5", "roberta"])
@pytest.mark.parametrize("pet", pets.available())
def test_a_pet_changes_nothing(model_type: str, pet: str) -> None:
    plm = tiny_model(model_type)
    mark, digest = of(plm), weights_sha256(plm)
    try:
        model = get_peft_model(plm, pets.get(pet, model=plm))
    except BadInput as error:
        pytest.skip(str(error))  # the pairs are in docs/support.md
    for parameter in model.parameters():
        if parameter.requires_grad:  # trained
            parameter.data.add_(torch.randn_like(parameter))
    assert not mark.differences(of(plm))
    assert weights_sha256(model) == digest


@pytest.mark.parametrize("init", ["pissa", "olora", "gaussian"])
def test_a_lora_that_starts_from_the_base_weights(init: str) -> None:
    """What it took out of them is no other model."""
    plm = tiny_model("llama")
    mark = of(plm)
    lora(plm, init_lora_weights=init)
    assert not mark.differences(of(plm))


def test_a_trained_copy_of_a_module_counts_for_a_cost() -> None:
    """Of the base it is a copy; the states come from it."""
    plm = tiny_model("llama")
    mark, digest = of(plm), weights_sha256(plm)
    model = lora(plm, modules_to_save=["embed_tokens", "lm_head"])
    assert not mark.differences(of(plm))
    plm.get_input_embeddings().weight.data[7] += 0.01
    assert mark.differences(of(plm)) == ["embed_tokens.weight"]
    assert weights_sha256(model) == digest
    with model.disable_adapter():
        assert not mark.differences(of(plm))


@pytest.mark.parametrize("model_type", ["bert", "electra", "gpt2", "t5"])
def test_a_head_does_not_count_for_a_cost(model_type: str) -> None:
    plm = tiny_model(model_type)
    other = tiny_model(model_type, head="ForSequenceClassification", seed=2)
    found = other.base_model.load_state_dict(plm.base_model.state_dict(), strict=False)
    assert all("pooler" in name for name in found.missing_keys)
    assert not of(plm).differences(of(other))
    assert not of(plm).differences(of(plm.base_model))
    assert weights_sha256(plm) != weights_sha256(other)


def test_wrappers_do_not_count() -> None:
    plm = tiny_model("bert")
    digest = weights_sha256(plm)
    assert weights_sha256(nn.Sequential(plm)) == digest
    assert weights_sha256(torch.compile(plm)) == digest
    parametrize.register_parametrization(
        plm.bert.encoder.layer[0].output.dense, "bias", nn.Identity(), unsafe=True
    )
    assert weights_sha256(plm) == digest


def test_tied_weights_are_one_and_made_ones_are_none() -> None:
    names = [weight.name for weight in base_weights(tiny_model("gpt2"))]
    assert "transformer.wte.weight" in names
    assert "lm_head.weight" not in names
    assert not any("rotary" in weight.name for weight in base_weights(tiny_model("llama")))


@pytest.mark.parametrize("where", [0, 12_345, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_number_counts_for_the_identity(where: int, dtype: torch.dtype) -> None:
    """Also between the sampled blocks of a tensor."""
    plm = tiny_bert(vocab_size=20_001).to(dtype)
    digest = weights_sha256(plm)
    plm.get_input_embeddings().weight.data.view(-1)[where] += 0.25
    assert weights_sha256(plm) != digest


def test_weights_that_are_nowhere_are_refused() -> None:
    with torch.device("meta"):
        plm = tiny_model("llama").to("meta")
    with pytest.raises(BadInput, match=r"embed_tokens\.weight is on the meta device, .* load the wei"):
        weights_sha256(plm)
