"""The guard over the first backward pass: what it reports, and all that it must keep quiet about."""

from __future__ import annotations

import gc
import logging
import pickle
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from tiny import tiny_bert, tiny_llama, tiny_model
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

import bridges
import pets
from bridges import BadInput
from tests.pets.methods.test_every_pet import batch

LOGGER = "pets.plug.guard"


def train_mode(plm: PreTrainedModel, config: Any = None) -> tuple[nn.Module, bridges.RunningCost]:
    cost = bridges.RunningCost.for_model(plm, "brownian")
    model = plm if config is None else get_peft_model(plm, config)
    return model.train(), cost


def lora(plm: PreTrainedModel | None = None) -> tuple[nn.Module, bridges.RunningCost]:
    return train_mode(tiny_bert() if plm is None else plm, pets.get("lora"))


def hooks_left(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p._post_accumulate_grad_hooks]


def backward(model: nn.Module, loss: Tensor) -> None:
    """A backward pass and the step after it, which leaves every parameter where it is."""
    loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0).step()


class TwoTowers(nn.Module):
    """A model of the user's own, with a part that it never calls."""

    def __init__(self, plm: PreTrainedModel, experts: int = 0) -> None:
        super().__init__()
        self.plm = plm
        self.spare = nn.Linear(32, 32)
        self.experts = nn.ModuleList(nn.Linear(32, 32) for _ in range(experts))
        self.expert = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> MaskedLMOutput:
        found = self.plm.bert(input_ids, attention_mask).last_hidden_state
        if len(self.experts):
            found = found + self.experts[self.expert](found)
        return MaskedLMOutput(loss=nn.functional.cross_entropy(self.plm.cls(found).mT, labels))


class CutOff(torch.autograd.Function):
    """As a kernel without a gradient of its own: torch goes through it and hands nothing on."""

    @staticmethod
    def forward(ctx: Any, states: Tensor) -> Tensor:
        return states.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> None:
        return None


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing may be logged."""
    with caplog.at_level(logging.WARNING, LOGGER):
        yield
    assert not [record for record in caplog.records if record.name == LOGGER]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


# What is reported


@pytest.mark.parametrize("into_loss", [True, False])
def test_a_model_that_hands_no_gradient_on_is_an_error_at_the_first_step(into_loss: bool) -> None:
    """bitsandbytes 0.50 does so on some CPUs, after a forward in eval mode."""
    plm = tiny_bert()
    model, cost = lora(plm)
    for layer in plm.bert.encoder.layer:
        layer.attention.output.dense.register_forward_hook(lambda module, args, out: CutOff.apply(out))
    with pets.regularize(model, cost, into_loss=into_loss):
        output = model(**batch())
        with pytest.raises(BadInput, match="reached the loss and no trainable parameter"):
            backward(model, output.loss if into_loss else output.loss + output.running_cost)
        assert not hooks_left(model)


def test_gradients_that_the_loop_puts_there_itself_are_gradients() -> None:
    model, cost = lora()
    trained = [p for p in model.parameters() if p.requires_grad]
    with pets.regularize(model, cost):
        for parameter, gradient in zip(
            trained, torch.autograd.grad(model(**batch()).loss, trained), strict=True
        ):
            parameter.grad = gradient
        torch.optim.SGD(trained, lr=0.0).step()


@pytest.mark.parametrize("model_type", ["albert", "distilbert", "modernbert"])
def test_a_prefix_that_the_model_drops_is_named(model_type: str) -> None:
    config = PrefixTuningConfig(
        task_type="FEATURE_EXTRACTION",
        num_virtual_tokens=3,
        num_layers=2,
        num_attention_heads=4,
        token_dim=32,
    )
    model, cost = train_mode(tiny_model(model_type), config)
    inputs = {**batch(), "attention_mask": torch.ones(2, 5, dtype=torch.long)}
    with pets.regularize(model, cost):
        with pytest.raises(BadInput, match="carry no gradient"):  # seen before any backward pass
            model(**inputs)
        model.get_base_model().enable_input_require_grads()  # as scripts with checkpointing do
        loss = model(**inputs).loss
        with pytest.raises(BadInput, match=r"1 of the PET's 1 .*prompt_encoder.*ignores this PET"):
            backward(model, loss)
    assert not hooks_left(model)


@pytest.mark.parametrize("targets", [["query", "spare"], ["spare"]])
def test_a_lora_on_a_layer_that_is_not_used_is_named(targets: list[str]) -> None:
    plm = tiny_bert()
    plm.bert.embeddings.LayerNorm.spare = nn.Linear(32, 32)
    model, cost = train_mode(
        plm, LoraConfig(target_modules=targets, task_type="FEATURE_EXTRACTION", r=2)
    )
    plm.enable_input_require_grads()
    with pets.regularize(model, cost):
        loss = model(**batch()).loss
        with pytest.raises(
            BadInput, match=r"2 of the PET's \d+ .*spare\.lora_A.*spare\.lora_B"
        ) as error:
            backward(model, loss)
        assert "query" not in str(error.value)
        model(**batch()).loss.backward()  # said once


def test_a_long_list_is_cut_short() -> None:
    plm = tiny_bert()
    for name in ("left", "right"):
        setattr(plm.bert.embeddings.LayerNorm, name, nn.Linear(32, 32))
    config = LoraConfig(target_modules=["query", "left", "right"], task_type="FEATURE_EXTRACTION")
    model, cost = train_mode(plm, config)
    with pets.regularize(model, cost), pytest.raises(BadInput, match=r"\(.* and 1 more\)"):
        backward(model, model(**batch()).loss)


def test_full_tuning_with_an_unused_part_only_warns(caplog: pytest.LogCaptureFixture) -> None:
    model, cost = train_mode(tiny_bert())
    model.bert.spare = nn.Linear(32, 32)
    with pets.regularize(model, cost), caplog.at_level(logging.WARNING, LOGGER):
        for _ in range(2):
            backward(model, model(**batch()).loss)
    assert said(caplog) == [
        f"2 of {len(list(model.parameters()))} trainable parameters got no gradient in the first "
        "backward pass: bert.spare.weight, bert.spare.bias"
    ]


def test_what_is_unused_beside_a_pet_only_warns(caplog: pytest.LogCaptureFixture) -> None:
    inner, cost = lora()
    model = TwoTowers(inner.get_base_model()).train()
    with pets.regularize(model, cost), caplog.at_level(logging.WARNING, LOGGER):
        backward(model, model(**batch()).loss)
    assert ["spare.weight, spare.bias" in message for message in said(caplog)] == [True]


def test_a_lora_on_experts_of_which_one_is_called_only_warns(caplog: pytest.LogCaptureFixture) -> None:
    plm = tiny_bert()
    cost = bridges.RunningCost.for_model(plm)
    config = LoraConfig(target_modules=r".*experts\.\d+", r=2)
    model = get_peft_model(TwoTowers(plm, experts=3), config).train()
    with pets.regularize(model, cost), caplog.at_level(logging.WARNING, LOGGER):
        plm.enable_input_require_grads()
        backward(model, model(**batch()).loss)
    assert [message[:7] for message in said(caplog)] == ["4 of 6 "]


# What is not


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("make", "pet"), [*((tiny_bert, pet) for pet in pets.available()), (tiny_llama, "lora")]
)
def test_every_pet_passes_and_no_hook_stays(make: Any, pet: str) -> None:
    plm = make()
    model, cost = train_mode(plm, pets.get(pet, model=plm))
    with pets.regularize(model, cost):
        loss = model(**batch()).loss
        assert hooks_left(model)
        backward(model, loss)
        assert not hooks_left(model)
        assert not model(**batch()).loss._backward_hooks  # no cost after the first pass
        assert not hooks_left(model)


@pytest.mark.usefixtures("quiet")
def test_full_tuning_passes() -> None:
    model, cost = train_mode(tiny_bert())
    with pets.regularize(model, cost):
        backward(model, model(**batch()).loss)
    assert not hooks_left(model)


@pytest.mark.usefixtures("quiet")
def test_remove_takes_the_hooks_off() -> None:
    model, cost = lora()
    handle = pets.regularize(model, cost)
    losses = [model(**batch()).loss for _ in range(2)]
    assert hooks_left(model)
    handle.remove()
    assert not hooks_left(model)
    assert not any(loss._backward_hooks for loss in losses)
    backward(model, losses[0])


@pytest.mark.usefixtures("quiet")
def test_autograd_grad_does_not_count() -> None:
    model, cost = lora()
    some = [p for p in model.parameters() if p.requires_grad][:1]
    with pets.regularize(model, cost):
        for _ in range(3):
            torch.autograd.grad(model(**batch()).loss, some)
        assert hooks_left(model)  # it waits for a backward pass
        backward(model, model(**batch()).loss)
        assert not hooks_left(model)


@pytest.mark.usefixtures("quiet")
def test_a_backward_pass_to_chosen_inputs_is_fine() -> None:
    model, cost = lora()
    some = [p for p in model.parameters() if p.requires_grad][:1]
    with pets.regularize(model, cost):
        model(**batch()).loss.backward(inputs=some)
        model(**batch())
    assert some[0].grad is not None


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("together", [True, False])
def test_several_forwards_before_a_backward_pass(together: bool) -> None:
    model, cost = lora()
    with pets.regularize(model, cost):
        losses = [model(**batch()).loss / 3 for _ in range(3)]
        for loss in [sum(losses)] if together else losses:
            loss.backward()
        model(**batch())
    assert not hooks_left(model)


@pytest.mark.usefixtures("quiet")
def test_a_parameter_that_is_unfrozen_later_is_not_missed() -> None:
    model, cost = lora()
    trainable = [p for p in model.parameters() if p.requires_grad]
    for parameter in trainable[1:]:
        parameter.requires_grad_(False)
    with pets.regularize(model, cost):
        loss = model(**batch()).loss
        for parameter in trainable:
            parameter.requires_grad_(True)
        later = model(**batch()).loss
        loss.backward()
        later.backward()
        model(**batch())


@pytest.mark.usefixtures("quiet")
def test_a_parameter_that_is_frozen_later_is_not_missed() -> None:
    model, cost = train_mode(tiny_bert())
    model.bert.spare = nn.Linear(32, 32)
    with pets.regularize(model, cost):
        loss = model(**batch()).loss
        model.bert.spare.requires_grad_(False)
        backward(model, loss)


@pytest.mark.usefixtures("quiet")
def test_a_parameter_that_only_another_loss_reaches_is_fine() -> None:
    model, cost = train_mode(tiny_bert())
    model.bert.spare = nn.Linear(32, 32)
    with pets.regularize(model, cost):
        backward(model, model(**batch()).loss + model.bert.spare(torch.ones(1, 32)).sum())


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_is_fine(reentrant: bool) -> None:
    model, cost = lora()
    plm = model.get_base_model()
    plm.gradient_checkpointing_enable({"use_reentrant": reentrant})
    plm.enable_input_require_grads()
    with pets.regularize(model, cost):
        backward(model, model(**batch()).loss)
    assert not hooks_left(model)


@pytest.mark.usefixtures("quiet")
def test_autocast_and_a_scaled_loss_are_fine() -> None:
    model, cost = lora()
    with pets.regularize(model, cost):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch()).loss
        backward(model, torch.amp.GradScaler("cpu").scale(loss))
    assert not hooks_left(model)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("quiet", "one_process")
@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("unused", [True, False])
def test_a_ddp_wrapper_is_fine(outside: bool, unused: bool) -> None:
    model, cost = lora()
    parallel = DistributedDataParallel(model, find_unused_parameters=unused)
    with pets.regularize(parallel if outside else model, cost):
        for _ in range(2):
            backward(model, parallel(**batch()).loss)
    assert not hooks_left(model)


def test_a_watched_loss_is_freed_with_its_graph() -> None:
    model, cost = lora()
    alive: list[weakref.ref[Tensor]] = []
    layer = model.get_base_model().bert.encoder.layer[1]
    layer.register_forward_hook(lambda module, args, out: alive.append(weakref.ref(out)))
    gc.disable()
    try:
        with pets.regularize(model, cost):
            for _ in range(2):
                loss = model(**batch()).loss
                assert alive[-1]() is not None
                del loss
                assert alive[-1]() is None
    finally:
        gc.enable()


def test_an_output_with_a_cost_can_be_pickled() -> None:
    """As it can be without; under DDP outputs are taken apart and built anew, see above."""
    model, cost = lora()
    with pets.regularize(model, cost), torch.no_grad():
        output = model(**batch())
    copy = pickle.loads(pickle.dumps(output))
    assert isinstance(output, MaskedLMOutput)
    assert list(copy) == list(output)
    assert torch.equal(copy.running_cost, output.running_cost)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("when", ["at the step", "at the next forward"])
def test_a_loop_that_trains_a_loss_of_its_own_is_told(kept: bool, when: str) -> None:
    """Whether it keeps the output, as every plain loop does, or lets it go."""
    model, cost = lora()
    with pets.regularize(model, cost):
        output = model(**batch())
        loss = output.logits.sum() + 0.5 * output.running_cost  # which is only reported
        if not kept:
            del output
        loss.backward()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        go_on = optimizer.step if when == "at the step" else lambda: model(**batch())
        with pytest.raises(BadInput, match=r"trained another loss .* use output\.loss.*into_loss=False"):
            go_on()


@pytest.mark.usefixtures("quiet")
def test_a_term_for_a_loss_of_ones_own_is_watched_too() -> None:
    model, cost = lora()
    with pets.regularize(model, cost, into_loss=False):
        model(**batch()).loss.backward()
        with pytest.raises(BadInput, match=r"without output\.running_cost, so the cost had no effect"):
            model(**batch())
        for _ in range(2):
            output = model(**batch())
            backward(model, output.logits.square().mean() + 0.5 * output.running_cost)
    assert not hooks_left(model)


@pytest.mark.usefixtures("quiet")
def test_separate_backward_passes_of_task_and_cost_are_fine() -> None:
    model, cost = lora()
    with pets.regularize(model, cost, into_loss=False):
        output = model(**batch())
        output.loss.backward(retain_graph=True)
        backward(model, output.running_cost)
        model(**batch())


@pytest.mark.usefixtures("quiet")
def test_weight_zero_leaves_a_loop_with_a_loss_of_its_own_alone() -> None:
    model, cost = lora()
    with pets.regularize(model, cost, 0.0):
        for _ in range(2):
            backward(model, model(**batch()).logits.sum())


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("switch", [False, True])
def test_adapters_that_are_not_active_are_not_missed(switch: bool, tmp_path: Path) -> None:
    model, cost = lora()
    model.save_pretrained(tmp_path)
    model.load_adapter(tmp_path, "second", is_trainable=True)
    with pets.regularize(model, cost):
        loss = model(**batch()).loss
        if switch:
            model.set_adapter("second")
            loss = loss + model(**batch()).loss
        backward(model, loss)
    assert not hooks_left(model)


def test_a_loop_that_adds_to_the_loss_is_fine() -> None:
    model, cost = lora()
    with pets.regularize(model, cost):
        for _ in range(3):
            output = model(**batch())
            (output.loss + output.logits.square().mean()).backward()
