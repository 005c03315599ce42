"""A snapshot is equal while a module's attributes and tensors are what they were, and else it is not."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import bridges
from bridges.processes.snapshot import snapshot, tensor_state


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2).requires_grad_(False)
        self.numbers, self.word, self.flag = [1.0, (2, "x")], "a", None
        self.register_buffer("table", torch.zeros(3))
        self.plain = torch.ones(2)


def set_table(part: Part) -> None:
    part.table = torch.zeros(3)


def swap_data(part: Part) -> None:
    part.inner.weight.data = part.inner.weight.data.clone()


@pytest.mark.parametrize(
    "change",
    [
        lambda part: setattr(part, "word", "b"),
        lambda part: setattr(part, "other", 1),
        lambda part: part.numbers.append(3),
        lambda part: part.numbers.__setitem__(0, 1),
        lambda part: part.numbers.__setitem__(0, True),
        lambda part: part.train(not part.training),
        lambda part: part.table.add_(1),
        lambda part: part.plain.mul_(2),
        lambda part: part.load_state_dict(part.state_dict()),
        lambda part: part.double(),
        lambda part: setattr(part, "inner", nn.Linear(2, 2).requires_grad_(False)),
        lambda part: setattr(part, "inner", None),
        set_table,
        swap_data,
    ],
)
def test_it_tells_what_changed(change: Callable[[Part], object]) -> None:
    part = Part()
    before = snapshot(part)
    assert before is not None
    assert before == snapshot(part)
    assert hash(before) == hash(snapshot(part))
    change(part)
    after = snapshot(part)
    assert after is not None
    assert after != before


def test_a_copy_has_tensors_of_its_own() -> None:
    part = Part()
    assert snapshot(copy.deepcopy(part)) != snapshot(part)


@pytest.mark.parametrize("value", [{}, {1}, print, nn.Parameter(torch.ones(1)), object(), [{}]])
def test_it_says_none_of_what_it_cannot_tell(value: object) -> None:
    part = Part()
    part.extra = value
    assert snapshot(part) is None
    del part.extra
    assert snapshot(part) is not None


def test_inside_too() -> None:
    part = Part()
    part.inner.requires_grad_(True)
    assert snapshot(part) is None


def test_an_inference_tensor_has_no_state() -> None:
    with torch.inference_mode():
        tensor = torch.ones(2)
    assert tensor_state(tensor) is None


def test_a_state_keeps_the_memory_so_that_no_other_tensor_has_its_address() -> None:
    tensor = torch.zeros(1000)
    state = tensor_state(tensor)
    for _ in range(50):  # each would take the place of the one before
        tensor = torch.zeros(1000)
        assert tensor_state(tensor) != state


@pytest.mark.parametrize("name", bridges.available())
def test_every_bridge_of_fixed_numbers_has_one(name: str) -> None:
    bridge = bridges.get(name).requires_grad_(False)
    before = snapshot(bridge)
    assert before is not None
    assert before == snapshot(bridge)


def test_no_number_is_another() -> None:
    part = Part()
    part.word = math.nan
    assert snapshot(part) == snapshot(part)
    part.word = 1.0
    assert snapshot(part) != snapshot(Part())
