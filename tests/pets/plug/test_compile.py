"""torch.compile and the plug, in either order: the same loss, cost and gradients as in eager mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from peft import get_peft_model
from plug_cases import NO_DROPOUT, WEIGHT, Batch, make_batch
from tiny import tiny_bert, tiny_llama
from torch import Tensor, nn
from torch._dynamo.utils import counters
from transformers import Trainer, TrainingArguments

import pets
from bridges import RunningCost

pytestmark = pytest.mark.slow

OPTIONS = {
    "adapter": {"init_weights": False},
    "bitfit": {"init_weights": False},
    "lora": {"init_lora_weights": False},
    "prefix": {"num_virtual_tokens": 4},
    "prompt": {"num_virtual_tokens": 4},
}


@pytest.fixture(autouse=True)
def _fresh_state() -> Iterator[None]:
    """No compiled code, and no precision and accumulation that Accelerate keeps for the process."""
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def build(pet: str, kind: str = "bert") -> tuple[nn.Module, RunningCost]:
    torch.manual_seed(0)
    name, _, reader = kind.partition("@")
    plm = tiny_bert(num_hidden_layers=1, **NO_DROPOUT) if name == "bert" else tiny_llama()
    cost = RunningCost.for_model(plm, map=reader or "mlp")
    return get_peft_model(plm, pets.get(pet, model=plm, **OPTIONS[pet])).train(), cost


def batch(length: int) -> Batch:
    return make_batch(length=length)


def steps(
    model: nn.Module, inner: nn.Module, lengths: tuple[int, ...] = (9, 9)
) -> list[dict[str, Tensor]]:
    """Loss, cost and gradients of a batch of each length."""
    found = []
    for length in lengths:
        inner.zero_grad()
        output = model(**batch(length))
        output.loss.backward()
        trained = {n: p.grad.clone() for n, p in inner.named_parameters() if p.requires_grad}
        found.append({"loss": output.loss.detach(), "cost": output.running_cost, **trained})
    return found


def assert_same(found: list[dict[str, Tensor]], expected: list[dict[str, Tensor]]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        # fp32: a compiler may add up in another order; the gradient of the keys' bias is rounding only
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def outside(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


CASES = [(pet, "bert", outside, "after") for pet in ("bitfit", "prefix", "prompt")]
CASES += [("lora", "bert", outside, "before"), ("lora", "bert", outside, "on it")]
CASES += [("lora", "bert", in_place, "before"), ("adapter", "bert", in_place, "after")]
CASES += [("lora", "llama", in_place, "after"), ("prompt", "llama", outside, "before")]
CASES += [("lora", "bert@lens", outside, "after")]


@pytest.mark.parametrize(("pet", "kind", "compile_it", "order"), CASES)
def test_compiled_steps_are_those_of_eager(
    pet: str, kind: str, compile_it: Callable[[nn.Module], nn.Module], order: str
) -> None:
    """Compiled after the cost is plugged in, before, or before and plugged into what compiling gave."""
    model, cost = build(pet, kind)
    with pets.regularize(model, cost, WEIGHT):
        expected = steps(model, model)
    model, cost = build(pet, kind)
    if order == "after":
        pets.regularize(model, cost, WEIGHT)
    compiled = compile_it(model)
    if order != "after":
        pets.regularize(compiled if order == "on it" else model, cost, WEIGHT)
    assert_same(steps(compiled, model), expected)
    assert 0 < counters["stats"]["unique_graphs"] <= 6


def test_batches_of_many_lengths_in_training_and_eval_until_the_cost_is_removed() -> None:
    """Also for aot_eager, which makes the backward pass too."""
    model, cost = build("lora")
    lengths = (9, 10, 11, 12)
    with pets.regularize(model, cost, WEIGHT):
        expected = steps(model, model, lengths)
    model, cost = build("lora")
    handle = pets.regularize(model, cost, WEIGHT)
    compiled: Any = torch.compile(model, backend="aot_eager")
    assert_same(steps(compiled, model, lengths[:2]), expected[:2])
    graphs = counters["stats"]["unique_graphs"]  # for the first length, and for any
    assert_same(steps(compiled, model, lengths), expected)
    assert counters["stats"]["unique_graphs"] == graphs

    model.eval()
    output, plain = compiled(**batch(9)), model(**batch(9))
    assert "running_cost" not in output
    torch.testing.assert_close(output.loss, plain.loss)
    model.train()
    assert_same(steps(compiled, model, lengths), expected)
    handle.remove()
    output = compiled(**batch(9))
    assert "running_cost" not in output
    assert output.get("hidden_states") is None
    torch.testing.assert_close(output.loss, plain.loss)


@pytest.mark.parametrize("in_place", [False, True])
def test_code_that_was_compiled_before_the_cost_came_has_it(in_place: bool) -> None:
    model, cost = build("lora")
    with pets.regularize(model, cost, WEIGHT):
        expected = model(**batch(9))
    compiled: Any = model
    if in_place:
        model.compile(backend="eager")
    else:
        compiled = torch.compile(model, backend="eager")
    compiled(**batch(9)).loss.backward()
    pets.regularize(model, cost, WEIGHT)
    found = compiled(**batch(9))
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.running_cost, expected.running_cost)


def test_a_second_cost_takes_the_place_of_the_first_in_compiled_code() -> None:
    model, cost = build("lora")
    other = RunningCost.for_model(model, "ou")
    with pets.regularize(model, other, WEIGHT):
        expected = steps(model, model)
    compiled: Any = torch.compile(model, backend="eager")
    with pets.regularize(model, cost, 0.1):
        steps(compiled, model)
    with pets.regularize(model, other, WEIGHT):
        assert_same(steps(compiled, model), expected)


def test_under_the_trainer(tmp_path: Path) -> None:
    rows = [{k: v[i] for k, v in batch(9).items()} for i in range(4)]
    ends, logs = [], []
    for options in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        model, cost = build("prompt")
        pets.regularize(model, cost, WEIGHT)
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=0.01,
            label_names=["labels"],
            eval_strategy="epoch",
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            **options,
        )
        run = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
        run.train()
        ends.append({n: p.detach() for n, p in model.named_parameters() if p.requires_grad})
        logs.append([log["eval_loss"] for log in run.state.log_history if "eval_loss" in log])
    assert counters["stats"]["unique_graphs"] > 0
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-3, atol=1e-6)
    assert logs[1] == pytest.approx(logs[0], rel=1e-4)
    assert len(logs[0]) == 2
