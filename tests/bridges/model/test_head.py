"""A model's head at any layer: against the models' own logits, cut models, and finite differences."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from peft import get_peft_model
from tiny import ARCHITECTURES, VOCABULARY, tiny_bert, tiny_model
from torch import Tensor

import pets
from bridges import BadInput
from bridges.model.forward import states_of
from bridges.model.head import ModelHead

IDS = torch.tensor([[2, 9, 20, 33, 11, 3], [2, 40, 7, 18, 25, 3]])
STACKS = {"gpt2": "transformer.h", "llama": "model.layers", "qwen3": "model.layers"}
STACKS |= {"modernbert": "model.layers", "megatron-bert": "bert.encoder.layer", "t5": "decoder.block"}


def run(plm: Any, ids: Tensor = IDS) -> tuple[tuple[Tensor, ...], Tensor]:
    """Hidden states and logits."""
    more = {"decoder_input_ids": ids} if plm.config.is_encoder_decoder else {}
    output = plm(input_ids=ids, **more, output_hidden_states=True)
    states = states_of(output)
    assert states is not None
    return states, output.logits


def loud(model_type: str, **options: Any) -> Any:
    """A tiny model whose layers change what it says."""
    model = tiny_model(model_type, **options)
    for parameter in model.parameters():
        parameter.data *= 3 if parameter.dim() > 1 else 1
    return model


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_at_the_last_layer_it_says_what_the_model_says(model_type: str) -> None:
    plm = loud(model_type)
    states, logits = run(plm)
    found = ModelHead(plm)(torch.stack([s.flatten(0, 1) for s in states]), range(len(states)))
    assert found.shape == (3, 12, len(VOCABULARY))
    torch.testing.assert_close(found[-1].unflatten(0, (2, 6)), logits, rtol=1e-4, atol=1e-4)
    assert (found[1] - found[-1]).abs().max() > 1e-2


@pytest.mark.parametrize("model_type", STACKS)
def test_before_the_last_layer_it_says_what_a_cut_model_says(model_type: str) -> None:
    plm = loud(model_type)
    states, _ = run(plm)
    found = ModelHead(plm)(states[1].flatten(0, 1)[None])[0]
    cut = copy.deepcopy(plm)
    del cut.get_submodule(STACKS[model_type])[-1]
    for name in ("num_hidden_layers", "num_decoder_layers"):
        if hasattr(cut.config, name):
            setattr(cut.config, name, 1)
    torch.testing.assert_close(found.unflatten(0, (2, 6)), run(cut)[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scaled", [False, True])
def test_softcaps_and_scaling_are_the_models_own(scaled: bool) -> None:
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    size = {"vocab_size": len(VOCABULARY), "num_key_value_heads": 2, **ids, **shape}
    torch.manual_seed(0)
    plm: Any
    if scaled:
        plm = transformers.GraniteForCausalLM(transformers.GraniteConfig(**size, logits_scaling=0.01))
    else:
        caps = {"final_logit_softcapping": 0.5, "head_dim": 8}
        plm = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**size, **caps))
    states, logits = run(plm.eval())
    found = ModelHead(plm)(states[-1].flatten(0, 1)[None], [2])[0].unflatten(0, (2, 6))
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)
    assert scaled or found.abs().max() <= 0.5
    torch.testing.assert_close(found.log_softmax(-1), logits.log_softmax(-1), rtol=1e-4, atol=1e-4)


CLASSIFIERS = {
    "albert": "ForSequenceClassification",
    "bert": "ForSequenceClassification",
    "deberta-v2": "ForSequenceClassification",
    "distilbert": "ForTokenClassification",
    "electra": "ForSequenceClassification",
    "gpt2": "ForTokenClassification",
    "llama": "ForSequenceClassification",
    "modernbert": "ForSequenceClassification",
    "roberta": "ForSequenceClassification",
    "t5": "ForSequenceClassification",
}


@pytest.mark.parametrize("model_type", CLASSIFIERS)
def test_of_a_classifier_it_says_the_classes(model_type: str) -> None:
    options = {"classifier_pooling": "cls"} if model_type == "modernbert" else {}
    plm = loud(model_type, head=CLASSIFIERS[model_type], num_labels=3, **options)
    states, logits = run(plm)
    found = ModelHead(plm)(torch.stack([s.flatten(0, 1) for s in states]), range(len(states)))
    last = found[-1].unflatten(0, (2, 6))
    if logits.dim() == 2:  # where the head reads a sequence
        last = last[:, -1 if model_type in ("llama", "t5") else 0]
    assert found.shape == (3, 12, 3)
    torch.testing.assert_close(last, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", ["bert", "llama", "t5"])
def test_its_gradients_are_right(model_type: str) -> None:
    """To the states and to the head's own parameters; some norms compute in float32 always."""
    plm = loud(model_type).double()
    head = ModelHead(plm)
    states = torch.randn(2, 3, 32, dtype=torch.float64)
    names = ("model.norm.weight", "final_layer_norm.weight", "transform.dense.weight")
    own = [p for name, p in plm.named_parameters() if name.endswith(names)][-1]
    for leaf in (states.requires_grad_(), own):
        value, direction = leaf.detach().clone(), torch.randn_like(leaf)
        (gradient,) = torch.autograd.grad(head(states).square().mean(), leaf)
        moved = []
        for step in (1e-3, -1e-3):
            leaf.data = value + step * direction
            moved.append(float(head(states).square().mean().detach()))
        leaf.data = value
        expected = (moved[0] - moved[1]) / 2e-3
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=2e-3, abs=1e-3)


def test_the_encoder_does_not_run_and_nothing_of_it_stays() -> None:
    plm = tiny_bert().train()
    head, before = ModelHead(plm), dict(plm._modules)
    rows: list[Any] = []
    plm.bert.register_forward_hook(lambda *_: pytest.fail("it ran"))
    plm.cls.register_forward_hook(lambda module, args, _: rows.append(args[0].shape))
    assert head(torch.randn(2, 3, 32)).requires_grad
    assert rows == [(6, 1, 32)], "only the given positions pass the head"
    assert dict(plm._modules) == before
    assert plm.training
    with pytest.raises(RuntimeError):
        head(torch.randn(2, 3, 31))
    assert dict(plm._modules) == before


@pytest.mark.parametrize("pet", ["lora", "prompt", "prefix", "adapter", "bitfit"])
def test_under_a_pet_it_is_the_head_that_is_trained(pet: str) -> None:
    plm = tiny_bert()
    model = get_peft_model(plm, pets.get(pet, model=plm)).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    output = model(input_ids=IDS, output_hidden_states=True)
    states = output.hidden_states[-1].flatten(0, 1)[None]
    found = ModelHead(model)(states, [3])[0]
    torch.testing.assert_close(found, output.logits.flatten(0, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", ["bert", "qwen3", "t5"])
def test_no_states_have_no_logits_in_the_graph(model_type: str) -> None:
    head, states = ModelHead(tiny_model(model_type)), torch.randn(2, 0, 32, requires_grad=True)
    found = head(states)
    assert found.shape == (2, 0, len(VOCABULARY))
    found.sum().backward()
    assert states.grad is not None


def test_half_precision() -> None:
    plm = loud("llama").bfloat16()
    states, logits = run(plm)
    found = ModelHead(plm)(states[-1].flatten(0, 1)[None], [2])[0].unflatten(0, (2, 6))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, logits, rtol=2e-2, atol=2e-2)


def test_heads_that_cannot_be_read_are_refused() -> None:
    mean = tiny_model("modernbert", head="ForSequenceClassification", classifier_pooling="mean")
    with pytest.raises(BadInput, match=r"the head of ModernBert.* cannot be read at other layers"):
        ModelHead(mean)
    with pytest.raises(BadInput, match="returns no hidden states with logits"):
        ModelHead(tiny_bert().bert)
    head = ModelHead(tiny_bert())
    with pytest.raises(BadInput, match=r"expected \[K, N, H\] and K of them"):
        head(torch.randn(3, 32))
    with pytest.raises(BadInput, match=r"expected \[K, N, H\] and K of them"):
        head(torch.randn(2, 3, 32), [1])
