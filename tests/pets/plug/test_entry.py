"""Every way into a model has the cost, once: calls inside, replicas, threads, copies, other forwards."""

from __future__ import annotations

import copy
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from peft import get_peft_model
from plug_cases import WEIGHT, build, gradients, make_batch
from tiny import tiny_bert, tiny_llama
from torch import Tensor, nn
from torch.nn.parallel.replicate import replicate
from transformers import BertForMaskedLM

import pets
from bridges import BadInput, RunningCost

CALLS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "itself": lambda model: model,
    "its forward": lambda model: model.forward,
    "the tuner inside": lambda model: model.base_model,
    "the language model inside": lambda model: model.get_base_model(),
    "the forward of that": lambda model: model.get_base_model().forward,
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ["bert-lora", "llama-lora"])
def test_every_call_has_the_cost_once(kind: str, call: str) -> None:
    setup, batch = build(kind), make_batch()
    with pets.regularize(setup.model, setup.cost, WEIGHT):
        expected = setup.model(**batch)
        output = CALLS[call](setup.model)(**batch)
    assert torch.equal(output.loss, expected.loss)
    assert torch.equal(output.running_cost, expected.running_cost)


def test_a_pet_that_comes_after_the_cost_does_not_hide_it() -> None:
    plm = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    cost = RunningCost.for_model(plm)
    batch = make_batch()
    with pets.regularize(plm, cost, WEIGHT):
        for parameter in plm.parameters():
            parameter.requires_grad_(True)
        expected = plm(**batch).loss
        model = get_peft_model(plm, pets.get("lora")).train()
        assert torch.equal(model(**batch).loss, expected)


def test_a_merged_model_keeps_the_cost_until_it_is_removed() -> None:
    setup, batch = build("bert-lora"), make_batch()
    handle = pets.regularize(setup.model, setup.cost, WEIGHT)
    merged = setup.model.merge_and_unload()
    for parameter in merged.parameters():
        parameter.requires_grad_(True)
    assert merged.train()(**batch).running_cost > 0
    handle.remove()
    assert type(merged) is BertForMaskedLM
    assert "running_cost" not in merged(**batch)


def test_the_class_is_as_it_was_by_name_and_by_kind() -> None:
    setup = build("bert")
    kind = type(setup.plm)
    with pets.regularize(setup.model, setup.cost):
        entered = type(setup.plm)
        assert isinstance(setup.plm, kind)
        assert (entered.__name__, entered.__qualname__, entered.__module__) == (
            kind.__name__,
            kind.__qualname__,
            kind.__module__,
        )
        assert setup.plm.config.architectures is None or kind.__name__ in setup.plm.config.architectures
    assert type(setup.plm) is kind


def test_a_saved_model_knows_nothing_of_the_cost(tmp_path: Path) -> None:
    setup = build("bert")
    with pets.regularize(setup.model, setup.cost):
        setup.plm.save_pretrained(tmp_path)
    assert type(BertForMaskedLM.from_pretrained(tmp_path)) is BertForMaskedLM


# Forwards that others put in their place


def wrapped(model: nn.Module, calls: list[str]) -> None:
    """As accelerate and TRL do it."""
    original = model.forward

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        calls.append("wrapped")
        return original(*args, **kwargs)

    model.forward = MethodType(forward, model)


@pytest.mark.parametrize("first", ["cost", "forward"])
def test_a_forward_around_the_models_own_is_called_with_the_cost_inside_or_around(first: str) -> None:
    setup, batch, calls = build("bert-lora"), make_batch(), list[str]()
    with pets.regularize(setup.model, setup.cost, WEIGHT):
        expected = setup.model(**batch).loss
    if first == "forward":
        wrapped(setup.plm, calls)
    handle = pets.regularize(setup.model, setup.cost, WEIGHT)
    if first == "cost":
        wrapped(setup.plm, calls)
    assert torch.equal(setup.model(**batch).loss, expected)
    assert torch.equal(setup.plm(**batch).loss, expected)
    assert calls == ["wrapped"] * 2
    handle.remove()
    assert "running_cost" not in setup.model(**batch)
    assert len(calls) == 3


def test_a_forward_that_is_put_into_the_class_later_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """As kernels are that replace a model's loss."""
    setup, batch = build("bert"), make_batch()
    with pets.regularize(setup.model, setup.cost, WEIGHT):
        cost = setup.model(**batch).running_cost
        plain = BertForMaskedLM.forward

        def doubled(self: Any, *args: Any, **kwargs: Any) -> Any:
            output = plain(self, *args, **kwargs)
            output["loss"] = 2 * output.loss
            return output

        monkeypatch.setattr(BertForMaskedLM, "forward", doubled)
        output = setup.model(**batch)
    torch.testing.assert_close(output.loss, setup.model(**batch).loss + WEIGHT * cost)


def test_a_forward_that_passes_the_models_own_by_is_told() -> None:
    """As TRL's fused head does, which goes to the encoder itself."""
    plm = tiny_bert().train()
    with pets.regularize(plm, RunningCost.for_model(plm)):

        def fused(self: Any, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Any:
            return self.bert(input_ids, attention_mask)

        plm.forward = MethodType(fused, plm)
        with pytest.raises(BadInput, match=r"passes the running cost by: .*examples/sft_trl\.py"):
            plm(**make_batch())


# Replicas and threads


def batches(count: int) -> list[dict[str, Tensor]]:
    rng = torch.Generator().manual_seed(2)
    made = []
    for _ in range(count):
        batch = make_batch()
        ids = torch.randint(5, 63, batch["input_ids"].shape, generator=rng)
        labels = batch["labels"].where(batch["labels"] == -100, ids)
        made.append(batch | {"input_ids": ids, "labels": labels})
    return made


def side_by_side(calls: list[Callable[[], Any]]) -> list[Any]:
    """All of them in threads that start together, again and again."""
    results: list[Any] = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def run(k: int) -> None:
        barrier.wait()
        results[k] = calls[k]()

    threads = [threading.Thread(target=run, args=(k,)) for k in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def replicas_of(model: nn.Module, count: int, monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """As nn.DataParallel makes them, all on the CPU."""
    module = sys.modules["torch.nn.parallel.replicate"]  # the function has the same name
    monkeypatch.setattr(
        module,
        "_broadcast_coalesced_reshape",
        lambda tensors, devices, detach=False: [[t.view_as(t) for t in tensors] for _ in devices],
    )
    monkeypatch.setattr(module, "_get_device_index", lambda device, *_: device)
    return replicate(model, list(range(count)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["bert-lora", "llama-lora", "classifier"])
def test_replicas_have_each_its_own_cost(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    setup, given = build(kind), batches(4)
    with pets.regularize(setup.model, setup.cost, WEIGHT):
        expected = [setup.model(**batch) for batch in given]
        wanted = gradients(setup.model, sum(output.loss for output in expected))  # type: ignore[arg-type]
        for _ in range(5):
            replicas = replicas_of(setup.model, 4, monkeypatch)
            found = side_by_side(
                [lambda r=r, b=b: r(**b) for r, b in zip(replicas, given, strict=True)]  # type: ignore[misc]
            )
            for output, alone in zip(found, expected, strict=True):
                assert torch.equal(output.running_cost, alone.running_cost)
                assert torch.equal(output.loss, alone.loss)
        reached = gradients(setup.model, sum(output.loss for output in found))
    for name, gradient in wanted.items():
        torch.testing.assert_close(reached[name], gradient, rtol=1e-4, atol=1e-6)


def test_threads_do_not_meet_in_one_model() -> None:
    setup, given = build("bert-lora"), batches(4)
    with pets.regularize(setup.model, setup.cost, WEIGHT):
        expected = [setup.model(**batch).loss for batch in given]
        for _ in range(10):
            found = side_by_side([lambda b=b: setup.model(**b).loss for b in given])  # type: ignore[misc]
            assert all(map(torch.equal, found, expected))


def test_a_deep_copy_of_a_wrapped_forward_is_its_own() -> None:
    setup, batch = build("bert"), make_batch()
    setup.plm.forward = MethodType(type(setup.plm).forward, setup.plm)
    pets.regularize(setup.model, setup.cost, WEIGHT)
    expected = setup.model(**batch).loss
    twin = copy.deepcopy(setup.model)
    with torch.no_grad():
        for parameter in setup.plm.parameters():
            parameter.zero_()
    assert torch.equal(twin(**batch).loss, expected)


# Batches without a target


def without_target() -> dict[str, Tensor]:
    batch = make_batch()
    return batch | {"labels": torch.full_like(batch["labels"], -100)}


@pytest.mark.parametrize("kind", ["bert-lora", "llama-lora"])
def test_a_batch_without_a_target_costs_nothing(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    setup, batch = build(kind), without_target()
    plain = setup.model(**batch, num_items_in_batch=8).loss
    with pets.regularize(setup.model, setup.cost, WEIGHT) as handle, caplog.at_level(logging.WARNING):
        caplog.clear()
        for _ in range(3):
            output = setup.model(**batch, num_items_in_batch=8)
        assert output.running_cost == 0
        torch.testing.assert_close(output.loss, plain, rtol=0, atol=0, equal_nan=True)
        assert caplog.text.count("every label is -100") == 1
        handle.remove()
    with pets.regularize(setup.model, setup.cost, into_loss=False):
        term = setup.model(**batch).running_cost
        assert term == 0
        assert all((g == 0).all() for g in gradients(setup.model, term).values())


def test_a_run_without_any_target_is_stopped() -> None:
    setup = build("bert-lora")
    with pets.regularize(setup.model, setup.cost):
        for _ in range(99):
            setup.model(**without_target())
        with pytest.raises(BadInput, match="none of the first 100 batches has a target"):
            setup.model(**without_target())
        setup.model(**make_batch())
        for _ in range(101):
            setup.model(**without_target())


# A term for a loss of one's own


@pytest.mark.parametrize("kind", ["bert-lora", "llama-lora", "classifier"])
def test_the_term_has_the_gradient_and_the_loss_has_not(kind: str) -> None:
    setup, batch = build(kind), make_batch()
    task = setup.model(**batch).loss
    expected = gradients(setup.model, task)
    with pets.regularize(setup.model, setup.cost, 0.5):
        whole = gradients(setup.model, setup.model(**batch).loss)
    with pets.regularize(setup.model, setup.cost, into_loss=False):
        output = setup.model(**batch)
        assert torch.equal(output.loss, task)
        found = gradients(setup.model, output.loss)
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient)
    with pets.regularize(setup.model, setup.cost, into_loss=False):
        output = setup.model(**batch)
        summed = gradients(setup.model, output.loss + 0.5 * output.running_cost)
    for name, gradient in whole.items():
        torch.testing.assert_close(summed[name], gradient, rtol=1e-5, atol=1e-7)


def test_a_weight_for_a_term_is_said_to_play_no_part(caplog: pytest.LogCaptureFixture) -> None:
    setup = build("bert")
    pets.regularize(setup.model, setup.cost, 0.5, into_loss=False).remove()
    assert "weight=0.5 plays no part with into_loss=False" in caplog.text


def test_a_cost_out_of_the_range_of_fp16_is_weighed_before_it_is_rounded() -> None:
    plm = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    cost = RunningCost.for_model(plm, "brownian:sigma=0.001")
    plm = plm.half().train()
    task = plm(**make_batch()).loss
    with pets.regularize(plm, cost, 1e-6):
        output = plm(**make_batch())
    assert output.running_cost > torch.finfo(torch.float16).max
    assert output.loss.dtype == torch.float16
    assert torch.isfinite(output.loss)
    torch.testing.assert_close(
        output.loss.float(), task.float() + 1e-6 * output.running_cost, rtol=1e-3, atol=0
    )


def test_a_cost_with_a_forward_of_its_own_is_refused() -> None:
    class Own(RunningCost):
        def forward(self, *args: Any, **kwargs: Any) -> Tensor:
            return torch.zeros(())

    plm = tiny_llama()
    cost = RunningCost.for_model(plm)
    own = Own(cost.spec, cost.bridge, cost.latent_map, cost.end_points)
    with pytest.raises(BadInput, match=r"Own has a forward of its own.*override RunningCost\.costs"):
        pets.regularize(plm, own)
