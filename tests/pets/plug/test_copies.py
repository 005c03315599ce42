"""Copies of a model with a PET, with and without a cost: independent, or refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from peft import get_peft_model
from plug_cases import NO_DROPOUT, WEIGHT, Batch, batches, gradients
from tiny import tiny_bert, tiny_model
from torch import nn

import pets
from bridges import BadInput, RunningCost
from pets.methods.prompts import prompt_shape

every_pet = pytest.mark.parametrize("pet", pets.available())


def build(pet: str) -> tuple[nn.Module, RunningCost]:
    plm = tiny_bert(**NO_DROPOUT)
    cost = RunningCost.for_model(plm)
    return get_peft_model(plm, pets.get(pet, model=plm)).train(), cost


def batch() -> Batch:
    return batches(1)[0]


def step(model: nn.Module) -> Any:
    """One step of gradient descent and the output before it."""
    output = model(**batch())
    output.loss.backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.data -= parameter.grad
            parameter.grad = None
    return output


@every_pet
def test_a_deep_copy_has_its_own_parameters_cost_and_handle(pet: str) -> None:
    model, cost = build(pet)
    handle = pets.regularize(model, cost, WEIGHT)
    step(model)  # hooks are hung up and taken off by now
    expected = gradients(model, model(**batch()).loss)
    twin, its_handle = copy.deepcopy((model, handle))
    for name, gradient in gradients(twin, twin(**batch()).loss).items():
        assert torch.equal(gradient, expected[name]), name

    loss = model(**batch()).loss
    step(twin)
    assert torch.equal(model(**batch()).loss, loss)  # what the copy learns stays there
    assert twin(**batch()).loss < loss
    handle.remove()
    assert "running_cost" in twin(**batch())
    its_handle.weight = 0.0
    assert handle.weight == WEIGHT
    its_handle.remove()
    pets.regularize(twin, cost).remove()
    inputs = {k: v for k, v in batch().items() if k != "labels"}
    assert "running_cost" not in twin(**inputs)


def test_a_copy_made_between_forward_and_backward_watches_its_own_first_pass() -> None:
    plm = tiny_model("distilbert")
    options = {"num_virtual_tokens": 3, **prompt_shape(plm)}
    model = get_peft_model(plm, pets.get("prefix", **options)).train()
    plm.enable_input_require_grads()  # else the cost finds that nothing is trained, without a backward
    pets.regularize(model, RunningCost.for_model(plm))
    inputs = {**batch(), "attention_mask": torch.ones(4, 9)}
    model(**inputs)
    twin = copy.deepcopy(model)
    twin(**inputs).loss.backward()
    with pytest.raises(BadInput, match="1 of the PET's 1 trainable tensors got no gradient"):
        twin(**inputs)


@pytest.mark.parametrize("plugged", [False, True])
@every_pet
def test_a_pickle_is_a_copy_except_of_a_bitfit(pet: str, plugged: bool) -> None:
    """As launchers that spawn processes hand models over."""
    model, cost = build(pet)
    if plugged:
        pets.regularize(model, cost, WEIGHT)
    if pet == "bitfit":  # torch's parametrizations refuse
        with pytest.raises(RuntimeError, match="of parametrized modules is only supported"):
            pickle.dumps(model)
        return
    twin = pickle.loads(pickle.dumps(model))
    if not plugged:
        pets.regularize(model, cost, WEIGHT)
        pets.regularize(twin, copy.deepcopy(cost), WEIGHT)
    ours, theirs = step(model), step(twin)
    assert torch.equal(ours.loss, theirs.loss)
    assert torch.equal(ours.running_cost, theirs.running_cost)
    pairs = zip(model.parameters(), twin.parameters(), strict=True)
    assert all(a is not b and torch.equal(a, b) for a, b in pairs)
