"""Packed documents: the cost of each is what it is apart, and its gradient stays inside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from plug_cases import gradients
from tiny import tiny_bert, tiny_llama
from torch import Tensor, nn
from transformers import LlamaForSequenceClassification, PreTrainedModel

import pets
from bridges import BadInput, RunningCost

LENGTHS = (7, 4, 9)
PROMPTS = (3, 2, 5)  # tokens of each that are no targets
TOTAL = sum(LENGTHS)


def documents() -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randint(5, 63, (n,), generator=rng) for n in LENGTHS]


def labels_of(ids: Tensor, prompt: int) -> Tensor:
    return torch.cat([torch.full((prompt,), -100), ids[prompt:]])


def apart() -> dict[str, Tensor]:
    """A row each, padded on the right."""
    ids, labels = torch.zeros(3, max(LENGTHS), dtype=torch.long), torch.full((3, max(LENGTHS)), -100)
    mask = torch.zeros_like(ids)
    for row, (document, prompt) in enumerate(zip(documents(), PROMPTS, strict=True)):
        ids[row, : len(document)] = document
        labels[row, : len(document)] = labels_of(document, prompt)
        mask[row, : len(document)] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def packed(how: str = "position ids") -> dict[str, Any]:
    """All in one row."""
    batch: dict[str, Any] = {
        "input_ids": torch.cat(documents())[None],
        "labels": torch.cat([labels_of(d, p) for d, p in zip(documents(), PROMPTS, strict=True)])[None],
        "position_ids": torch.cat([torch.arange(n) for n in LENGTHS])[None],
        "use_cache": False,  # with a cache the model takes the row for one document
    }
    numbers = torch.repeat_interleave(torch.arange(3), torch.tensor(LENGTHS))
    pairs = (numbers[:, None] == numbers).tril()[None, None]
    if how == "pairs":
        batch["attention_mask"] = pairs
    elif how == "additive pairs":
        batch["attention_mask"] = torch.zeros(pairs.shape, dtype=torch.float64)
        batch["attention_mask"].masked_fill_(~pairs, torch.finfo(torch.float64).min)
    elif how == "bounds":
        bounds = torch.tensor([0, *LENGTHS]).cumsum(0).int()
        batch |= {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": 9, "max_length_k": 9}
    return batch


def build(plm: PreTrainedModel, reader: str = "mlp") -> tuple[nn.Module, RunningCost]:
    torch.manual_seed(0)
    cost = RunningCost.for_model(plm, map=reader).double()
    model = get_peft_model(plm, pets.get("lora", init_lora_weights=False, model=plm))
    return model.double().train(), cost


@pytest.mark.parametrize("reader", ["mlp", "lens"])
@pytest.mark.parametrize("how", ["position ids", "pairs", "additive pairs", "bounds"])
def test_packed_and_apart_have_the_same_cost_and_gradient(how: str, reader: str) -> None:
    model, cost = build(tiny_llama(), reader)
    with pets.regularize(model, cost, into_loss=False):
        one, many = model(**packed(how)), model(**apart())
        torch.testing.assert_close(one.loss, many.loss, rtol=1e-5, atol=0)  # in fp32
        torch.testing.assert_close(one.running_cost, many.running_cost, rtol=1e-10, atol=0)
        expected = gradients(model, many.running_cost)
        for name, found in gradients(model, one.running_cost).items():
            torch.testing.assert_close(found, expected[name], rtol=1e-9, atol=1e-12)


def test_a_document_has_no_gradient_from_another_ones_targets() -> None:
    model, cost = build(tiny_llama())
    batch = packed()
    ids = batch.pop("input_ids")
    embeds = model.get_input_embeddings()(ids).detach().requires_grad_()
    batch["labels"][0, LENGTHS[0] :] = -100
    with pets.regularize(model, cost, into_loss=False):
        (found,) = torch.autograd.grad(model(inputs_embeds=embeds, **batch).running_cost, embeds)
    touched = found[0].abs().sum(1) > 0
    assert touched[: LENGTHS[0] - 1].all()
    assert not touched[LENGTHS[0] - 1 :].any()


def test_a_target_that_only_another_document_predicts_is_left_out() -> None:
    """The first token of a document, where its label was left in."""
    model, cost = build(tiny_llama())
    batch = packed()
    with pets.regularize(model, cost, into_loss=False):
        expected = model(**batch).running_cost
        batch["labels"][0, LENGTHS[0]] = batch["input_ids"][0, LENGTHS[0]]
        torch.testing.assert_close(model(**batch).running_cost, expected, rtol=1e-12, atol=0)


def test_documents_of_a_masked_model_have_contexts_of_their_own() -> None:
    model, cost = build(tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    batch, alone = packed("pairs"), apart()
    batch["attention_mask"] = batch["attention_mask"] | batch["attention_mask"].mT
    with pets.regularize(model, cost, into_loss=False):
        torch.testing.assert_close(
            model(**batch).running_cost, model(**alone).running_cost, rtol=1e-10, atol=0
        )


def test_packed_rows_of_a_classifier_are_refused() -> None:
    plm = LlamaForSequenceClassification(tiny_llama().config).double().train()
    words = pets.Verbalizer(("a", "b"), (("a",), ("b",)), (((7,),), ((9,),)))
    batch = packed() | {"labels": torch.tensor([1])}
    with (
        pets.regularize(plm, RunningCost.for_model(plm).double(), verbalizer=words),
        pytest.raises(BadInput, match="packed into a row that has one label"),
    ):
        plm(**batch)


def test_labels_that_stand_where_they_are_predicted() -> None:
    """As collators of sequence parallelism make them: the loss reads these, so the cost does too."""
    model, cost = build(tiny_llama())
    batch = apart()
    with pets.regularize(model, cost, into_loss=False):
        expected = model(**batch)
        shifted = nn.functional.pad(batch["labels"], (0, 1), value=-100)[:, 1:].contiguous()
        wrong = torch.full_like(batch["labels"], -100)
        found = model(**batch | {"labels": wrong}, shift_labels=shifted)
        torch.testing.assert_close(found.loss, expected.loss)
        torch.testing.assert_close(found.running_cost, expected.running_cost, rtol=1e-12, atol=0)
        shifted[0, -1] = 7
        with pytest.raises(BadInput, match=r"target at the last position .*context parallelism"):
            model(**batch, shift_labels=shifted)
