"""Losses of intermediate layers, against loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from state_passes import drawn, pass_of
from torch import Tensor

from bridges import BadInput
from pets.regularizers import EarlyExit

ANSWERS = torch.tensor([0, 2, 1, 2])
TABLE = drawn(5, 3, seed=9)


def head(states: Tensor) -> Tensor:
    return (states @ TABLE.to(states.dtype)).log_softmax(-1)


def early(states: Tensor, first: float) -> Tensor:
    seen = pass_of(states, ANSWERS[: states.shape[1]], head=head)
    found = EarlyExit(1.0, first=first).term(seen)
    assert found is not None
    return found


def by_loops(states: Tensor, first: float) -> float:
    layers, total, weights = len(states) - 1, 0.0, 0.0
    for k in range(1, layers):
        if k < first * layers and k != layers - 1:
            continue
        weight = sum(range(k + 1))
        weights += weight
        for i in range(states.shape[1]):
            logits = (states[k, i] @ TABLE).tolist()
            own = logits[int(ANSWERS[i])]
            total += weight * (math.log(sum(map(math.exp, logits))) - own) / states.shape[1]
    return total / weights


@settings(deadline=None, max_examples=40)
@given(
    st.integers(2, 9), st.integers(1, 4), st.sampled_from([0, 0.1, 0.25, 0.5, 0.9]), st.integers(0, 9)
)
def test_by_loops(layers: int, count: int, first: float, seed: int) -> None:
    states = drawn(layers + 1, count, 5, seed=seed)
    assert early(states, first).item() == pytest.approx(by_loops(states, first), rel=1e-12)


@pytest.mark.parametrize(
    ("layers", "first", "chosen"),
    [
        (6, 0.5, [3, 4, 5]),
        (6, 0.0, [1, 2, 3, 4, 5]),
        (3, 0.99, [2]),
        (2, 0.5, [1]),
        (10, 0.7, [7, 8, 9]),
    ],
)
def test_which_layers_are_read(layers: int, first: float, chosen: list[int]) -> None:
    states = drawn(layers + 1, 4, 5)
    early(states, first).backward()
    assert states.grad is not None
    assert states.grad.abs().sum((1, 2)).nonzero().flatten().tolist() == chosen


def test_its_gradients_are_right() -> None:
    assert torch.autograd.gradcheck(lambda s: early(s, 0.3), drawn(5, 4, 5))
    early(drawn(5, 4, 5), 0.3).backward()
    assert TABLE.grad is not None, "the head learns too"
    TABLE.grad = None


def test_bf16_is_read_in_32_bits() -> None:
    assert early(drawn(5, 4, 5).bfloat16(), 0.5).dtype == torch.float32


def test_no_targets() -> None:
    found = early(drawn(4, 0, 5), 0.5)
    assert found == 0
    assert found.requires_grad


def test_wrong_shares() -> None:
    for first in (-0.1, 1, math.nan, "half", True):
        with pytest.raises(BadInput, match=r"first=.*\[0, 1\)"):
            EarlyExit(1.0, first=first)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="a model of 1 layer has none before its last"):
        early(drawn(2, 3, 5), 0.5)
