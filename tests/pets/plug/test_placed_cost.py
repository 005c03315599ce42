"""Where labels and masks are on a device, targets are found on the host, with one wait: all is the same.

There is no device here: the CPU is said to be one, so that everything is copied from it and back.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from peft import get_peft_model
from plug_cases import build, gradients, make_batch
from tiny import tiny_model
from torch import Tensor, nn

import pets
from bridges import BadInput, LabelEnds, RunningCost, transfer
from bridges.cost import groups
from pets.plug.forward import Forward
from pets.plug.labels import TokenTargets
from pets.plug.loss_scale import LossScale


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From here on; how many tensors each copy is of."""
    copies: list[int] = []
    own = transfer._unpacked

    def counted(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
        copies.append(len(like))
        return own(packed, like)

    monkeypatch.setattr(transfer, "is_remote", lambda device: True)
    monkeypatch.setattr(transfer, "_unpacked", counted)
    return copies


def packed_batch() -> dict[str, Tensor]:
    batch = make_batch()
    del batch["attention_mask"]
    return {**batch, "position_ids": torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4]).expand(4, -1)}


def outcome(model: nn.Module, cost: RunningCost, batch: dict[str, Tensor]) -> list[Tensor]:
    with pets.regularize(model, cost, 0.5):
        output = model(**batch)
        return [output.loss, output.running_cost, *gradients(model, output.loss).values()]


CASES: dict[str, tuple[str, Callable[[], dict[str, Tensor]]]] = {
    "masked": ("bert-lora", make_batch),
    "causal": ("llama-lora", make_batch),
    "packed": ("llama-lora", packed_batch),
    "lens": ("llama-lora@lens", make_batch),
    "classifier": ("classifier@lens", make_batch),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_same_to_the_bit(case: str, request: pytest.FixtureRequest) -> None:
    kind, make = CASES[case]
    model, _, cost = build(kind)
    expected = outcome(model, cost, make())
    copies = request.getfixturevalue("remote")
    found = outcome(model, copy.deepcopy(cost), make())
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert copies  # it did go through a device


def late_copies(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What is copied to the host only after the forward, which it waits for then."""
    late: list[Tensor] = []
    own = transfer.to_host

    def noted(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        late.extend(x for x in tensors if x is not None)
        return own(tensors)

    monkeypatch.setattr(transfer, "to_host", noted)  # not that of `locate`, which is on the host by then
    return late


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("remote")
def test_the_host_waits_for_nothing_that_the_forward_does(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels, mask and positions are sent before it."""
    kind, make = CASES[case]
    model, _, cost = build(kind)
    late, batch = late_copies(monkeypatch), make()
    outcome(model, cost, batch)
    assert late == []


@pytest.mark.parametrize(
    ("kind", "pet"),
    [
        *itertools.product(("bert", "llama"), ("prompt", "prefix", "lora")),
        ("t5", "prompt"),
        ("t5", "lora"),
    ],
)
@pytest.mark.usefixtures("remote")
def test_what_a_pet_makes_of_labels_and_mask_is_sent_too(
    kind: str, pet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plm = tiny_model(kind)
    cost = RunningCost.for_model(plm)
    model = get_peft_model(plm, pets.get(pet, model=plm)).train()
    late, batch = late_copies(monkeypatch), make_batch()
    with pets.regularize(model, cost, 0.5):
        model(**batch).loss.backward()
    assert late == []


@pytest.mark.slow
@pytest.mark.usefixtures("remote")
def test_nor_where_the_model_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, cost = build("bert-lora")
    late, batch = late_copies(monkeypatch), make_batch()
    with pets.regularize(model, cost, 0.5):
        torch.compile(model, backend="eager")(**batch).loss.backward()
    torch.compiler.reset()
    assert late == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("bridge", ["brownian", "posterior"])
def test_on_a_device_nothing_waits_for_it_behind_the_model(
    bridge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plm = tiny_model("llama").cuda()
    cost = RunningCost.for_model(plm, bridge, map="lens")
    model = get_peft_model(plm, pets.get("lora", model=plm)).train()
    own, watched = Forward._add, [False]

    def add(*args: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error" if watched[0] else "default")
        return own(*args)

    monkeypatch.setattr(Forward, "_add", add)
    batch = {name: value.cuda() for name, value in make_batch().items()}
    with pets.regularize(model, cost, 0.5):
        for step in range(6):
            watched[0] = step > 4  # by then the cost is replayed
            try:
                model(**batch).loss.backward()
            finally:
                torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("remote")
def test_labels_that_a_model_writes_to_are_read_as_it_left_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plm, cost = build("bert-lora")
    batch = make_batch()
    spared = batch["labels"] != -100
    spared[1:] = False

    def drop_the_first_row(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        batch["labels"][spared] = -100

    plm.base_model.register_forward_pre_hook(drop_the_first_row, with_kwargs=True)
    late = late_copies(monkeypatch)
    with pets.regularize(model, cost, 0.5):
        found = model(**batch).running_cost
        assert any(x is batch["labels"] for x in late)
        assert torch.equal(found, model(**batch).running_cost)


@pytest.mark.parametrize("case", CASES)
def test_a_few_sequences_at_a_time_it_is_the_same(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its value, its gradient and what tells its layers."""
    kind, make = CASES[case]
    model, _, cost = build(kind)
    found = []
    for limit in (groups.LIMIT, 1):
        monkeypatch.setattr(groups, "LIMIT", limit)
        with pets.regularize(model, cost, 0.5) as handle:
            loss = model(**make()).loss
            told = [torch.tensor(v) for k, v in handle.last.items() if k.startswith("layers/")]
            assert len(told) == 1
            found.append([loss, *told, *gradients(model, loss).values()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)  # sums in float32


@pytest.mark.parametrize("wrong", ["missing", "range"])
def test_the_errors_are_the_same(wrong: str, request: pytest.FixtureRequest) -> None:
    cost = build("bert-lora").cost
    batch = make_batch()
    if wrong == "missing":
        batch["labels"][0, 8] = 7
    else:
        batch["labels"][1, 3] = 1000
    said = []
    for _ in range(2):
        # without the model, whose own loss would refuse 1000
        hidden = [torch.randn(4, 9, cost.spec.hidden_size) for _ in range(cost.spec.num_layers + 1)]
        with pytest.raises(BadInput, match="targets") as caught:
            cost(hidden, batch["labels"], batch["attention_mask"])
        said.append(str(caught.value))
        request.getfixturevalue("remote")
    assert said[0] == said[1]


def test_labels_have_their_end_points_on_a_device_once() -> None:
    model, _, cost = build("classifier")
    with pets.regularize(model, cost, 0.5) as handle:
        made = handle._forward.terms[0].placed._targets
    meta = torch.device("meta")
    assert made.ends_on(torch.device("cpu")) is made.ends
    assert made.ends_on(meta) is made.ends_on(meta)
    assert made.ends_on(meta).vectors.device == meta


def test_end_points_on_another_device_are_the_same_while_they_are_what_they_were() -> None:
    ends = LabelEnds(torch.eye(3)[:, None], torch.zeros(3, 1))
    targets, meta = TokenTargets(ends), torch.device("meta")
    first = targets.ends_on(meta)
    assert targets.ends_on(meta) is first
    ends.vectors.mul_(2)
    second = targets.ends_on(meta)
    assert second is not first
    targets.ends = LabelEnds(torch.eye(3)[:, None], torch.zeros(3, 1))
    assert targets.ends_on(meta) is not second
    assert targets.ends_on(torch.device("cpu")) is targets.ends


def test_the_mean_of_many_costs_in_half_precision_is_one_of_its_numbers() -> None:
    costs = torch.full((1600,), 2600.0, dtype=torch.float16, requires_grad=True)
    mean = LossScale.scaled(costs, {}, divided=False)
    assert (mean.dtype, float(mean)) == (torch.float16, 2600)
    mean.backward()
    assert costs.grad is not None
    torch.testing.assert_close(costs.grad, torch.full_like(costs, 1 / 1600))


def test_the_gradient_of_a_mean_is_one_number_for_all() -> None:
    """By which a replayed cost sees that one scaling does for all tokens."""
    costs = torch.ones(5, requires_grad=True)
    seen: list[Any] = []
    costs.register_hook(lambda grad: seen.append(grad.stride()))
    LossScale.scaled(costs, {}, divided=False).backward()
    assert seen == [(0,)]
