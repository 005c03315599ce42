"""Running costs that are replayed as CUDA graphs: the same numbers, and never stale ones."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest
import torch
from graph_stand_in import Traced
from tiny import tiny_bert
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import bridges
from bridges import GaussianBridge, LabelEnds, RunningCost, Trajectory
from bridges.cost import graphed
from bridges.latent.lens import Lens
from bridges.processes import sde
from kernels import capture, cuda_graphs
from kernels.cuda_graphs import SEEN
from kernels.path.solver import SolverReport

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
TWO = (((10,), (11, 12)), ((13,),), ((14,), (15,)))
"""Words of labels, of which some have two."""


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    if not CUDA:
        monkeypatch.setattr(cuda_graphs, "Program", Traced)
        monkeypatch.setattr(capture, "_is_cuda", lambda device: True)


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
    cost.bridge._worst[0].fill_(1e-3)
    for seed in range(SEEN + 4):
        results(cost, None, seed, torch.ones(5, device=DEVICE))
    assert cost.bridge._spare == 1
    assert len(cost._graphs) == 2


class Warm(Lens):
    """A reader with a state of its own."""

    temperature = 1.0

    def forward(self, trajectory: Trajectory, factor: Tensor | None = None) -> Tensor:
        guess: Tensor = super().forward(trajectory, factor)
        return guess * self.temperature

    def fused_cost(self, *given: Any) -> None:
        return None


def by_reader(cost: RunningCost, seed: int = 0) -> Tensor:
    return results(cost, None, seed, torch.ones(5, device=DEVICE))[0]


def with_reader(reader: type[Lens]) -> RunningCost:
    cost = made("brownian", "lens")
    states, dim, width = cost.lens.weight.shape
    mine = reader(states, width, dim).to(DEVICE)
    mine.load_state_dict(cost.lens.state_dict())
    cost.latent_map = mine.requires_grad_(False)
    return cost


def test_what_a_reader_is_besides_its_tensors_is_seen() -> None:
    cost = with_reader(Warm)
    for _ in range(SEEN + 2):
        before = by_reader(cost)
    assert len(cost._graphs) == 1
    cost.latent_map.temperature = 3.0  # type: ignore[assignment]
    changed = by_reader(cost)
    plain = copy.deepcopy(cost)
    plain.bridge.graphs = False  # type: ignore[misc]
    assert not torch.allclose(changed, before, rtol=0.1)
    torch.testing.assert_close(changed, by_reader(plain), rtol=1e-4, atol=1e-6)
    cost.latent_map.register_forward_hook(lambda module, given, found: 0 * found)
    for _ in range(SEEN + 2):
        hooked = by_reader(cost)
    assert not torch.allclose(hooked, changed, rtol=0.1)
    assert cost._graphs._calls == 1 + SEEN + 2  # none of them while it is hooked


def test_the_constants_of_a_graph_are_held_though_others_take_their_place() -> None:
    """Of the same bridge with other labels, and by a gradient that is found again."""
    cost = made("posterior")
    labels = LabelEnds.of_words(cost.end_points, TWO)
    uneven = torch.arange(1.0, 6, device=DEVICE)
    plain = copy.deepcopy(cost)
    plain.bridge.graphs = False  # type: ignore[misc]
    for seed in range(SEEN + 2):
        results(cost, labels, seed, uneven)
    (program,) = cost._graphs._programs.values()
    held = [cell.cell_contents for cell in program.function.__closure__ or ()]
    (kept,) = [x for x in held if isinstance(x, list) and x]
    before = list(map(id, kept))
    for seed in range(40):
        hidden, *where = batch(seed, None)
        cost.costs(hidden, *where)  # against the words of each batch
    mine, true = results(cost, labels, 3, uneven), results(plain, labels, 3, uneven)
    torch.testing.assert_close(mine, true, rtol=2e-4, atol=2e-6)
    assert list(map(id, kept)) == before


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_under_a_checkpoint_nothing_is_replayed_that_runs_again_otherwise(use_reentrant: bool) -> None:
    cost = made("brownian")
    for seed in range(SEEN + 3):
        hidden, *where = batch(seed, None)

        def costs(*given: Tensor, where: Any = where) -> Tensor:
            return cost.costs(given, *where)

        value = checkpoint(costs, *hidden, use_reentrant=use_reentrant)
        found = torch.autograd.grad(value.sum(), hidden) if not use_reentrant else ()
        expected = results(cost, None, seed, torch.ones(5, device=DEVICE))
        torch.testing.assert_close(value.detach(), expected[0], rtol=2e-4, atol=2e-6)
        for grad, other in zip(found, expected[1:], strict=False):
            torch.testing.assert_close(grad, other, rtol=2e-4, atol=2e-6)


def test_a_cost_of_a_mixin_is_a_cost_of_its_own() -> None:
    class Own:
        def cost(self, *given: Any, **options: Any) -> Tensor:
            raise NotImplementedError

    class Mixed(Own, GaussianBridge):  # type: ignore[misc]
        def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return t, t * (1 - t)

    class Says(Own, GaussianBridge):  # type: ignore[misc]
        graphs = True

    assert (Mixed.graphs, Says.graphs) == (False, True)


def test_labels_that_are_written_to_are_seen() -> None:
    cost = made("axis", "lens")
    labels = LabelEnds.of_words(cost.end_points, TWO)
    for _ in range(SEEN + 2):
        before = results(cost, labels, 0, torch.ones(5, device=DEVICE))[0]
    with torch.no_grad():
        labels.vectors.copy_(labels.vectors.flip(0))
        labels.log_weights.copy_(labels.log_weights.flip(0))
    plain = copy.deepcopy(cost)
    plain.bridge.graphs = False  # type: ignore[misc]
    true = results(plain, copy.deepcopy(labels), 0, torch.ones(5, device=DEVICE))[0]
    assert not torch.allclose(before, true, rtol=1e-2)
    mine = results(cost, labels, 0, torch.ones(5, device=DEVICE))[0]
    torch.testing.assert_close(mine, true, rtol=2e-4, atol=2e-6)


def test_an_sde_whose_process_cannot_be_told_is_not_replayed() -> None:
    cost = made("sde")
    bridge: Any = cost.bridge
    bridge.last_solve = SolverReport("picard", 3, 0.0, 3, 0.0)
    assert bridge.graph_state() is not None
    bridge.process.unknown = object()
    assert bridge.graph_state() is None


def test_a_cost_that_was_pickled_before_there_were_graphs() -> None:
    for bridge in ("brownian", "sde"):
        cost = made(bridge)
        for module, names in ((cost, ["_graphs"]), (cost.bridge, ["_worst", "_replays", "_spare"])):
            for name in names:
                vars(module).pop(name, None)
        old = pickle.loads(pickle.dumps(cost))
        assert results(old, None, 0, torch.ones(5, device=DEVICE))[0].isfinite().all()
