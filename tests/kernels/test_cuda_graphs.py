"""Costs replayed as CUDA graphs: on a GPU the real ones, elsewhere a stand-in that runs."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from graph_stand_in import StandIn
from torch import Tensor

from kernels import cuda_graphs
from kernels.capture import may_capture
from kernels.cuda_graphs import SEEN, GraphedCosts

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
L, N, B, H = 3, 5, 2, 4
ROWS = torch.tensor([0, 0, 1, 1, 1], device=DEVICE)


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    if not CUDA:
        monkeypatch.setattr(cuda_graphs, "Program", StandIn)


def cost(states: Tensor, context: Tensor, rows: Tensor) -> Tensor:
    """Of each token, by its own states and the context of its sequence."""
    return (states * context[:, rows]).sin().sum((0, 2)) + states.square().mean((0, 2))


def alone(states: Tensor, rows: Tensor) -> Tensor:
    first, second, third = states
    return (first * second.sin() * third).sum(1) * (1 + rows)


def inputs(seed: int = 0, tokens: int = N) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    made = (torch.randn(L, n, H, generator=rng, dtype=torch.float64) for n in (tokens, B))
    states, context = (x.to(DEVICE).requires_grad_() for x in made)
    return states, context


def warm(graphs: GraphedCosts, key: str = "key") -> None:
    for _ in range(SEEN + 1):
        graphs(key, cost, inputs(), (ROWS,), separable=False)


@pytest.mark.parametrize(
    "reduce", [Tensor.sum, Tensor.mean, lambda x: (x * torch.arange(1.0, N + 1).to(x)).sum()]
)
def test_values_and_gradients_are_the_functions_for_other_numbers_than_it_was_captured_with(
    reduce: Any,
) -> None:
    graphs = GraphedCosts()
    warm(graphs)
    assert len(graphs) == 1
    for seed in (1, 2):
        mine, true = inputs(seed), inputs(seed)
        value, expected = graphs("key", cost, mine, (ROWS,), separable=False), cost(*true, ROWS)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(
            torch.autograd.grad(reduce(value), mine),
            torch.autograd.grad(reduce(expected), true),
            rtol=1e-11,
            atol=1e-13,
        )


def test_of_tokens_that_share_nothing_any_weights_are_a_scaling() -> None:
    graphs = GraphedCosts()

    def refused(*_: Any) -> Any:
        raise AssertionError("the function was run again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_graphs, "drawing_from", refused)
        for seed in range(SEEN + 2):
            (mine, _), (true, _) = inputs(seed), inputs(seed)
            weights = torch.arange(1.0, N + 1, dtype=torch.float64, device=DEVICE)
            value = graphs("key", alone, (mine,), (ROWS,), separable=True)
            found = torch.autograd.grad((value * weights).sum(), mine)
            expected = torch.autograd.grad((alone(true, ROWS) * weights).sum(), true)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert len(graphs) == 1


def test_several_forwards_may_come_before_a_backward() -> None:
    graphs = GraphedCosts()
    warm(graphs)
    each = [inputs(seed) for seed in range(3)]
    values = [graphs("key", cost, given, (ROWS,), separable=False) for given in each]
    found = torch.autograd.grad(torch.stack(values).mean(), [x for given in each for x in given])
    fresh = [inputs(seed) for seed in range(3)]
    expected = torch.stack([cost(*given, ROWS) for given in fresh]).mean()
    leaves = [x for given in fresh for x in given]
    torch.testing.assert_close(found, torch.autograd.grad(expected, leaves), rtol=1e-11, atol=1e-13)


def test_a_gradient_that_is_not_asked_for_is_not_made() -> None:
    graphs = GraphedCosts()
    for seed in range(SEEN + 2):
        states, context = inputs(seed)
        value = graphs("key", cost, (states, context.detach()), (ROWS,), separable=False).sum()
        (found,) = torch.autograd.grad(value, states)
        (expected,) = torch.autograd.grad(cost(states, context, ROWS).sum(), states)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_a_key_is_captured_once_it_has_been_seen_often_enough() -> None:
    graphs = GraphedCosts()
    for k in range(SEEN + 3):
        assert len(graphs) == (k > SEEN)
        graphs("key", cost, inputs(k), (ROWS,), separable=False)


def test_what_cannot_be_captured_runs_as_it_is_and_says_why_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    if not CUDA:

        class Failing(StandIn):
            def __init__(self, *_: Any) -> None:
                raise RuntimeError("operation not permitted when stream is capturing\nmore")

        monkeypatch.setattr(cuda_graphs, "Program", Failing)

    def waits(states: Tensor, context: Tensor, rows: Tensor) -> Tensor:
        assert float(states.detach().square().sum()) > 0  # a look at a number
        return cost(states, context, rows)

    graphs = GraphedCosts()
    for seed in range(SEEN + 3):
        mine, true = inputs(seed), inputs(seed)
        value = graphs("key", waits, mine, (ROWS,), separable=False)
        torch.testing.assert_close(value, cost(*true, ROWS), rtol=1e-12, atol=0)
        value.sum().backward()
    assert len(graphs) == 0
    assert "captur" in graphs.refused["key"]
    assert sum("not captured" in record.message for record in caplog.records) == 1
    warm(graphs, "another")  # the device is as usable as before
    assert len(graphs) == 1 or not CUDA


def test_graphs_that_are_in_use_are_not_thrown_away_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    one = 2 * sum(x.nbytes for x in inputs())
    monkeypatch.setattr(cuda_graphs, "MOST_BYTES", 2 * one)
    graphs = GraphedCosts()
    for key in "abc":
        warm(graphs, key)
    assert list(graphs._programs) == ["a", "b"]
    monkeypatch.setattr(cuda_graphs, "IDLE", 2)
    warm(graphs, "b")
    warm(graphs, "d")
    assert list(graphs._programs) == ["b", "d"]
    monkeypatch.setattr(cuda_graphs, "MOST_BYTES", one - 1)
    warm(graphs, "e")  # as large as it is, it is never kept, and nothing goes for it in vain
    assert list(graphs._programs) == ["b", "d"]


def test_graphs_of_several_shapes_share_what_they_need_in_between() -> None:
    """And are right whichever was replayed before."""
    graphs = GraphedCosts()
    for seed in range(2 * SEEN + 8):
        tokens = 3 + seed % 3
        mine, true = inputs(seed, tokens), inputs(seed, tokens)
        rows = ROWS[:tokens]
        value = graphs(tokens, cost, mine, (rows,), separable=False)
        expected = cost(*true, rows)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(
            torch.autograd.grad(value.sum(), mine),
            torch.autograd.grad(expected.sum(), true),
            rtol=1e-11,
            atol=1e-13,
        )
    assert len(graphs) == 3


def test_copies_have_no_graphs() -> None:
    graphs = GraphedCosts()
    warm(graphs)
    assert len(copy.deepcopy(graphs)) == len(pickle.loads(pickle.dumps(graphs))) == 0


def test_a_second_derivative_is_refused_not_wrong() -> None:
    graphs = GraphedCosts()
    warm(graphs)
    states, context = inputs()
    value = graphs("key", cost, (states, context), (ROWS,), separable=False).sum()
    (grad,) = torch.autograd.grad(value, states, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_on_a_cpu_there_is_nothing_to_capture() -> None:
    assert not may_capture(torch.device("cpu"))


@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
def test_not_inside_a_backward_pass_nor_a_capture() -> None:
    told = []
    leaf = torch.ones(2, device=DEVICE, requires_grad=True)
    leaf.register_hook(lambda _: told.append(may_capture(leaf.device)))
    leaf.sum().backward()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        told.append(may_capture(leaf.device))
        leaf.detach() + 1
    assert told == [False, False]
    assert may_capture(leaf.device)


@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
def test_under_autocast_and_on_another_stream() -> None:
    graphs = GraphedCosts()

    def product(states: Tensor, rows: Tensor) -> Tensor:
        return (states @ states.transpose(1, 2)).float().square().sum((0, 2))

    side = torch.cuda.Stream()
    with torch.autocast("cuda", torch.bfloat16):
        for seed in range(SEEN + 4):
            states = inputs(seed)[0].detach().float().requires_grad_()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side if seed % 2 else torch.cuda.current_stream()):
                value = graphs("key", product, (states,), (ROWS,), separable=False)
            torch.cuda.synchronize()
            torch.testing.assert_close(value, product(states, ROWS))
    assert len(graphs) == 1


@pytest.mark.parametrize("weights", [torch.ones(N), torch.arange(1.0, N + 1)], ids=["ones", "weights"])
def test_the_gradient_is_that_of_the_noise_that_the_value_was_drawn_with(weights: Tensor) -> None:
    """Also where it has to be found again, of tokens that share a context and weigh differently."""
    graphs = GraphedCosts()

    def noisy(states: Tensor, context: Tensor, rows: Tensor) -> Tensor:
        noise = torch.randn(N, dtype=states.dtype, device=states.device)
        return noise * cost(states, context, rows)

    for seed in range(SEEN + 3):
        mine, true = inputs(seed), inputs(seed)
        torch.manual_seed(seed)
        value = graphs("key", noisy, mine, (ROWS,), separable=False)
        after = torch.rand(1, device=DEVICE)
        found = torch.autograd.grad((value * weights.to(value)).sum(), mine)
        torch.manual_seed(seed)
        expected = noisy(*true, ROWS)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        assert torch.equal(torch.rand(1, device=DEVICE), after)
        wanted = torch.autograd.grad((expected * weights.to(value)).sum(), true)
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)
    assert len(graphs) == 1


@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
def test_noise_is_drawn_as_without_a_graph_and_capturing_draws_none() -> None:
    graphs = GraphedCosts()

    def noisy(states: Tensor, rows: Tensor) -> Tensor:
        return (states * torch.randn_like(states)).sum((0, 2))

    def draws(replayed: bool) -> list[Tensor]:
        torch.manual_seed(3)
        states = inputs()[0]
        if replayed:
            given = (states,), (ROWS,)
            return [graphs("key", noisy, *given, separable=True).detach() for _ in range(SEEN + 4)]
        return [noisy(states, ROWS).detach() for _ in range(SEEN + 4)]

    for mine, true in zip(draws(True), draws(False), strict=True):
        assert torch.equal(mine, true)
    assert len(graphs) == 1
