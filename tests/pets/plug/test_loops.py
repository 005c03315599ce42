"""Loops as people write them, that once went wrong: a cost that comes again, empty batches, wrappers."""

from __future__ import annotations

import gc
from types import MethodType
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from peft import PromptTuningConfig, get_peft_model
from plug_cases import WEIGHT, build, make_batch
from tiny import tiny_bert, tiny_llama
from torch import Tensor, nn
from transformers import XLMConfig, XLMWithLMHeadModel

import pets
from bridges import BadInput, RunningCost
from pets.plug.placed_cost import check_padding


def test_a_cost_comes_again_and_again_under_a_forward_that_others_put_around() -> None:
    setup, batch = build("bert-lora"), make_batch()
    with pets.regularize(setup.plm, setup.cost, WEIGHT):
        expected = setup.plm(**batch).loss
        inner = setup.plm.forward
        setup.plm.forward = MethodType(lambda self, *args, **kwargs: inner(*args, **kwargs), setup.plm)
    for _ in range(3):
        with pets.regularize(setup.plm, setup.cost, WEIGHT):
            assert torch.equal(setup.plm(**batch).loss, expected)
        assert "running_cost" not in setup.plm(**batch)


def test_two_stages_with_accelerate_in_bf16() -> None:
    setup, batch = build("bert-lora"), make_batch()
    for _ in range(2):
        with pets.regularize(setup.model, setup.cost, WEIGHT, in_eval=True):
            model = Accelerator(mixed_precision="bf16", cpu=True).prepare(setup.model)
            assert model.train()(**batch).running_cost.isfinite()
            assert hasattr(model.eval()(**batch), "running_cost")  # whoever built the output anew
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


@pytest.mark.parametrize("kind", ["bert-lora", "llama-lora"])
def test_an_empty_first_batch_tells_nothing_of_the_losses_scale(kind: str) -> None:
    losses = []
    for first in (True, False):
        setup, batch = build(kind), make_batch()
        with pets.regularize(setup.model, setup.cost, WEIGHT):
            if first:
                empty = batch | {"labels": torch.full_like(batch["labels"], -100)}
                setup.model(**empty, num_items_in_batch=0)
            losses.append(setup.model(**batch, num_items_in_batch=torch.tensor(20)).loss)
    assert torch.equal(*losses)


def test_calls_that_train_nothing_need_no_labels() -> None:
    setup = build("llama-lora")
    batch = make_batch()
    batch.pop("labels")
    with pets.regularize(setup.model, setup.cost, in_eval=True):
        setup.model.generate(**batch, max_new_tokens=2, do_sample=False)  # in train mode, as RL does
        with torch.no_grad(), setup.model.disable_adapter():
            assert setup.model(**batch).running_cost is None
        setup.model.eval()
        assert setup.model(**batch).running_cost is None
        setup.model.train()
        with pytest.raises(BadInput, match=r"needs labels: .*compute_loss_func"):
            setup.model(**batch)


class Masking(nn.Module):
    """A model of the user's own that keeps the prompt out of the loss."""

    def __init__(self, plm: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.plm, self.times = plm, times

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Any:
        labels = labels.clone()
        labels[:, :5] = -100
        for _ in range(self.times):
            output = self.plm(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
        return output


def test_the_labels_that_the_loss_was_made_of_are_read() -> None:
    setup, batch = build("llama"), make_batch()
    model = Masking(setup.plm).train()
    with pets.regularize(setup.plm, setup.cost, WEIGHT):
        expected = model(**batch).loss
    with pets.regularize(model, setup.cost, WEIGHT):
        assert torch.equal(model(**batch).loss, expected)


def test_a_model_that_runs_its_encoder_twice_is_refused_outside_and_not_inside() -> None:
    setup, batch = build("llama"), make_batch()
    model = Masking(setup.plm, times=2).train()
    with (
        pets.regularize(model, setup.cost, WEIGHT),
        pytest.raises(BadInput, match=r"ran its encoder LlamaModel 2 times in one forward"),
    ):
        model(**batch)
    with pets.regularize(setup.plm, setup.cost, WEIGHT):
        assert model(**batch).running_cost > 0


def test_positions_that_peft_drops_with_a_prompt_are_not_read() -> None:
    plm = tiny_llama()
    cost = RunningCost.for_model(plm)
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model, batch = get_peft_model(plm, config).train(), make_batch()
    with pets.regularize(model, cost, WEIGHT):
        expected = model(**batch).loss
        positions = torch.arange(9).expand(4, 9)
        assert torch.equal(model(**batch, position_ids=positions).loss, expected)


def test_asking_for_the_losses_scale_leaves_a_cache_alone() -> None:
    setup, batch = build("llama"), make_batch()
    batch.pop("attention_mask")
    with pets.regularize(setup.plm, setup.cost, WEIGHT), torch.no_grad():
        cache = setup.plm(**batch, use_cache=True).past_key_values
        length = cache.get_seq_length()
        setup.plm(**batch, past_key_values=cache, num_items_in_batch=8)
        assert cache.get_seq_length() == 2 * length


def test_a_weight_that_begins_at_zero_does_not_put_the_guard_to_sleep() -> None:
    setup, batch = build("bert-lora"), make_batch()
    optimizer = torch.optim.SGD([p for p in setup.model.parameters() if p.requires_grad], lr=0.1)
    with pets.regularize(setup.model, setup.cost, 0.0) as handle:
        for weight in (0.0, 0.0):
            handle.weight = weight
            setup.model(**batch).logits.square().mean().backward()
            optimizer.step()
        handle.weight = 0.5
        setup.model(**batch).logits.square().mean().backward()
        with pytest.raises(BadInput, match="trained another loss"):
            optimizer.step()


def test_an_evaluation_in_inference_mode_before_training_leaves_nothing_behind() -> None:
    plm = tiny_bert().train()
    with pets.regularize(plm, RunningCost.for_model(plm, "sde"), WEIGHT):
        with torch.inference_mode():
            plm(**make_batch())
        plm(**make_batch()).loss.backward()


def test_weight_zero_only_reports_where_nothing_below_the_head_is_trained() -> None:
    plm = tiny_bert().train()
    cost = RunningCost.for_model(plm)
    for name, parameter in plm.named_parameters():
        parameter.requires_grad_(name.startswith("cls."))
    with pets.regularize(plm, cost, 0.0):
        assert plm(**make_batch()).running_cost > 0
    with pets.regularize(plm, cost, 0.5), pytest.raises(BadInput, match="carry no gradient"):
        plm(**make_batch())


def test_padding_that_a_model_finds_by_itself_is_refused() -> None:
    config = XLMConfig(vocab_size=63, emb_dim=32, n_layers=2, n_heads=4, pad_index=2)
    plm = XLMWithLMHeadModel(config).train()
    batch = make_batch()
    with pets.regularize(plm, RunningCost.for_model(plm), WEIGHT):
        plm(**batch)
        batch["input_ids"][0, 7:] = 2
        plm(**batch)
        batch.pop("attention_mask")
        with pytest.raises(BadInput, match="XLMModel takes token 2 for padding"):
            plm(**batch)


@pytest.mark.parametrize("name", ["lengths", "input_mask"])
def test_a_mask_of_another_name_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match=rf"{name} says where the padding is.*attention_mask"):
        check_padding(None, {name: torch.ones(2, 3)})


def plugged_and_seen() -> tuple[nn.Module, torch.optim.Optimizer]:
    setup = build("bert-lora")
    pets.regularize(setup.model, setup.cost, WEIGHT)
    trained = [p for p in setup.model.parameters() if p.requires_grad]
    setup.model(**make_batch()).loss.backward()
    return setup.model, torch.optim.SGD(trained, lr=0.1)


def test_two_models_step_side_by_side_and_after_one_is_gone() -> None:
    """Each takes out what it had among the hooks of all optimisers while they are called."""
    (one, first), (two, second) = plugged_and_seen(), plugged_and_seen()
    first.step()
    second.step()
    del one, first
    gc.collect()
    third, another = plugged_and_seen()
    for model, optimizer in ((two, second), (third, another)):
        for _ in range(2):
            model(**make_batch()).loss.backward()
            optimizer.step()
