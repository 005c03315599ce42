"""BitFit: which biases, what a delta on one does, merging, and everything that must stay as it was."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from pet_models import (
    ALL,
    NO_BIAS,
    WITH_BIAS,
    batch,
    changed,
    logits,
    loss,
    shuffle,
    trainable,
    without_numbers,
    wrapped,
)
from tiny import VOCABULARY, tiny_model
from torch import nn

import pets
from bridges import BadInput
from pets.methods.bitfit import BiasDelta, BitFitConfig
from pets.methods.bitfit.layer import deltas
from pets.methods.bitfit.model import find_biases

pytestmark = pytest.mark.slow

LAYERS = 2
_OUTPUTS = {
    "attention.output.dense.bias",
    "attention.output.LayerNorm.bias",
    "intermediate.dense.bias",
    "output.dense.bias",
    "output.LayerNorm.bias",
}
_SELF = {f"attention.self.{name}.bias" for name in ("query", "key", "value")}
_DEBERTA_SELF = {f"attention.self.{name}" for name in ("q_bias", "v_bias", "pos_q_proj.bias")}
EXPECTED = {
    "bert": {"bert.embeddings.LayerNorm.bias"} | {f"bert.encoder.layer.N.{n}" for n in _SELF | _OUTPUTS},
    "roberta": {"roberta.embeddings.LayerNorm.bias"}
    | {f"roberta.encoder.layer.N.{n}" for n in _SELF | _OUTPUTS},
    "deberta": {"deberta.embeddings.LayerNorm.bias"}
    | {f"deberta.encoder.layer.N.{n}" for n in _DEBERTA_SELF | _OUTPUTS},
    "gpt2": {"transformer.ln_f.bias"}
    | {
        f"transformer.h.N.{n}.bias"
        for n in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    },
    "qwen2": {f"model.layers.N.self_attn.{n}_proj.bias" for n in "qkv"},
}
TRANSFORM = {
    "bert": {"cls.predictions.transform.dense.bias", "cls.predictions.transform.LayerNorm.bias"},
    "roberta": {"lm_head.dense.bias", "lm_head.layer_norm.bias"},
    "deberta": {"cls.predictions.transform.dense.bias", "cls.predictions.transform.LayerNorm.bias"},
    "electra": {"generator_predictions.dense.bias", "generator_predictions.LayerNorm.bias"},
    "albert": {"predictions.dense.bias", "predictions.LayerNorm.bias"},
    "distilbert": {"vocab_transform.bias", "vocab_layer_norm.bias"},
}


def trained(plm: nn.Module) -> dict[str, BiasDelta]:
    """The deltas by the full name of their bias."""
    return {f"{path}.{name}": delta for path, m in plm.named_modules() for name, delta in deltas(m)}


def biases(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every bias of a model without a PET, by name."""
    return {n: p for n, p in model.named_parameters() if n.endswith((".bias", "_bias"))}


@pytest.mark.parametrize("model_type", sorted(EXPECTED))
def test_exactly_these_biases_are_trained(model_type: str) -> None:
    plm, _ = wrapped("bitfit", model_type)
    assert without_numbers(trained(plm)) == EXPECTED[model_type]


@pytest.mark.parametrize("model_type", WITH_BIAS)
def test_they_are_all_biases_of_the_transformer_and_none_of_the_head(model_type: str) -> None:
    base = tiny_model(model_type)
    inside = {id(p) for p in base.base_model.parameters()}
    expected = {name: p.numel() for name, p in biases(base).items() if id(p) in inside}
    before = logits(base)
    plm, model = wrapped("bitfit", model_type)
    assert set(trained(plm)) == set(expected)
    assert model.get_nb_trainable_parameters()[0] == sum(expected.values())
    assert all("bitfit_delta" in name for name in trainable(model))
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("model_type", sorted(TRANSFORM))
def test_the_heads_transform_on_request_but_never_one_number_a_word(model_type: str) -> None:
    plain, _ = wrapped("bitfit", model_type)
    plm, _ = wrapped("bitfit", model_type, head_transform=True)
    assert set(trained(plm)) - set(trained(plain)) == TRANSFORM[model_type]
    assert all(delta.original.shape != (len(VOCABULARY),) for delta in trained(plm).values())


@pytest.mark.parametrize("model_type", ["deberta", "deberta-v2"])
def test_the_newer_deberta_head_that_names_another_layer_its_output(model_type: str) -> None:
    plm = tiny_model(model_type, legacy=False)
    assert len(plm.get_output_embeddings().weight) == 32
    get_peft_model(plm, pets.get("bitfit", head_transform=True))
    head = {name for name in trained(plm) if not name.startswith("deberta.")}
    assert head == {f"lm_predictions.lm_head.{name}.bias" for name in ("dense", "LayerNorm")}


@pytest.mark.parametrize("model_type", WITH_BIAS)
@pytest.mark.parametrize("target", ["decoder", "vocab_projector", "generator_lm_head", "predictions"])
def test_the_vocabulary_bias_is_refused_even_by_name(model_type: str, target: str) -> None:
    with pytest.raises(BadInput, match="no bias there outside the vocabulary head"):
        wrapped("bitfit", model_type, target_modules=[target])


@pytest.mark.parametrize("model_type", NO_BIAS)
def test_a_model_without_biases_is_told_what_to_use(model_type: str) -> None:
    plm = tiny_model(model_type)
    with pytest.raises(BadInput, match=r"has no bias outside .* use pets.get\('lora'\) or pets.get"):
        get_peft_model(plm, pets.get("bitfit"))
    assert all(p.requires_grad for p in plm.parameters())


@pytest.mark.parametrize("model_type", WITH_BIAS)
def test_it_is_the_model_with_shifted_biases_bit_for_bit_merged_or_not(model_type: str) -> None:
    plm, model = wrapped("bitfit", model_type)
    shuffle(model)
    reference = tiny_model(model_type)
    by_name = biases(reference)
    with torch.no_grad():
        for name, delta in trained(plm).items():
            by_name[name].add_(delta.bitfit_delta["default"])
    shifted, base = logits(reference), logits(tiny_model(model_type))
    assert not torch.equal(shifted, base)
    assert torch.equal(logits(model), shifted)
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    model.merge_adapter()
    assert torch.equal(logits(model), shifted)
    model.unmerge_adapter()
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), shifted)
    merged = model.merge_and_unload()
    assert torch.equal(logits(merged), shifted)
    assert {n: tuple(p.shape) for n, p in merged.named_parameters()} == {
        n: tuple(p.shape) for n, p in reference.named_parameters()
    }
    assert type(merged.get_input_embeddings()) is nn.Embedding
    assert not any(type(m).__name__.startswith("Parametrized") for m in merged.modules())


@pytest.mark.parametrize("model_type", WITH_BIAS)
def test_every_delta_trains_and_a_loss_falls(model_type: str) -> None:
    _, model = wrapped("bitfit", model_type)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=1e-2)
    losses = []
    for _ in range(6):
        value = loss(model)
        optimizer.zero_grad()
        value.backward()
        losses.append(value.item())
        optimizer.step()
    assert losses[-1] < losses[0]
    assert all(p.grad is not None and p.any() for p in trainable(model).values())
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if not p.requires_grad)


def test_a_shared_layer_has_its_biases_once() -> None:
    plm, model = wrapped("bitfit", "albert")
    assert plm.config.num_hidden_layers == 2
    assert len([name for name in trained(plm) if "albert_layers" in name]) == 8
    assert len(trainable(model)) == len(trained(plm))


def test_the_weight_file_names_module_and_bias(tmp_path: Any) -> None:
    from safetensors.torch import load_file

    changed("bitfit", "deberta").save_pretrained(tmp_path)
    names = load_file(tmp_path / "adapter_model.safetensors")
    attention = "base_model.model.deberta.encoder.layer.0.attention.self."
    assert attention + "parametrizations.q_bias.0.bitfit_delta" in names
    assert attention + "pos_q_proj.parametrizations.bias.0.bitfit_delta" in names
    assert len(names) == 1 + LAYERS * 8


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"target_modules": ["LayerNorm"]}, "LayerNorm.bias"),
        ({"target_modules": ["query", "output.dense"]}, "dense.bias"),
        ({"target_modules": r".*layer\.1\..*"}, "layer"),
        ({"exclude_modules": ["LayerNorm"]}, "dense"),
    ],
)
def test_a_part_of_the_biases(options: dict[str, Any], named: str) -> None:
    plm, model = wrapped("bitfit", **options)
    full, _ = wrapped("bitfit")
    names = set(trained(plm))
    # The transform of the head has a LayerNorm as well, and is named by its path or suffix.
    assert names < set(trained(full)) | TRANSFORM["bert"]
    assert any(named in name for name in names)
    if "exclude_modules" in options:
        assert names == {name for name in trained(full) if "LayerNorm" not in name}
    shuffle(model)
    assert not torch.equal(logits(model), logits(tiny_model("bert")))


@pytest.mark.parametrize("target", [["query", "no_such"], ["word_embeddings"], r"nowhere\..*"])
def test_targets_without_a_bias_are_refused(target: Any) -> None:
    with pytest.raises(BadInput, match=r"target_modules .*(no_such|word_emb|nowhere).*no bias there"):
        wrapped("bitfit", target_modules=target)


def test_unmerging_gives_every_bias_back_bit_for_bit() -> None:
    plm, model = wrapped("bitfit")
    shuffle(model)
    before = {name: delta.original.clone() for name, delta in trained(plm).items()}
    for delta in trained(plm).values():
        delta.bitfit_delta["default"].data.mul_(1e4)  # added and subtracted again, digits are lost
    model.merge_adapter()
    assert all(not torch.equal(d.original, before[n]) for n, d in trained(plm).items())
    model.unmerge_adapter()
    assert all(torch.equal(d.original, before[n]) for n, d in trained(plm).items())
    with pytest.warns(UserWarning, match="Already unmerged"):
        model.unmerge_adapter()


def test_disabling_takes_merged_deltas_out() -> None:
    model = changed("bitfit")
    with_deltas = logits(model)
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(tiny_model("bert")))
    assert torch.equal(logits(model), with_deltas)


def two_adapters() -> PeftModel:
    model = changed("bitfit")
    model.add_adapter("other", pets.get("bitfit", init_weights=False))
    return model


def test_two_adapters_active_or_merged_together_are_the_sum() -> None:
    model = two_adapters()
    model.base_model.set_adapter(["default", "other"])
    both = logits(model)
    model.merge_adapter(["default"])
    with pytest.warns(UserWarning, match="additionally merging other"):
        model.merge_adapter(["other"])
    assert torch.equal(logits(model), both)
    model.unmerge_adapter()
    model.base_model.set_adapter("other")
    other = logits(model)
    assert not torch.equal(other, both)
    model.merge_adapter(["default"])
    model.unmerge_adapter()
    assert torch.equal(logits(model), other)


def test_a_safe_merge_refuses_what_is_not_finite_and_changes_nothing() -> None:
    plm, model = wrapped("bitfit")
    trained(plm)["bert.embeddings.LayerNorm.bias"].bitfit_delta["default"].data[3] = float("nan")
    with pytest.raises(BadInput, match=r"\['default'\] is not finite"):
        model.merge_adapter(safe_merge=True)
    assert not any(delta.merged for delta in trained(plm).values())


def test_weighted_sums_of_adapters() -> None:
    model = two_adapters()
    model.add_weighted_adapter(["default", "other"], [0.25, -2.0], "mix")
    assert model.active_adapter == "default"
    assert not any("mix" in name for name in trainable(model))
    for delta in trained(model.get_base_model()).values():
        values = delta.bitfit_delta
        torch.testing.assert_close(values["mix"], 0.25 * values["default"] - 2 * values["other"])
    before = logits(model)
    model.set_adapter("mix")
    assert not torch.equal(logits(model), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["default", "nope"], [1, 1], "mix"), "expected a weight for each"),
        ((["default"], [1, 1], "mix"), "expected a weight for each"),
        (([], [], "mix"), "expected a weight for each"),
        ((["default"], [1], "other"), "already an adapter 'other'"),
        ((["default", "part"], [1, 1], "mix"), "on different biases"),
    ],
)
def test_weighted_sums_that_make_no_sense(arguments: Any, message: str) -> None:
    model = two_adapters()
    model.add_adapter("part", pets.get("bitfit", target_modules=["query"]))
    with pytest.raises(BadInput, match=message):
        model.add_weighted_adapter(*arguments)
    assert "mix" not in model.peft_config


def test_adapters_on_different_biases_live_together() -> None:
    plm, model = wrapped("bitfit", target_modules=["query"])
    model.add_adapter("rest", pets.get("bitfit", exclude_modules=["query"]))
    shuffle(model)
    first = logits(model)
    model.set_adapter("rest")
    assert len(trainable(model)) == len(trained(plm)) - LAYERS
    shuffle(model)
    assert not torch.equal(logits(model), first)
    model.set_adapter("default")
    assert torch.equal(logits(model), first)


def test_an_adapter_may_be_called_bias() -> None:
    plm = tiny_model("bert")
    selected = find_biases(plm, BitFitConfig())
    model = get_peft_model(plm, pets.get("bitfit", init_weights=False), adapter_name="bias")
    assert find_biases(plm, BitFitConfig()) == selected
    names, before = set(trained(plm)), logits(model)
    model.add_adapter("other_bias", pets.get("bitfit"))
    model.add_adapter("third", pets.get("bitfit"))
    assert set(trained(plm)) == names
    assert torch.equal(logits(model), before)


def test_unloading_gives_back_the_very_same_parameters() -> None:
    plm = tiny_model("deberta")
    before = {n: (p, p.detach().clone()) for n, p in plm.named_parameters()}
    types = {n: type(m) for n, m in plm.named_modules()}
    model = get_peft_model(plm, pets.get("bitfit", init_weights=False))
    after = model.unload()
    assert after is plm
    assert {n: type(m) for n, m in plm.named_modules()} == types
    for name, parameter in plm.named_parameters():
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])
    assert not hasattr(plm, "peft_config")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # peft warns where something is left over
        get_peft_model(plm, pets.get("bitfit"))


@pytest.mark.parametrize("first", ["copy", "original"])
def test_a_copy_survives_what_happens_to_the_original(first: str) -> None:
    model = changed("bitfit", "deberta")
    before, base, twin = logits(model), logits(tiny_model("deberta")), copy.deepcopy(model)
    one, two = (twin, model) if first == "copy" else (model, twin)
    assert torch.equal(logits(one.merge_and_unload()), before)
    assert torch.equal(logits(two), before)
    two.merge_adapter()
    two.unmerge_adapter()
    assert torch.equal(logits(two.unload()), base)


def test_on_a_bfloat16_model_deltas_stay_float32() -> None:
    plm = tiny_model("bert").to(torch.bfloat16)
    before = logits(plm)
    model = get_peft_model(plm, pets.get("bitfit"))
    assert {p.dtype for p in trainable(model).values()} == {torch.float32}
    assert torch.equal(logits(model), before)
    shuffle(model)
    after = logits(model)
    assert after.dtype == torch.bfloat16
    loss(model).backward()
    assert all(p.grad.isfinite().all() for p in trainable(model).values())
    model.merge_adapter()
    assert torch.equal(logits(model), after)
    model.unmerge_adapter()
    assert torch.equal(logits(model.unload()), before)


def test_under_autocast() -> None:
    model = changed("bitfit")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(model)
    value.backward()
    torch.testing.assert_close(value, loss(model), rtol=0.05, atol=0.05)
    assert {p.grad.dtype for p in trainable(model).values()} == {torch.float32}


def test_a_new_classifier_is_trained_whole_beside_it() -> None:
    plm = tiny_model("bert", head="ForSequenceClassification")
    model = get_peft_model(plm, pets.get("bitfit", task_type="SEQ_CLS"))
    whole = {name for name in trainable(model) if "bitfit_delta" not in name}
    assert {n.rpartition("classifier.")[2] for n in whole} == {
        "modules_to_save.default.weight",
        "modules_to_save.default.bias",
    }
    assert "bert.pooler.dense.bias" in trained(plm)
    model.add_adapter("other", pets.get("bitfit", task_type="SEQ_CLS"))
    assert not any("classifier" in name for name in trained(plm))


def test_modules_saved_whole_hold_no_delta() -> None:
    plm, model = wrapped("bitfit", modules_to_save=["query"])
    assert not any("query" in name for name in trained(plm))
    shuffle(model)
    before = logits(model)
    assert torch.equal(logits(model.merge_and_unload()), before)


def test_a_model_outside_transformers() -> None:
    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 4, bias=False))
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.body(x)
            return self.attention(h, h, h, need_weights=False)[0]  # type: ignore[no-any-return]

    torch.manual_seed(3)
    plain = Tiny()
    x = torch.randn(2, 3, 6)
    before = plain(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = get_peft_model(copy.deepcopy(plain), BitFitConfig(init_weights=False))
    names = {"body.0.bias", "body.1.bias", "attention.in_proj_bias", "attention.out_proj.bias"}
    assert set(trained(model.base_model.model)) == names
    loss_value = model(x).pow(2).sum()
    loss_value.backward()
    assert all(p.grad is not None for p in trainable(model).values())
    shifted = model(x)
    assert not torch.equal(shifted, before)
    assert torch.equal(model.merge_and_unload()(x), shifted)


def test_a_bias_that_is_already_computed_is_refused() -> None:
    from torch.nn.utils import parametrize

    model = nn.Sequential(nn.Linear(3, 3))
    parametrize.register_parametrization(model[0], "bias", nn.Identity())
    with pytest.raises(BadInput, match="bias of a Linear is computed by another parametrization"):
        get_peft_model(model, BitFitConfig())
    model.append(nn.Linear(3, 3))
    assert set(trained(get_peft_model(model, BitFitConfig(exclude_modules=["0"])))) == {
        "base_model.model.1.bias"
    }


def test_the_defaults() -> None:
    config = pets.get("bitfit")
    assert isinstance(config, BitFitConfig)
    assert not config.head_transform
    assert config.target_modules is None
    assert config.task_type == "FEATURE_EXTRACTION"
    assert len(ALL) == len(NO_BIAS) + len(WITH_BIAS)
    assert batch(tiny_model("t5")).keys() == {"input_ids", "attention_mask", "decoder_input_ids"}
