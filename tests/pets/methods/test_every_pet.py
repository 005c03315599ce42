"""All five PETs under a running cost: positions, gradients, what moves, and tuning end to end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from tiny import tiny_bert
from torch import Tensor
from transformers import BertForMaskedLM

import bridges
import pets
from bridges import BadInput
from pets.tuning.models import load_pet, unload
from tests.pets.tuning.test_tuning import PET, cost_for, model, run

pytestmark = pytest.mark.slow

LENGTHENED = {"prompt": 20}
"""Positions that a PET puts before the input."""

every_pet = pytest.mark.parametrize("pet", pets.available())


def batch() -> dict[str, Tensor]:
    ids = torch.tensor([[2, 4, 10, 11, 3], [2, 4, 12, 3, 0]])
    labels = torch.full_like(ids, -100)
    labels[:, 1] = torch.tensor([10, 11])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


@every_pet
def test_the_cost_reads_the_targets_wherever_the_pet_moves_them(pet: str, bert: BertForMaskedLM) -> None:
    cost = bridges.RunningCost.for_model(bert, "ou")
    tuned = get_peft_model(bert, pets.get(pet, model=bert)).train()
    inputs = batch()
    bert.eval()
    with torch.no_grad():  # by hand: no labels, so that nothing has to be moved to call the model
        hidden = tuned(
            **{k: v for k, v in inputs.items() if k != "labels"}, output_hidden_states=True
        ).hidden_states
    extra = LENGTHENED.get(pet, 0)
    assert hidden[0].shape[1] == 5 + extra
    targets = torch.nn.functional.pad(inputs["labels"], (extra, 0), value=-100)
    mask = torch.nn.functional.pad(inputs["attention_mask"], (extra, 0), value=1)
    expected = cost(hidden, targets, mask)
    with pets.regularize(tuned, cost, in_eval=True):
        output = tuned.eval()(**inputs)
    torch.testing.assert_close(output.running_cost, expected, rtol=1e-6, atol=0)
    at_targets = output.logits[:, 1 + extra].float()
    loss = torch.nn.functional.cross_entropy(at_targets, torch.tensor([10, 11]))
    torch.testing.assert_close(output.loss, loss + expected, rtol=1e-6, atol=0)


@every_pet
def test_loss_and_cost_train_the_pet_and_nothing_else(pet: str) -> None:
    plm = tiny_bert()
    cost = bridges.RunningCost.for_model(plm, "brownian")
    tuned = get_peft_model(plm, pets.get(pet, model=plm)).train()
    plm.eval()
    before = {name: p.detach().clone() for name, p in tuned.named_parameters()}
    frozen = cost.digest()
    trained = [p for p in tuned.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=3e-3)
    values = []
    with pets.regularize(tuned, cost, weight=1.0):
        for _ in range(20):
            output = tuned(**batch())
            output.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            values.append(float(output.loss.detach()))
    assert values[-1] < values[0] - 1e-3
    moved = {name for name, p in tuned.named_parameters() if not torch.equal(p, before[name])}
    assert moved <= {name for name, p in tuned.named_parameters() if p.requires_grad}
    assert moved
    assert cost.digest() == frozen


@every_pet
def test_tuning_saves_a_pet_that_loads_strictly_and_scores_the_same(pet: str, tmp_path: Path) -> None:
    plm = model()
    before = {name: value.clone() for name, value in plm.state_dict().items()}
    options = {"pet": pet, "max_steps": 6, "eval_every": 3, "cost": cost_for(plm)}
    result = run(tmp_path / pet, plm=plm, **options)
    assert result["pet"] == pet
    assert result["trainable_parameters"] > 0
    after = plm.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    again = run(tmp_path / "again", **{**options, "cost": cost_for(plm)})
    assert again["curves"] == result["curves"]

    loaded = load_pet(plm, tmp_path / pet / "pet")
    file = tmp_path / pet / PET
    weights = load_file(file)
    assert weights
    unload(loaded)
    save_file({**weights, "base_model.model.stray": torch.zeros(1)}, file)
    with pytest.raises(BadInput, match="stray"):
        load_pet(model(), tmp_path / pet / "pet")
    first = next(iter(weights))
    save_file({k: v for k, v in weights.items() if k != first} | {"other": torch.zeros(1)}, file)
    with pytest.raises(BadInput):
        load_pet(model(), tmp_path / pet / "pet")


def test_a_soft_prompt_takes_its_room_from_the_text(tmp_path: Path) -> None:
    room = model().config.max_position_embeddings
    with pytest.raises(
        BadInput, match=f"a soft prompt of {room} tokens leaves no room in {room} positions"
    ):
        run(tmp_path, pet="prompt", pet_options={"num_virtual_tokens": room})
