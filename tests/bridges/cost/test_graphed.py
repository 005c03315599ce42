"""Running costs that are replayed as CUDA graphs: the same numbers, and never stale ones."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from graph_stand_in import StandIn
from tiny import tiny_bert
from torch import Tensor

import bridges
from bridges import GaussianBridge, LabelEnds, RunningCost
from bridges.cost import graphed
from bridges.processes import sde
from kernels import cuda_graphs
from kernels.cuda_graphs import SEEN

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
TWO = (((10,), (11, 12)), ((13,),), ((14,), (15,)))
"""Words of labels, of which some have two."""


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    if not CUDA:
        monkeypatch.setattr(cuda_graphs, "Program", StandIn)
        monkeypatch.setattr(graphed, "may_capture", lambda device: True)


def made(bridge: str, reader: str = "mlp") -> RunningCost:
    return RunningCost.for_model(tiny_bert(), bridge, map=reader, latent_dim=6).to(DEVICE)


def batch(seed: int, classes: int | None = 3) -> tuple[list[Tensor], Tensor, Tensor]:
    """Hidden states [B, S, H] that want a gradient, targets, some of which share a row, and a mask."""
    rng = torch.Generator().manual_seed(seed)
    config = tiny_bert().config
    shape = (3, 7, config.hidden_size)
    layers = range(config.num_hidden_layers + 1)
    hidden = [torch.randn(shape, generator=rng).to(DEVICE).requires_grad_() for _ in layers]
    targets = torch.full(shape[:2], -100)
    for row, column in ((0, 1), (0, 4), (1, 2), (2, 3), (2, 5)):
        targets[row, column] = int(torch.randint(classes or 20, (), generator=rng)) + 5 * (not classes)
    return hidden, targets.to(DEVICE), torch.ones(shape[:2], dtype=torch.bool, device=DEVICE)


def results(cost: RunningCost, labels: LabelEnds | None, seed: int, weights: Tensor) -> list[Tensor]:
    """The costs of tokens and the gradient of their weighted sum."""
    hidden, *where = batch(seed, None if labels is None else len(labels))
    costs = cost.costs(hidden, *where, labels=labels)
    return [costs.detach(), *torch.autograd.grad((costs * weights).sum(), hidden)]


GRAPHED = {
    "brownian": "mlp",
    "ou:likelihood=path": "mlp",
    "smooth": "mlp",
    "brownian ": "lens",
    "ou:theta=2": "lens",
    "clock": "lens",
    "posterior": "lens",
    "posterior:process=ou": "mlp",
    "axis": "lens",
}


@pytest.mark.parametrize("of_labels", [False, True], ids=["tokens", "labels"])
@pytest.mark.parametrize("bridge", GRAPHED)
def test_they_are_what_the_cost_itself_is(bridge: str, of_labels: bool) -> None:
    cost = made(bridge.strip(), GRAPHED[bridge])
    plain = copy.deepcopy(cost)
    plain.bridge.graphs = False  # type: ignore[misc]
    labels = LabelEnds.of_words(cost.end_points, TWO) if of_labels else None
    for seed in range(SEEN + 3):
        for weights in (torch.ones(5, device=DEVICE), torch.arange(1.0, 6, device=DEVICE)):
            mine = results(cost, labels, seed, weights)
            true = results(plain, labels, seed, weights)
            torch.testing.assert_close(mine, true, rtol=2e-4, atol=2e-6)
    expected = int(of_labels or not cost.bridge.contrasts)
    assert len(cost._graphs) == expected, cost._graphs.refused


def test_a_bridge_that_is_changed_between_steps_is_not_replayed_as_it_was() -> None:
    cost = made("ou:theta=2")
    weights = torch.ones(5, device=DEVICE)
    for seed in range(SEEN + 2):
        before = results(cost, None, seed, weights)
    cost.bridge.theta = 0.5
    changed = results(cost, None, SEEN + 1, weights)
    assert not torch.allclose(before[0], changed[0], rtol=1e-3)
    fresh = made("ou:theta=0.5")
    fresh.load_state_dict(cost.state_dict())
    torch.testing.assert_close(changed, results(fresh, None, SEEN + 1, weights), rtol=2e-4, atol=2e-6)


def test_weights_that_are_loaded_between_steps_are_seen() -> None:
    cost = made("brownian")
    weights = torch.ones(5, device=DEVICE)
    for seed in range(SEEN + 2):
        before = results(cost, None, seed, weights)
    cost.load_state_dict({k: -v if "layers" in k else v for k, v in cost.state_dict().items()})
    assert not torch.allclose(before[0], results(cost, None, SEEN + 1, weights)[0], rtol=1e-3)


def test_who_is_not_replayed() -> None:
    """Costs that learn, have a cost of their own, are being fitted, or are large."""
    weights = torch.ones(5, device=DEVICE)

    class Counting(GaussianBridge, name="counting"):
        calls = 0

        def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return t, t * (1 - t)

        def cost(self, *args: Any, **options: Any) -> Tensor:
            self.calls += 1  # which no graph would do
            return super().cost(*args, **options)

    assert not Counting.graphs
    learns, fitted = made("ou:learn=theta"), made("brownian")
    for parameter in learns.bridge.parameters():
        parameter.requires_grad_()
    fitted.latent_map.requires_grad_()
    for cost in (learns, fitted, made("counting")):
        for seed in range(SEEN + 2):
            results(cost, None, seed, weights)
        assert len(cost._graphs) == 0
    small = made("brownian")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphed, "MOST_BYTES", 100)
        for seed in range(SEEN + 2):
            results(small, None, seed, weights)
    assert len(small._graphs) == 0
    with torch.no_grad():
        hidden, *where = batch(0)
        small.costs(hidden, *where)
    assert small._graphs._calls == 0


def test_what_names_itself_takes_part_by_its_marginal_alone() -> None:
    class Late(GaussianBridge, name="late"):
        def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return t**3, t * (1 - t)

    cost = RunningCost.for_model(tiny_bert(), bridges.get("late"), latent_dim=6).to(DEVICE)
    for seed in range(SEEN + 2):
        results(cost, None, seed, torch.ones(5, device=DEVICE))
    assert len(cost._graphs) == 1


def test_a_copy_and_its_files_have_no_graphs(tmp_path: Any) -> None:
    cost = made("brownian")
    for seed in range(SEEN + 2):
        results(cost, None, seed, torch.ones(5, device=DEVICE))
    assert len(cost._graphs) == 1
    assert len(copy.deepcopy(cost)._graphs) == 0
    cost.save_pretrained(tmp_path / "cost")
    assert len(RunningCost.from_pretrained(tmp_path / "cost")._graphs) == 0


def test_the_digits_of_what_was_read_are_part_of_it() -> None:
    """Of 16 bits products may be made of one TF32 product, of 32 not."""
    cost = made("brownian")
    hidden, *where = batch(0, None)
    path, answers = cost.trajectory(hidden, *where)
    assert path.source == torch.float32
    for source in (torch.float32, torch.bfloat16):
        for _ in range(SEEN + 1):
            cost.of_trajectory(dataclasses.replace(path, source=source), answers)
    assert len(cost._graphs) == 2


@pytest.mark.skipif(CUDA, reason="on a GPU its sweeps are known")
def test_an_sde_whose_sweeps_are_not_known_is_not_replayed() -> None:
    cost = made("sde")
    for seed in range(SEEN + 2):
        results(cost, None, seed, torch.ones(5))
    assert cost.bridge.last_solve.solver == "sequential"  # type: ignore[union-attr]
    assert len(cost._graphs) == 0


@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
def test_a_replayed_sde_draws_what_it_would_have_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sde, "LOOK", 2)
    cost = made("sde")
    plain = copy.deepcopy(cost)
    plain.bridge.graphs = False  # type: ignore[misc]
    each = []
    for seed in range(SEEN + 6):
        torch.manual_seed(seed)
        mine = results(cost, None, seed, torch.ones(5, device=DEVICE))
        torch.manual_seed(seed)
        true = results(plain, None, seed, torch.ones(5, device=DEVICE))
        torch.testing.assert_close(mine, true, rtol=1e-3, atol=1e-5)
        each.append(float(mine[0].sum()))
    assert len(cost._graphs) == 1, cost._graphs.refused
    torch.manual_seed(7)
    twice = [results(cost, None, 0, torch.ones(5, device=DEVICE))[0] for _ in range(2)]
    assert not torch.equal(*twice)  # fresh noise


@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
def test_a_captured_sde_that_has_not_converged_is_captured_with_more_sweeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sde, "LOOK", 2)
    cost = made("sde")
    for seed in range(SEEN + 2):
        results(cost, None, seed, torch.ones(5, device=DEVICE))
    assert cost.bridge._spare == 0
    cost.bridge._worst.fill_(1e-3)  # type: ignore[union-attr]
    for seed in range(SEEN + 4):
        results(cost, None, seed, torch.ones(5, device=DEVICE))
    assert cost.bridge._spare == 1
    assert len(cost._graphs) == 2
