"""The plug: what it adds to a loss, what it leaves alone, in every kind of training loop."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from peft import get_peft_model
from plug_cases import (
    KINDS,
    LENSES,
    WEIGHT,
    Setup,
    build,
    gradients,
    make_batch,
)
from tiny import tiny_bert, tiny_llama
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import BertModel, PreTrainedModel, Trainer, TrainingArguments
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions, MaskedLMOutput

import pets
from bridges import BadInput, RunningCost
from pets.tasks.classifier import PromptClassifier

every_kind = pytest.mark.parametrize("kind", [*KINDS, *LENSES])
lora_kinds = pytest.mark.parametrize("kind", ["bert-lora", "llama-lora", "classifier", *LENSES])


def cost_by_hand(setup: Setup, batch: dict[str, Tensor]) -> Tensor:
    inner = setup.model.model if isinstance(setup.model, PromptClassifier) else setup.model
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    states = inner(**inputs, output_hidden_states=True).hidden_states
    return setup.cost(states, batch["labels"], batch["attention_mask"])  # type: ignore[no-any-return]


# What is added


@every_kind
def test_the_loss_is_the_task_loss_plus_weight_times_cost(kind: str) -> None:
    setup, batch = build(kind), make_batch()
    task, value = setup.model(**batch).loss, cost_by_hand(setup, batch)
    with pets.regularize(setup.model, setup.cost, WEIGHT):
        output = setup.model(**batch)
    assert value > 0.1  # so that leaving it out is no rounding error
    assert torch.equal(output.loss, task + WEIGHT * value)


@every_kind
def test_the_cost_is_reported_without_weight_and_graph(kind: str) -> None:
    setup, batch = build(kind), make_batch()
    with pets.regularize(setup.model, setup.cost, WEIGHT):
        reported = setup.model(**batch).running_cost
    assert torch.equal(reported, cost_by_hand(setup, batch))
    assert not reported.requires_grad


@every_kind
def test_the_gradient_is_that_of_the_sum(kind: str) -> None:
    setup, batch = build(kind), make_batch()
    task = gradients(setup.model, setup.model(**batch).loss)
    added = gradients(setup.model, cost_by_hand(setup, batch))
    with pets.regularize(setup.model, setup.cost, WEIGHT):
        both = gradients(setup.model, setup.model(**batch).loss)
    assert any(gradient.norm() > 1e-4 for gradient in added.values())
    for name, gradient in both.items():
        # fp32: two sums of the same terms in another order
        expected = task[name] + WEIGHT * added[name]
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


@lora_kinds
def test_the_gradient_reaches_the_lora_alone(kind: str) -> None:
    setup = build(kind)
    with pets.regularize(setup.model, setup.cost, WEIGHT):
        setup.model(**make_batch()).loss.backward()
    for name, parameter in setup.model.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name), name
        assert parameter.grad is None or parameter.grad.norm() > 0, name
    assert all(p.grad is None for p in setup.cost.parameters())


@lora_kinds
def test_every_lora_gradient_differs_from_vanilla(kind: str) -> None:
    setup, batch = build(kind), make_batch()
    vanilla = gradients(setup.model, setup.model(**batch).loss)
    with pets.regularize(setup.model, setup.cost, WEIGHT):
        regularised = gradients(setup.model, setup.model(**batch).loss)
    for name, gradient in regularised.items():
        assert (gradient - vanilla[name]).norm() > 1e-3 * vanilla[name].norm(), name


@every_kind
def test_weight_zero_only_reports(kind: str) -> None:
    setup, batch = build(kind), make_batch()
    vanilla = setup.model(**batch).loss
    with pets.regularize(setup.model, setup.cost, 0):
        output = setup.model(**batch)
    assert torch.equal(output.loss, vanilla)
    assert output.running_cost > 0
    expected = gradients(setup.model, vanilla)
    for name, gradient in gradients(setup.model, output.loss).items():
        assert torch.equal(gradient, expected[name]), name


def test_the_weight_can_change_between_steps() -> None:
    setup, batch = build("bert-lora"), make_batch()
    task, value = setup.model(**batch).loss, cost_by_hand(setup, batch)
    with pets.regularize(setup.model, setup.cost, 1.0) as handle:
        handle.weight = 0.25
        assert torch.equal(setup.model(**batch).loss, task + 0.25 * value)


def test_the_cost_stays_outside_the_model() -> None:
    setup = build("bert-lora")
    before = list(setup.model.state_dict())
    with pets.regularize(setup.model, setup.cost):
        assert list(setup.model.state_dict()) == before


# The attention mask


@pytest.mark.parametrize("kind", ["bert", "bert-lora", "llama", "llama-lora"])
def test_the_mask_counts_however_it_is_passed(kind: str) -> None:
    setup, batch = build(kind), make_batch()
    ids, mask, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
    with pets.regularize(setup.model, setup.cost):
        by_keyword = setup.model(**batch).running_cost
        by_position = setup.model(ids, mask, labels=labels).running_cost
        if kind.startswith("llama"):
            mask = mask.clone()
            mask[1, 0] = 0  # what comes before the first target is the context
        else:
            mask = torch.ones_like(mask)
        otherwise = setup.model(ids, mask, labels=labels).running_cost
    assert torch.equal(by_keyword, by_position)
    assert not torch.allclose(otherwise, by_keyword)


class PositionalHead(nn.Module):
    """A model of the user's own that gives the encoder its mask by position."""

    def __init__(self, plm: PreTrainedModel) -> None:
        super().__init__()
        self.plm = plm

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> MaskedLMOutput:
        scores = self.plm.cls(self.plm.bert(input_ids, attention_mask).last_hidden_state)
        return MaskedLMOutput(loss=nn.functional.cross_entropy(scores.mT, labels))


def test_the_mask_counts_where_the_encoder_gets_it_by_position() -> None:
    setup, batch = build("bert"), make_batch()
    model = PositionalHead(setup.plm).train()
    with pets.regularize(model, setup.cost):
        reported = model(**batch).running_cost
    assert torch.equal(reported, cost_by_hand(setup, batch))


@every_kind
def test_padding_has_no_influence(kind: str) -> None:
    setup, batch = build(kind), make_batch()
    columns = torch.full((4, 5), 17)  # some word, not the padding token
    padded = {
        "input_ids": torch.cat([batch["input_ids"], columns], 1),
        "attention_mask": torch.cat([batch["attention_mask"], torch.zeros_like(columns)], 1),
        "labels": torch.cat([batch["labels"], torch.full_like(columns, -100)], 1),
    }
    with pets.regularize(setup.model, setup.cost, WEIGHT):
        short, long = setup.model(**batch), setup.model(**padded)
    # fp32: longer sums of the same terms and zeros
    torch.testing.assert_close(long.running_cost, short.running_cost, rtol=1e-5, atol=0)
    torch.testing.assert_close(long.loss, short.loss, rtol=1e-5, atol=0)


# Eval, hidden states


@every_kind
def test_eval_adds_nothing_and_asks_for_no_hidden_states(kind: str) -> None:
    setup, batch = build(kind), make_batch()
    setup.model.eval()
    vanilla = setup.model(**batch)
    asked: list[Any] = []
    with pets.regularize(setup.model, setup.cost, WEIGHT):
        setup.plm.base_model.register_forward_hook(lambda module, args, out: asked.append(out))
        output = setup.model(**batch)
    assert asked[0].get("hidden_states") is None
    assert torch.equal(output.loss, vanilla.loss)
    assert set(output) == set(vanilla)
    assert output.running_cost is None


@every_kind
def test_eval_adds_the_cost_when_asked_to(kind: str) -> None:
    setup, batch = build(kind), make_batch()
    setup.model.eval()
    task, value = setup.model(**batch).loss, cost_by_hand(setup, batch)
    with pets.regularize(setup.model, setup.cost, WEIGHT, in_eval=True), torch.no_grad():
        output = setup.model(**batch)
    assert torch.equal(output.running_cost, value)
    assert torch.equal(output.loss, task + WEIGHT * value)


@pytest.mark.parametrize("kind", ["bert", "bert-lora", "llama", "llama-lora"])
def test_hidden_states_are_returned_only_to_who_asks(kind: str) -> None:
    setup, batch = build(kind), make_batch()
    expected = setup.model(**batch, output_hidden_states=True).hidden_states
    with pets.regularize(setup.model, setup.cost):
        assert setup.model(**batch).hidden_states is None
        asked = setup.model(**batch, output_hidden_states=True).hidden_states
        setup.plm.config.output_hidden_states = True
        configured = setup.model(**batch).hidden_states
    assert len(asked) == len(configured) == len(expected) == setup.cost.spec.num_layers + 1
    assert all(map(torch.equal, asked, expected))
    assert all(map(torch.equal, configured, expected))


def test_hidden_states_are_freed_with_the_loss() -> None:
    setup = build("bert-lora")
    alive: list[weakref.ref[Tensor]] = []
    layer = setup.plm.bert.encoder.layer[1]
    layer.register_forward_hook(lambda module, args, out: alive.append(weakref.ref(out)))
    with pets.regularize(setup.model, setup.cost):
        output = setup.model(**make_batch())
        assert alive[0]() is not None
        del output
        assert alive[0]() is None


# Removal


def trace(model: nn.Module) -> dict[str, tuple[set[str], int, int]]:
    """Attributes and numbers of hooks of every module."""
    return {
        name: (set(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks))
        for name, m in model.named_modules()
    }


@every_kind
def test_remove_leaves_no_trace(kind: str) -> None:
    setup, batch = build(kind), make_batch()
    loss = setup.model(**batch).loss
    cost_by_hand(setup, batch)  # transformers hangs up hooks of its own on the first use
    before = trace(setup.model)
    handle = pets.regularize(setup.model, setup.cost, WEIGHT)
    setup.model(**batch)
    assert trace(setup.model) != before
    handle.remove()
    assert trace(setup.model) == before
    handle.remove()  # a second time does nothing
    assert trace(setup.model) == before
    assert torch.equal(setup.model(**batch).loss, loss)


@every_kind
def test_a_handle_that_was_lost_is_not_needed(kind: str) -> None:
    setup, batch = build(kind), make_batch()
    loss = setup.model(**batch).loss
    cost_by_hand(setup, batch)
    before = trace(setup.model)
    for model in (setup.model, setup.plm):
        pets.regularize(setup.model, [setup.cost, "neftune"], WEIGHT)
        setup.model(**batch)
        with pytest.raises(BadInput, match=r"or pets.unplug\(model\), or give several"):
            pets.regularize(setup.model, setup.cost)
        pets.unplug(model)
        assert trace(setup.model) == before
        pets.unplug(model)  # a second time does nothing
        assert trace(setup.model) == before
    assert torch.equal(setup.model(**batch).loss, loss)
    with pytest.raises(BadInput):
        pets.unplug(torch.nn.Linear(2, 2))


def test_the_context_manager_removes_after_an_error_too() -> None:
    setup, batch = build("bert-lora"), make_batch()
    loss = setup.model(**batch).loss
    with pytest.raises(IndexError), pets.regularize(setup.model, setup.cost):
        setup.model(**{**batch, "input_ids": batch["input_ids"] + 63})
    assert torch.equal(setup.model(**batch).loss, loss)


def test_after_an_error_the_next_step_is_right() -> None:
    setup, batch = build("bert-lora"), make_batch()
    with pets.regularize(setup.model, setup.cost):
        loss = setup.model(**batch).loss
        with pytest.raises(IndexError):
            setup.model(**{**batch, "input_ids": batch["input_ids"] + 63})
        assert torch.equal(setup.model(**batch).loss, loss)


def test_an_error_keeps_nothing_of_its_forward() -> None:
    """Neither its graph, nor the states that the next call of the encoder asks for."""
    setup, batch = build("bert-lora"), make_batch()
    with pets.regularize(setup.model, setup.cost):
        with pytest.raises(IndexError):
            setup.model(**{**batch, "labels": batch["labels"].where(batch["labels"] < 0, 10**6)})
        output = setup.plm.bert(batch["input_ids"], output_hidden_states=True)
        assert len(output.hidden_states) == setup.cost.spec.num_layers + 1


def test_a_removed_cost_makes_room_for_another() -> None:
    setup, batch = build("bert-lora"), make_batch()
    other = RunningCost.for_model(setup.plm, "ou")
    pets.regularize(setup.model, setup.cost).remove()
    with pets.regularize(setup.model, other):
        reported = setup.model(**batch).running_cost
    assert torch.equal(reported, cost_by_hand(setup._replace(cost=other), batch))


# Precision and memory


@every_kind
def test_autocast_is_finite_and_close_to_fp32(kind: str) -> None:
    setup, batch = build(kind), make_batch()
    with pets.regularize(setup.model, setup.cost, WEIGHT):
        exact = setup.model(**batch)
        with torch.autocast("cpu", torch.bfloat16):
            rough = setup.model(**batch)
        found = gradients(setup.model, rough.loss)
    # bf16 has 8 bits; three layers and a mean over many terms stay within a few of its steps (2^-8)
    torch.testing.assert_close(rough.running_cost.float(), exact.running_cost, rtol=2e-2, atol=0)
    torch.testing.assert_close(rough.loss.float(), exact.loss, rtol=2e-2, atol=0)
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_the_cost_itself_is_computed_in_fp32_under_autocast() -> None:
    setup, batch = build("bert-lora"), make_batch()
    with torch.autocast("cpu", torch.bfloat16):
        states = setup.model(**batch, output_hidden_states=True).hidden_states
        inside = setup.cost(states, batch["labels"], batch["attention_mask"])
    outside = setup.cost(states, batch["labels"], batch["attention_mask"])
    assert outside.dtype == torch.float32
    assert torch.equal(inside, outside)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", ["bert", "bert-lora", "llama-lora"])
def test_gradient_checkpointing_changes_nothing(kind: str, reentrant: bool) -> None:
    setup, batch = build(kind), make_batch()
    with pets.regularize(setup.model, setup.cost, WEIGHT):
        plain = setup.model(**batch).loss
        plain.backward()
    expected = {n: p.grad for n, p in setup.model.named_parameters() if p.grad is not None}
    setup.model.zero_grad()
    setup.plm.gradient_checkpointing_enable({"use_reentrant": reentrant})
    setup.plm.enable_input_require_grads()
    with pets.regularize(setup.model, setup.cost, WEIGHT):
        loss = setup.model(**batch).loss
        loss.backward()
    assert setup.plm.is_gradient_checkpointing
    assert torch.equal(loss, plain)
    for name, gradient in expected.items():
        found = setup.model.get_parameter(name).grad
        # fp32: gradients of a recomputed layer are added up in another order
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6, msg=name)


def checkpointed_stack(encoder: nn.Module) -> Callable[..., BaseModelOutputWithPastAndCrossAttentions]:
    """The encoder's forward with one reentrant checkpoint around all layers."""
    inner = encoder.forward

    def forward(states: Tensor, **kwargs: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        def run(states: Tensor) -> Tensor:
            return inner(states, **kwargs).last_hidden_state  # type: ignore[no-any-return]

        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=checkpoint(run, states, use_reentrant=True)
        )

    return forward


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_checkpointing_that_cuts_off_states_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The states between the first and the last are made inside the checkpoint, without gradient."""
    setup, batch = build("bert-lora"), make_batch()
    encoder = setup.plm.bert.encoder
    monkeypatch.setattr(encoder, "forward", checkpointed_stack(encoder))
    for prepare in (lambda: None, setup.plm.enable_input_require_grads):
        prepare()
        with (
            pets.regularize(setup.model, setup.cost),
            pytest.raises(BadInput, match=r"no gradient.*use_reentrant"),
        ):
            setup.model(**batch)
    setup.model(**batch).loss.backward()  # without the cost nothing is wrong with it
    assert any(p.grad is not None and p.grad.norm() > 0 for p in setup.model.parameters())


def test_a_pet_in_the_last_layer_alone_is_no_cut() -> None:
    setup = build("bert")
    model = get_peft_model(setup.plm, pets.get("lora", layers_to_transform=[2])).train()
    with pets.regularize(model, setup.cost):
        model(**make_batch()).loss.backward()
    assert any(p.grad.norm() > 0 for p in model.parameters() if p.grad is not None)


def test_a_model_with_nothing_to_train_below_the_head_is_refused() -> None:
    setup = build("bert")
    setup.plm.bert.requires_grad_(False)
    with (
        pets.regularize(setup.model, setup.cost),
        pytest.raises(BadInput, match="hidden states carry no gradient"),
    ):
        setup.model(**make_batch())


# Refusals


@pytest.mark.parametrize("weight", [-1, -1e-9, float("nan"), float("inf"), "1", torch.ones(2)])
def test_a_weight_that_is_none_is_refused(weight: Any) -> None:
    setup = build("bert")
    with pytest.raises(BadInput, match=r"weight=.*: expected a finite number, 0 or more"):
        pets.regularize(setup.model, setup.cost, weight)


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), True, "1", None])
def test_so_is_one_that_is_set_later(weight: Any) -> None:
    setup = build("bert")
    with pets.regularize(setup.model, setup.cost) as handle:
        with pytest.raises(BadInput, match=r"weight=.*: expected a finite number, 0 or more"):
            handle.weight = weight
        assert handle.weight == 1.0


@pytest.mark.parametrize("flag", ["in_eval", "into_loss", "same_weights"])
def test_a_flag_that_is_none_is_refused(flag: str) -> None:
    setup = build("bert")
    with pytest.raises(BadInput, match=f"{flag}='no': expected True or False"):
        pets.regularize(setup.model, setup.cost, **{flag: "no"})


def test_a_cost_that_was_never_fitted_is_said(caplog: pytest.LogCaptureFixture) -> None:
    setup = build("bert")
    pets.regularize(setup.model, RunningCost.for_model(setup.plm, fit=False)).remove()
    pets.regularize(setup.model, RunningCost.for_model(setup.plm, "none")).remove()
    assert not caplog.records
    pets.regularize(setup.model, setup.cost).remove()
    assert "not fitted" in caplog.text


def test_a_second_cost_is_refused() -> None:
    setup = build("bert-lora")
    with pets.regularize(setup.model, setup.cost):
        for model in (setup.model, setup.plm):
            with pytest.raises(BadInput, match=r"already has a running cost: call remove\(\)"):
                pets.regularize(model, setup.cost)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: tiny_bert(seed=1), "the word embeddings differ"),
        (lambda: tiny_bert(num_hidden_layers=2), "num_layers is 2 in the cost, 3 in the model"),
        (tiny_llama, "model_type is llama in the cost, bert in the model"),
    ],
)
def test_a_cost_of_another_model_is_refused(other: Callable[[], PreTrainedModel], message: str) -> None:
    setup = build("bert")
    before = trace(setup.model)
    with pytest.raises(BadInput, match=message):
        pets.regularize(setup.model, RunningCost.for_model(other()))
    assert trace(setup.model) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, r"needs labels: call model\(\.\.\., labels=labels\)"),
        ({"return_dict": False}, r"no \.loss .*return_dict=True"),
    ],
)
@pytest.mark.parametrize("kind", ["bert", "llama-lora"])
def test_a_call_that_cannot_be_regularised_is_refused(
    kind: str, changes: dict[str, Any], message: str
) -> None:
    setup = build(kind)
    with pets.regularize(setup.model, setup.cost), pytest.raises(BadInput, match=message):
        setup.model(**{**make_batch(), **changes})


def test_a_bare_encoder_has_no_loss_to_add_to() -> None:
    plm = BertModel(tiny_bert().config).train()
    with (
        pets.regularize(plm, RunningCost.for_model(plm)),
        pytest.raises(BadInput, match=r"BertModel returned no \.loss"),
    ):
        plm(**make_batch())


# transformers' Trainer and Accelerate


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps precision and accumulation for the whole process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


RATE = 10.0  # gradients are small: the step must stand out from the rounding of the weights


def rows(count: int = 8) -> list[dict[str, Tensor]]:
    batch = make_batch(count)
    return [{k: v[i] for k, v in batch.items()} for i in range(count)]


def trainer(model: nn.Module, folder: Path, batch_size: int, **options: Any) -> Trainer:
    """One step of plain gradient descent over all rows."""
    settings = {"gradient_accumulation_steps": len(rows()) // batch_size, **options}
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=4,
        max_steps=1,
        optim="sgd",
        learning_rate=RATE,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **settings,
    )
    return Trainer(model=model, args=arguments, train_dataset=rows(), eval_dataset=rows())


def step_by_hand(kind: str) -> dict[str, Tensor]:
    """The LoRA after one step of plain gradient descent on the mean over all rows."""
    setup = build(kind)
    with pets.regularize(setup.model, setup.cost, WEIGHT):
        found = gradients(setup.model, setup.model(**make_batch(8)).loss)
    return {n: setup.model.get_parameter(n).detach() - RATE * g for n, g in found.items()}


def test_the_training_log_holds_the_whole_loss(tmp_path: Path) -> None:
    setup = build("bert-lora")
    with pets.regularize(setup.model, setup.cost, WEIGHT):
        expected = setup.model(**make_batch(8)).loss.item()
        run = trainer(setup.model, tmp_path, 8)
        run.train()
    # fp32 means of quarters; the log rounds to four digits in some releases
    assert run.state.log_history[0]["loss"] == pytest.approx(expected, abs=1e-4)


def test_evaluate_and_predict_add_no_cost_and_collect_no_states(tmp_path: Path) -> None:
    setup = build("bert-lora")
    expected = setup.model(**make_batch(8)).loss.item()
    with pets.regularize(setup.model, setup.cost, WEIGHT):
        run = trainer(setup.model, tmp_path, 2)
        assert run.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)  # mean of two halves
        assert run.predict(rows()).predictions.shape == (8, 9, 63)


def test_evaluate_can_report_the_loss_with_the_cost(tmp_path: Path) -> None:
    setup = build("bert-lora")
    with pets.regularize(setup.model, setup.cost, WEIGHT, in_eval=True):
        expected = setup.model(**make_batch(8)).loss.item()
        run = trainer(setup.model, tmp_path, 2)
        assert run.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
        assert run.predict(rows()).predictions.shape == (8, 9, 63)


def test_the_trainer_with_gradient_checkpointing_takes_the_same_step(tmp_path: Path) -> None:
    expected = step_by_hand("bert-lora")
    setup = build("bert-lora")
    with pets.regularize(setup.model, setup.cost, WEIGHT):
        trainer(setup.model, tmp_path, 8, gradient_checkpointing=True).train()
    assert setup.plm.is_gradient_checkpointing
    for name, value in expected.items():
        # fp32, as without the Trainer
        torch.testing.assert_close(setup.model.get_parameter(name), value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("first", ["regularize", "prepare"])
def test_a_loop_with_accelerate_in_bf16_works(first: str) -> None:
    setup, batch = build("bert-lora"), make_batch()
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    trainable = [p for p in setup.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.01)
    model = setup.model
    if first == "regularize":
        pets.regularize(model, setup.cost, WEIGHT)
    model, optimizer = accelerator.prepare(model, optimizer)
    if first == "prepare":
        pets.regularize(model, setup.cost, WEIGHT)
    losses = []
    for _ in range(10):
        output = model(**batch)
        assert output.hidden_states is None
        accelerator.backward(output.loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.loss.item())
    assert output.running_cost.isfinite()
    assert losses[-1] < losses[0]
