"""Supervised contrast, against loops in float64 and torch's cross-entropy."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from state_passes import drawn, pass_of, read_of
from tiny import tiny_bert
from torch import Tensor
from torch.nn import functional as F

from bridges import BadInput, RunningCost
from pets.regularizers import Contrast

ANSWERS = torch.tensor([0, 1, 1, 2, 0, 1])


def contrast(
    states: Tensor, answers: Tensor = ANSWERS, first: float = 0.5, temperature: float = 0.1
) -> Tensor:
    found = Contrast(1.0, first=first, temperature=temperature).term(pass_of(states, answers))
    assert found is not None
    return found


def by_loops(states: Tensor, answers: list[int], first: float, temperature: float) -> float:
    layers, parts = len(states) - 1, []
    for k in range(1, layers + 1):
        if k < first * layers:
            continue
        z = [[x / math.hypot(*row) for x in row] for row in states[k].tolist()]
        near = [[sum(map(math.prod, zip(a, b, strict=True))) / temperature for b in z] for a in z]
        for i, label in enumerate(answers):
            positive = [p for p, other in enumerate(answers) if other == label and p != i]
            whole = sum(math.exp(near[i][a]) for a in range(len(z)) if a != i)
            if positive:
                logs = [math.log(math.exp(near[i][p]) / whole) for p in positive]
                parts.append(-sum(logs) / len(positive))
    return sum(parts) / len(parts) if parts else 0.0


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=6),
    st.integers(1, 4),
    st.sampled_from([0, 0.5, 0.8]),
    st.sampled_from([0.1, 1.0]),
    st.integers(0, 9),
)
def test_by_loops(answers: list[int], layers: int, first: float, temperature: float, seed: int) -> None:
    states = drawn(layers + 1, len(answers), 4, seed=seed)
    found = contrast(states, torch.tensor(answers), first, temperature)
    assert found.item() == pytest.approx(by_loops(states, answers, first, temperature), rel=1e-9)
    assert found.requires_grad


def test_of_pairs_it_is_torchs_cross_entropy() -> None:
    """With one other of each label the loss is that of telling it among all others."""
    states, answers = drawn(2, 6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    z = F.normalize(states[1], dim=-1)
    logits = (z @ z.T / 0.1).fill_diagonal_(-math.inf)
    expected = F.cross_entropy(logits, torch.tensor([3, 4, 5, 0, 1, 2]))
    torch.testing.assert_close(contrast(states, answers), expected)


def test_its_gradients_are_right() -> None:
    assert torch.autograd.gradcheck(contrast, drawn(4, 6, 5))


@pytest.mark.parametrize("unit", [1e-30, 22517.0, 1e30])
def test_lengths_and_order_do_not_matter(unit: float) -> None:
    states, order = drawn(4, 6, 5), torch.tensor([3, 1, 5, 0, 4, 2])
    expected = by_loops(states, ANSWERS.tolist(), 0.5, 0.1)
    assert contrast(states[:, order], ANSWERS[order]).item() == pytest.approx(expected)
    scales = unit * (1 + torch.arange(24).reshape(4, 6, 1))
    leaf = (states.detach() * scales).float().requires_grad_()
    found = contrast(leaf)
    assert found.item() == pytest.approx(expected, rel=1e-4)
    (gradient,) = torch.autograd.grad(found, leaf)
    assert gradient.isfinite().all()


def test_without_a_pair_it_is_nothing_in_the_graph() -> None:
    for answers in (torch.tensor([0, 1, 2]), torch.tensor([5]), torch.zeros(0, dtype=torch.int64)):
        states = drawn(3, len(answers), 5)
        found = contrast(states, answers)
        found.backward()
        assert found == 0
        assert states.grad is not None
        assert not states.grad.any()


def test_targets_without_a_pair_do_not_thin_it_out() -> None:
    """Nor where the sum is divided by another number of targets."""
    states = drawn(3, 6, 5)
    seen = pass_of(states, ANSWERS, mean=lambda costs: costs.sum() / 12)
    found = Contrast(1.0).term(seen)
    assert found.item() == pytest.approx(by_loops(states, ANSWERS.tolist(), 0.5, 0.1) / 2)


@pytest.mark.parametrize("map", ["mlp", "lens"])
def test_of_latents(map: str) -> None:
    plm = tiny_bert()
    cost = RunningCost.for_model(plm, "ou", map=map)
    states = drawn(4, 6, 32).detach().float().requires_grad_()
    objective = Contrast(1.0, cost=cost)
    objective.attach(plm)
    found = objective.term(pass_of(states, ANSWERS))
    z = cost.latents(read_of(states, ANSWERS).trajectory).detach().double()
    expected = by_loops(z, ANSWERS.tolist(), 0.5, 0.1)
    assert found.item() == pytest.approx(expected, rel=1e-4)
    assert found.requires_grad
    with pytest.raises(BadInput, match="does not fit the model"):
        objective.attach(tiny_bert(num_hidden_layers=2))


def test_bf16_is_read_in_32_bits() -> None:
    states = drawn(4, 6, 5).bfloat16()
    assert contrast(states).dtype == torch.float32
    expected = by_loops(states.double(), ANSWERS.tolist(), 0.5, 0.1)
    assert contrast(states).item() == pytest.approx(expected, rel=1e-3)


def test_wrong_options() -> None:
    for temperature in (0, -1.0, math.inf, "hot", 1e-9):
        with pytest.raises(BadInput, match="temperature="):
            Contrast(1.0, temperature=temperature)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="first="):
        Contrast(1.0, first=1.0)
    with pytest.raises(BadInput, match=r"cost='ou': expected a bridges.RunningCost"):
        Contrast(1.0, cost="ou")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="'sde': expected one with latents"):
        Contrast(1.0, cost=RunningCost.for_model(tiny_bert(), "sde"))
