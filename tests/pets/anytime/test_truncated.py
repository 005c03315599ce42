"""A model cut at a layer: the exit's answers, nothing behind it, the model itself left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from tiny import tiny_bert, tiny_model
from torch import nn
from transformers import BertForMaskedLM
from truncated_cases import (
    CASES,
    CLASSIFIER,
    LAYERS,
    WORDS,
    batches,
    build,
    lens_cost,
    plain,
    unlabelled,
)

import bridges
import pets
from bridges import BadInput, Trajectory
from pets import AnytimeClassifier, TruncatedClassifier, truncate

ALL_LEAVE = 1e-6  # a threshold that every row passes at its first exit


def asked(model: nn.Module, seed: int = 5) -> torch.Tensor:
    (batch,) = batches(1, seed=seed)
    found: torch.Tensor = model(**batch).probabilities
    return found


@pytest.mark.parametrize(("model_type", "pet", "head"), CASES)
@pytest.mark.parametrize("layer", [1, 3])
def test_it_answers_as_the_exit_of_the_whole_model_to_the_bit(
    model_type: str, pet: str | None, head: str | None, layer: int
) -> None:
    model = build(model_type, pet, head)
    whole = AnytimeClassifier(model, lens_cost(model), WORDS, ALL_LEAVE, layers=[layer])
    whole.calibrate(unlabelled())  # with labels, which are random, all rows would be as likely
    found = truncate(whole, layer=layer)
    (batch,) = batches(1, seed=5)
    expected, got = whole(**batch), found(**batch)
    assert torch.equal(got.probabilities, expected.probabilities)
    assert got.labels.tolist() == expected.labels.tolist()
    assert got.layers.tolist() == expected.layers.tolist() == [layer] * 6
    assert expected.probabilities.std(0).min() > 1e-6  # they differ from row to row


@pytest.mark.parametrize("bridge", ["brownian", "fractional:likelihood=path", "gp:likelihood=path"])
def test_it_is_the_posterior_of_the_cost_given_the_layers_so_far(bridge: str) -> None:
    plm = build("bert", None)
    cost = lens_cost(plm, bridges.parse(bridge))
    found = truncate(plm, cost, WORDS, layer=2)
    (batch,) = batches(1)
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    with torch.no_grad():
        hidden = plm(**inputs, output_hidden_states=True).hidden_states
        states = torch.stack([layer[:, 2] for layer in hidden])
        path = Trajectory(states, states[:, :0], torch.arange(states.shape[1]))
        expected = cost.posterior(path, WORDS.ends(cost))[2].exp()
    torch.testing.assert_close(found(**batch).probabilities.double(), expected, rtol=1e-4, atol=1e-5)


def test_what_is_behind_the_layer_is_gone_and_head_and_last_norm_are_not_run() -> None:
    model = build("llama", "lora")
    found = truncate(model, lens_cost(model), WORDS, layer=2)
    inner = plain(found.model)
    assert type(inner) is type(plain(model))
    assert len(inner.model.layers) == inner.config.num_hidden_layers == 2
    before = asked(found)
    with torch.no_grad():
        for part in (plain(model).model.layers[2:], plain(model).model.norm, plain(model).lm_head):
            for parameter in part.parameters():
                parameter.fill_(torch.nan)  # the memory of the norm and the head is the cut model's too
    assert torch.equal(asked(found), before)


@pytest.mark.parametrize(
    ("model_type", "pet"), [("bert", "lora"), ("llama", "prefix"), ("albert", None)]
)
@pytest.mark.parametrize("merge", [False, True])
def test_the_model_is_left_as_it_was(model_type: str, pet: str | None, merge: bool) -> None:
    model = build(model_type, pet).train()
    plain(model).get_input_embeddings().eval()
    cost = lens_cost(model)
    config, modules = plain(model).config.to_dict(), dict(model.named_modules())
    modes = {name: part.training for name, part in modules.items()}
    state = {k: (v, v.clone()) for k, v in model.state_dict(keep_vars=True).items()}
    if merge and pet == "prefix":
        with pytest.raises(BadInput, match="PREFIX_TUNING cannot be merged"):
            truncate(model, cost, WORDS, layer=2, merge=True)
    else:
        truncate(model, cost, WORDS, layer=2, merge=merge, batches=batches())
    assert plain(model).config.to_dict() == config
    now = dict(model.named_modules())
    assert now.keys() == modules.keys()
    assert all(now[name] is part for name, part in modules.items())
    assert {name: part.training for name, part in now.items()} == modes
    for name, value in model.state_dict(keep_vars=True).items():
        assert value is state[name][0], name
        assert torch.equal(value, state[name][1]), name


def test_the_weights_that_stay_are_the_same_memory_and_moving_them_moves_nothing() -> None:
    model = build("bert", "lora")
    found = truncate(model, lens_cost(model), WORDS, layer=2)
    theirs = dict(model.named_parameters())
    for name, parameter in found.model.named_parameters():
        assert parameter.data_ptr() == theirs[name].data_ptr(), name
    found.to(torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.dtype for p in found.model.parameters()} == {torch.bfloat16}
    assert not found.train().training
    assert not any(part.training for part in found.modules())


@pytest.mark.parametrize(
    ("model_type", "pet", "head"),
    [
        ("bert", "lora", None),
        ("gpt2", "bitfit", None),
        ("albert", "lora", None),
        ("llama", "lora", CLASSIFIER),
    ],
)
def test_merged_it_is_a_plain_model_with_the_same_answers(
    model_type: str, pet: str, head: str | None
) -> None:
    model = build(model_type, pet, head)
    cost = lens_cost(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    kept, merged = (truncate(model, cost, WORDS, layer=2, merge=merge) for merge in (False, True))
    assert isinstance(kept.model, peft.PeftModel)
    assert type(merged.model) is type(plain(model))
    torch.testing.assert_close(asked(merged), asked(kept), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    untuned = truncate(build(model_type, None, head), cost, WORDS, layer=2)
    assert (asked(untuned) - asked(kept)).abs().max() > 1e-3  # the PET does something there


@pytest.mark.parametrize("pet", ["adapter", "prefix", "prompt"])
def test_what_cannot_be_merged_is_refused(pet: str) -> None:
    model = build("bert", pet)
    with pytest.raises(BadInput, match=r"a PET of the kind \w+ cannot be merged.*merge=False"):
        truncate(model, lens_cost(model), WORDS, layer=2, merge=True)


def test_a_pet_on_the_layers_behind_alone_is_gone_with_them() -> None:
    config = peft.LoraConfig(target_modules=["query"], layers_to_transform=[3])
    model = build("bert", config)
    found = truncate(model, lens_cost(model), WORDS, layer=2)
    assert type(found.model) is BertForMaskedLM


def test_a_prefix_is_that_of_the_layers_that_are_left() -> None:
    plm = build("bert", None)
    options = {"prefix_projection": True, "encoder_hidden_size": 16, "num_virtual_tokens": 3}
    for config in (pets.get("prefix", model=plm), pets.get("prefix", model=plm, **options)):
        model = build("bert", config)
        found: Any = truncate(model, lens_cost(model), WORDS, layer=3).model
        assert found.peft_config["default"].num_layers == 3
        assert model.peft_config["default"].num_layers == LAYERS
        rows = found.get_prompt_embedding_to_save("default")
        assert torch.equal(rows, model.get_prompt_embedding_to_save("default")[:, : 2 * 3 * 32])


def test_lists_of_the_config_that_tell_of_layers_are_cut_and_ids_of_tokens_are_not() -> None:
    plm = build("qwen3", None)
    plm.config.eos_token_id = [3, 7, 8, 9]
    assert len(plm.config.layer_types) == LAYERS
    config = truncate(plm, lens_cost(plm), WORDS, layer=2).model.config
    assert len(config.layer_types) == 2
    assert config.eos_token_id == [3, 7, 8, 9]


def test_the_first_layer_that_holds_the_loss_is_taken() -> None:
    model = build("bert", "lora")
    anytime = AnytimeClassifier(model, lens_cost(model), WORDS)
    examples = batches(6)
    for batch in examples:  # the full model is right
        inputs = {k: v for k, v in batch.items() if k != "labels"}
        with torch.no_grad():
            batch["labels"] = WORDS.score(model(**inputs).logits[:, 2]).argmax(1)
    anytime.fit(batches(4, seed=1))
    accuracies = anytime.accuracies(examples)
    assert accuracies[LAYERS] == 1
    exits = [accuracies[k] for k in range(1, LAYERS)]
    assert 0 < min(exits) < max(exits) < 1
    for loss in (1 - x for x in exits):
        first = next(k for k in range(1, LAYERS) if accuracies[k] >= 1 - loss)
        assert truncate(anytime, max_loss=loss, batches=iter(examples)).layer == first
    best = max(range(1, LAYERS), key=lambda k: accuracies[k])
    with pytest.raises(BadInput, match=rf"the best, {best}, has {accuracies[best]:.4g}"):
        truncate(anytime, max_loss=0, batches=examples)


def test_the_exits_of_an_anytime_classifier_are_taken_as_they_are_and_a_plain_model_calibrates() -> None:
    model = build("bert", "lora")
    cost = lens_cost(model)
    anytime = AnytimeClassifier(model, cost, WORDS, ALL_LEAVE, layers=[2]).fit(batches(4, seed=1))
    assert torch.equal(asked(truncate(anytime, layer=2)), asked(anytime))
    calibrated = AnytimeClassifier(model, cost, WORDS, ALL_LEAVE, layers=[2]).calibrate(batches())
    found = truncate(model, cost, WORDS, layer=2, batches=iter(batches()))
    assert torch.equal(asked(found), asked(calibrated))
    assert not torch.equal(asked(truncate(model, cost, WORDS, layer=2)), asked(calibrated))


def test_in_bfloat16() -> None:
    model = build("llama", "lora").to(torch.bfloat16)
    whole = AnytimeClassifier(model, lens_cost(model), WORDS, ALL_LEAVE, layers=[2])
    found = truncate(whole, layer=2)
    assert found(**batches(1)[0]).probabilities.dtype == torch.float32
    assert torch.equal(asked(found), asked(whole))


def test_it_tells_its_size() -> None:
    plm = tiny_bert(num_hidden_layers=LAYERS)
    found = truncate(plm, lens_cost(plm), WORDS, layer=1)
    block = sum(p.numel() for p in plm.bert.encoder.layer[0].parameters())
    full = sum(p.numel() for p in plm.parameters())
    assert (found.full_size.layers, found.full_size.parameters) == (LAYERS, full)
    assert (found.size.layers, found.size.parameters) == (1, full - 3 * block)
    assert found.size.bytes == 4 * found.size.parameters
    share = round(100 * found.size.parameters / full)
    assert repr(found).startswith("<TruncatedClassifier of BertForMaskedLM: layer 1 of 4, ")
    assert f"({share} %)" in repr(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"layer=None, max_loss=None: expected one of them"),
        ({"layer": 2, "max_loss": 0.1}, r"layer=2, max_loss=0.1: expected one of them"),
        ({"layer": 0}, "layer 0: expected one from 1 to 3, before the last of the 4 layers"),
        ({"layer": 4}, "layer 4: expected one from 1 to 3"),
        ({"layer": True}, "layer True: expected one from 1 to 3"),
        ({"layer": 2.0}, r"layer 2\.0: expected one from 1 to 3"),
        (
            {"max_loss": 1.0, "batches": batches()},
            r"max_loss=1\.0: expected a loss of accuracy in \[0, 1\)",
        ),
        ({"max_loss": -0.1, "batches": batches()}, r"max_loss=-0\.1: expected a loss of accuracy"),
        ({"max_loss": "1%", "batches": batches()}, "max_loss='1%': expected a loss of accuracy"),
        ({"max_loss": 0.1}, "max_loss needs batches="),
        ({"max_loss": 0.1, "batches": batches()[0]}, "batches are a dict: expected several"),
        ({"layer": 2, "batches": 3}, "batches are a int: expected several"),
        ({"layer": 2, "merge": "yes"}, "merge='yes': expected True or False"),
    ],
)
def test_bad_input_is_one_clear_line(options: dict[str, Any], message: str) -> None:
    model = build()
    with pytest.raises(BadInput, match=message) as error:
        truncate(model, lens_cost(model), WORDS, **options)
    assert "\n" not in str(error.value)


def test_max_loss_wants_labels() -> None:
    model = build()
    with pytest.raises(BadInput, match="the batches have no labels"):
        truncate(model, lens_cost(model), WORDS, max_loss=0.1, batches=unlabelled())


def test_a_cost_of_another_model_and_labels_without_words_are_refused() -> None:
    model = build()
    other = lens_cost(tiny_model("bert", num_hidden_layers=LAYERS, seed=1))
    with pytest.raises(BadInput, match="other weights"):
        truncate(model, other, WORDS, layer=2)
    assert truncate(model, other, WORDS, layer=2, same_weights=False).layer == 2
    with pytest.raises(BadInput, match="num_layers is 2 in the cost, 4 in the model"):
        truncate(model, lens_cost(tiny_model("bert")), WORDS, layer=2)
    with pytest.raises(BadInput, match="verbalizer=None: expected the words of the labels"):
        truncate(model, lens_cost(model), layer=2)
    with pytest.raises(BadInput, match=r"cost=None: expected a bridges\.RunningCost"):
        truncate(model, verbalizer=WORDS, layer=2)


def test_with_an_anytime_classifier_nothing_is_given_twice() -> None:
    model = build()
    cost = lens_cost(model)
    anytime = AnytimeClassifier(model, cost, WORDS, layers=[1, 3])
    with pytest.raises(BadInput, match="leave both out"):
        truncate(anytime, cost, layer=1)
    with pytest.raises(BadInput, match="is calibrated already"):
        truncate(anytime, layer=1, batches=batches())
    with pytest.raises(BadInput, match="layer 2 has no exit: there are some at 1, 3"):
        truncate(anytime, layer=2)
    with pytest.raises(BadInput, match="layer 9: expected one from 1 to 3"):
        truncate(anytime, layer=9)


def test_models_that_cannot_be_cut_are_refused() -> None:
    model = build()
    cost = lens_cost(model)
    handle = pets.regularize(model, cost)
    with pytest.raises(BadInput, match=r"call remove\(\) on its handle"):
        truncate(model, cost, WORDS, layer=2)
    handle.remove()
    with pytest.raises(BadInput, match="has an adapter and no PeftModel around it"):
        truncate(model.get_base_model(), cost, WORDS, layer=2)
    model.add_adapter("second", peft.LoraConfig(target_modules=["query"]))
    with pytest.raises(BadInput, match="has the adapters default, second: expected one"):
        truncate(model, cost, WORDS, layer=2)


class CountingBert(BertForMaskedLM):
    """Of which every layer depends on how many there are."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for block in self.bert.encoder.layer:
            block.register_forward_hook(self._scaled)

    def _scaled(self, module: nn.Module, args: Any, output: Any) -> Any:
        return output * (1 + 1 / self.config.num_hidden_layers)


def test_a_model_whose_layers_depend_on_their_number_is_refused() -> None:
    plm = CountingBert(tiny_bert(num_hidden_layers=LAYERS).config).eval()
    with pytest.raises(BadInput, match="has other states at layer 1 than the whole model"):
        truncate(plm, lens_cost(plm), WORDS, layer=2)


def test_it_takes_no_caches() -> None:
    model = build("llama")
    found = truncate(model, lens_cost(model), WORDS, layer=2)
    assert isinstance(found, TruncatedClassifier)
    with pytest.raises(BadInput, match="past_key_values was given"):
        found(**batches(1)[0], past_key_values=object())
    with pytest.raises(BadInput, match="input_ids=None"):
        found(attention_mask=torch.ones(2, 3))


@pytest.mark.parametrize("merge", [False, True])
def test_what_is_cut_in_inference_mode_is_a_model_outside_of_it(merge: bool, tmp_path: Path) -> None:
    model = build("bert", "lora")
    cost = lens_cost(model)
    with torch.inference_mode():
        found = truncate(model, cost, WORDS, layer=2, batches=unlabelled(), merge=merge)
    assert not any(p.is_inference() for p in found.model.parameters())
    found.save_pretrained(tmp_path / "cut")
