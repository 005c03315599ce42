"""Of many targets a few sequences are read at a time: the cost and its gradient stay what they are."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from tiny import tiny_bert, tiny_llama
from torch import Tensor

from benchmarks.meter import peak_bytes
from bridges import LabelEnds, RunningCost
from bridges.cost import groups
from bridges.cost.documents import Layout
from bridges.cost.groups import Group, groups_of

EXACT = {"rtol": 1e-12, "atol": 1e-12}
"""float64: sums of some dozen terms, in another order."""
B, S = 6, 9


def hidden_of(cost: RunningCost, dtype: torch.dtype = torch.float64, length: int = S) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    size = B, length, cost.spec.hidden_size
    count = cost.spec.num_layers + 1
    return [torch.randn(size, generator=rng, dtype=dtype).requires_grad_() for _ in range(count)]


def targets_of(cost: RunningCost) -> tuple[Tensor, Tensor]:
    """Targets and mask, one row without any target."""
    rng = torch.Generator().manual_seed(1)
    targets = torch.randint(5, 60, (B, S), generator=rng)
    targets[:, 0] = targets[2] = -100
    mask = torch.ones_like(targets)
    mask[4, 6:], targets[4, 6:] = 0, -100
    return targets, mask


def outcome(cost: RunningCost, **options: Any) -> tuple[Tensor, list[Tensor]]:
    hidden = hidden_of(cost)
    targets, mask = targets_of(cost)
    given = (hidden, targets, None if "layout" in options else mask)
    value = cost.costs(*given, **options)
    strength = torch.linspace(1, 2, len(value), dtype=value.dtype)
    return value.detach(), list(torch.autograd.grad(value @ strength, hidden))


def cost_of(model: str, bridge: str, reader: str) -> RunningCost:
    torch.manual_seed(0)
    plm = tiny_llama() if model == "llama" else tiny_bert()
    return RunningCost.for_model(plm, bridge, map=reader).double()


def packed() -> dict[str, Any]:
    positions = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4]).expand(B, -1)
    return {"layout": Layout.of((B, S), position_ids=positions)}


CASES: dict[str, tuple[str, str, str]] = {
    "mlp": ("bert", "brownian", "mlp"),
    "path": ("llama", "ou:likelihood=path", "mlp"),
    "lens": ("llama", "brownian", "lens"),
    "against all of the batch": ("llama", "posterior", "lens"),
    "against all, axis": ("bert", "axis", "mlp"),
    "packed": ("llama", "brownian", "mlp"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("limit", [1, 20_000])
def test_it_is_the_cost_in_one_piece(case: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cost, options = cost_of(*CASES[case]), packed() if case == "packed" else {}
    value, gradients = outcome(cost, **options)
    calls = []
    own = groups.costs_by_groups
    monkeypatch.setattr(groups, "LIMIT", limit)
    monkeypatch.setattr(
        "bridges.cost.batch.costs_by_groups",
        lambda *given, **more: calls.append(len(given[3])) or own(*given, **more),
    )
    mine, others = outcome(cost, **options)
    assert calls
    assert calls[0] > 1
    torch.testing.assert_close(mine, value, **EXACT)
    for one, other in zip(others, gradients, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("given", [True, False])
def test_noise_is_the_same_when_it_is_computed_once_more(
    given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where everything is kept."""
    monkeypatch.setattr(groups, "LIMIT", 1)
    cost = cost_of("bert", "sde", "mlp")
    targets, mask = targets_of(cost)

    def draw() -> list[Tensor]:
        torch.manual_seed(3)
        rng, hidden = torch.Generator().manual_seed(3) if given else None, hidden_of(cost)
        value = cost.costs(hidden, targets, mask, generator=rng)
        torch.rand(7, generator=rng)  # whoever draws in between
        gradients = torch.autograd.grad(value.sum(), hidden)
        return [value.detach(), *gradients, torch.rand(1, generator=rng)]

    mine = draw()
    monkeypatch.setattr(groups, "checkpoint", lambda run, *part, use_reentrant: run(*part))
    kept = draw()
    assert len(set(mine[0].tolist())) == len(mine[0])
    for one, other in zip(mine, kept, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_labels_and_no_gradient_and_no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = cost_of("bert", "posterior", "lens")
    ends = LabelEnds.of_words(cost.end_points, [[[7]], [[8], [9]]])
    targets, mask = targets_of(cost)
    labels = torch.where(targets == -100, -100, targets % 2)
    hidden = hidden_of(cost)
    with torch.no_grad():
        whole = cost.costs(hidden, labels, mask, labels=ends)
        monkeypatch.setattr(groups, "LIMIT", 1)
        torch.testing.assert_close(cost.costs(hidden, labels, mask, labels=ends), whole, **EXACT)
    nothing = cost.costs(hidden, torch.full_like(labels, -100), mask, labels=ends)
    assert nothing.shape == (0,)
    assert all(not g.any() for g in torch.autograd.grad(nothing.sum(), hidden))


def test_groups_are_whole_sequences_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.tensor([0, 0, 2, 2, 2, 3, 5, 5, 5, 5, 5, 5])
    assert groups_of(rows, 7, 1) == [Group(slice(0, 7), slice(0, 12))]
    monkeypatch.setattr(groups, "LIMIT", 40)
    found = groups_of(rows, 7, 10)
    assert found == [
        Group(slice(0, 2), slice(0, 2)),
        Group(slice(2, 5), slice(2, 6)),
        Group(slice(5, 7), slice(6, 12)),  # one sequence alone is above it
    ]


def test_less_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = cost_of("llama", "brownian", "mlp").float()
    hidden = hidden_of(cost, torch.bfloat16, 64)
    targets = torch.full((B, 64), 7)

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(cost(hidden, targets), hidden)

    whole = peak_bytes(step, "cpu")
    monkeypatch.setattr(groups, "LIMIT", 1)
    assert peak_bytes(step, "cpu") < 0.7 * whole


def test_packed_documents_are_copied_for_their_contexts_alone() -> None:
    peaks = {}
    for reader in ("mlp", "lens"):
        cost = cost_of("llama", "brownian", reader).float()
        hidden = [h.detach() for h in hidden_of(cost, torch.float32, 64)]
        targets = torch.full((B, 64), -100)
        targets[:, [5, 40]] = 7
        layout = Layout.of((B, 64), position_ids=torch.arange(32).repeat(2).expand(B, -1))
        peaks[reader] = peak_bytes(functools.partial(cost, hidden, targets, layout=layout), "cpu")
    states = sum(h.nbytes for h in hidden)
    assert peaks["mlp"] > states
    assert peaks["lens"] < states / 2
