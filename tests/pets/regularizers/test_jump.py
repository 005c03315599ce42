"""Jump suppression, against loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from state_passes import drawn, pass_of
from torch import Tensor

from bridges import BadInput
from pets.regularizers import Jump

ANSWERS = torch.zeros(4, dtype=torch.int64)


def jump(states: Tensor, last: int = 1) -> Tensor:
    found = Jump(1.0, last=last).term(pass_of(states, ANSWERS[: states.shape[1]]))
    assert found is not None
    return found


def by_loops(states: Tensor, last: int) -> float:
    total, (layers, count, _) = 0.0, states.shape
    for i in range(count):
        moved = []
        for k in range(1, layers):
            one, two = states[k - 1, i].tolist(), states[k, i].tolist()
            dot = sum(a * b for a, b in zip(one, two, strict=True))
            moved.append(0.5 * (1 - dot / math.hypot(*one) / math.hypot(*two)))
        others = sum(moved[:-last]) / len(moved[:-last])
        total += sum(max(0.0, m - others) ** 2 for m in moved[-last:]) / last
    return total / count


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(2, 5), st.integers(0, 99))
def test_by_loops(last: int, others: int, count: int, width: int, seed: int) -> None:
    states = drawn(last + others + 1, count, width, seed=seed)
    assert jump(states, last).item() == pytest.approx(by_loops(states, last), rel=1e-9, abs=1e-14)


def turning(angles: list[float]) -> Tensor:
    """One target in the plane that turns by so much in each layer, and grows."""
    at = torch.tensor([0.0, *angles], dtype=torch.float64).cumsum(0)
    path = torch.stack([at.cos(), at.sin()], -1) * torch.arange(1, len(at) + 1)[:, None]
    return path[:, None].requires_grad_()


def test_equal_movements_and_quiet_ends_cost_nothing() -> None:
    assert jump(turning([0.3] * 5)).item() == pytest.approx(0, abs=1e-28)
    assert jump(turning([0.3, 0.5, 0.1])) == 0
    known = ((1 - math.cos(1.2)) / 2 - (1 - math.cos(0.3)) / 2) ** 2
    assert jump(turning([0.3, 0.3, 1.2])).item() == pytest.approx(known)
    assert jump(turning([0.3, 0.3, 1.2, 0.1]), 2).item() == pytest.approx(known / 2)


def test_less_of_it_takes_a_jump_back() -> None:
    states = turning([0.2, 0.2, 1.5])
    before = jump(states)
    (gradient,) = torch.autograd.grad(before, states)
    assert jump(states.detach() - 0.5 * gradient) < before


@pytest.mark.parametrize("unit", [1e-30, 22517.0, 1e30])
def test_it_is_of_directions_alone(unit: float) -> None:
    states = drawn(5, 4, 6)
    scales = unit * (1 + torch.arange(20).reshape(5, 4, 1))
    leaf = (states.detach() * scales).float().requires_grad_()
    found = jump(leaf, 2)
    assert found.item() == pytest.approx(by_loops(states, 2), rel=1e-4)
    (gradient,) = torch.autograd.grad(found, leaf)
    assert gradient.isfinite().all()


def test_its_gradients_are_right() -> None:
    assert torch.autograd.gradcheck(lambda s: jump(s, 2), drawn(6, 4, 5))


def test_bf16_is_read_in_32_bits() -> None:
    states = drawn(5, 4, 6).bfloat16()
    assert jump(states).dtype == torch.float32
    assert jump(states).item() == pytest.approx(by_loops(states.double(), 1), rel=1e-4)


def test_a_zero_state_is_at_a_right_angle_to_all() -> None:
    states = drawn(4, 1, 5).detach()
    states[-1] = 0
    states.requires_grad_()
    moved = [(1 - torch.cosine_similarity(states[k], states[k + 1])) / 2 for k in (0, 1)]
    expected = max(0.0, float(0.5 - sum(moved) / 2)) ** 2
    found = jump(states)
    assert found.item() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(found, states)
    assert gradient.isfinite().all()


def test_no_targets() -> None:
    found = jump(drawn(4, 0, 5))
    assert found == 0
    assert found.requires_grad


def test_wrong_numbers_of_last_layers() -> None:
    for last in (0, -1, 1.5, True, "two"):
        with pytest.raises(BadInput, match="last="):
            Jump(1.0, last=last)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="last=3: expected less than the model's 3 layers"):
        jump(drawn(4, 2, 5), 3)
