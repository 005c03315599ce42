"""The anchor, against loops in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from state_passes import drawn, pass_of
from torch import Tensor

from pets.regularizers import Anchor

ANSWERS = torch.tensor([0, 1, 1, 0])


def anchor(states: Tensor, frozen: Tensor) -> Tensor:
    found = Anchor(1.0).term(pass_of(states, ANSWERS[: states.shape[1]], frozen=frozen))
    assert found is not None
    return found


def by_loops(states: Tensor, frozen: Tensor) -> float:
    total, (layers, count, width) = 0.0, states.shape
    for k in range(layers):
        for i in range(count):
            moved = sum(float(states[k, i, j] - frozen[k, i, j]) ** 2 for j in range(width))
            length = sum(float(frozen[k, i, j]) ** 2 for j in range(width))
            total += moved / length
    return total / layers / count


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 4), st.integers(1, 4), st.integers(1, 5), st.integers(0, 99))
def test_by_loops(layers: int, count: int, width: int, seed: int) -> None:
    states, frozen = drawn(layers, count, width, seed=seed), drawn(layers, count, width, seed=seed + 100)
    assert anchor(states, frozen).item() == pytest.approx(by_loops(states, frozen), rel=1e-12)


def test_its_gradients_are_right_and_the_frozen_model_has_none() -> None:
    states, frozen = drawn(3, 4, 5), drawn(3, 4, 5, seed=1)
    assert torch.autograd.gradcheck(lambda s: anchor(s, frozen), states)
    anchor(states, frozen).backward()
    assert frozen.grad is None


def test_it_is_nothing_at_the_frozen_model() -> None:
    states = drawn(3, 4, 5)
    found = anchor(states, states.detach())
    found.backward()
    assert found == 0
    assert states.grad is not None
    assert not states.grad.any()


@pytest.mark.parametrize("unit", [1e-30, 1e-3, 22517.0, 1e30])
def test_it_means_the_same_in_every_unit(unit: float) -> None:
    """In float32, where squares of the first and last are no numbers any more."""
    states, frozen = drawn(3, 4, 5), drawn(3, 4, 5, seed=1)
    leaf = (states.detach() * unit).float().requires_grad_()
    found = anchor(leaf, (frozen * unit).float())
    assert found.item() == pytest.approx(by_loops(states, frozen), rel=1e-5)
    (gradient,) = torch.autograd.grad(found, leaf)
    assert gradient.isfinite().all()


def test_bf16_is_read_in_32_bits() -> None:
    states, frozen = drawn(3, 4, 5).bfloat16(), drawn(3, 4, 5, seed=1).bfloat16()
    found = anchor(states, frozen)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(by_loops(states.double(), frozen.double()), rel=1e-5)


def test_a_zero_state_counts_by_its_own_size() -> None:
    states, frozen = drawn(2, 1, 3), torch.zeros(2, 1, 3, dtype=torch.float64)
    found = anchor(states, frozen)
    assert found.item() == pytest.approx(float(states.square().sum()) / 2)
    found.backward()
    assert states.grad is not None
    assert states.grad.isfinite().all()


def test_no_targets() -> None:
    states = drawn(3, 0, 5)
    found = anchor(states, states.detach())
    assert found == 0
    assert found.requires_grad
