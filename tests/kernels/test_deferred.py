"""Gradients that wait for the model's own: the plain operation's, in less memory."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.meter import peak_bytes
from kernels import deferred, pooling
from kernels.pooling import pool_trajectory
from kernels.pytorch_pooling import Shares

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EXACT = {"rtol": 1e-11, "atol": 1e-12}
"""float64: a gradient comes through a handful of layers, where the order of two sums differs."""
B, S, H = 3, 6, 5

Layer = Callable[[Tensor], Tensor]
KINDS = ("residual", "twice", "plain", "view", "strided", "shared")


class Model(nn.Module):
    """Layers of some kinds: what arrives at their states is shared, summed, strided or a view."""

    def __init__(self, kinds: tuple[str, ...], dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.kinds = kinds
        rng = torch.Generator().manual_seed(0)
        shapes = [(H, H)] * len(kinds) + [(B, S, H)]
        made = [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]
        self.weights = nn.ParameterList(nn.Parameter(x.to(DEVICE, dtype) / 2) for x in made)

    def forward(self) -> list[Tensor]:
        # Of the embeddings a result, not the leaf.
        states = [self.weights[-1] * 1]
        for kind, weight in zip(self.kinds, self.weights, strict=False):
            states.append(self.layer(kind, states[-1], weight))
        return states

    @staticmethod
    def layer(kind: str, h: Tensor, weight: Tensor) -> Tensor:
        if kind == "residual":  # one gradient for both branches, the same tensor
            return h + (h @ weight).tanh()
        if kind == "twice":
            return h + h + (h @ weight).sin()
        if kind == "view":
            return (h @ weight).flatten(0, 1).unflatten(0, (B, S))
        if kind == "strided":
            return (h.transpose(0, 1) @ weight).tanh().transpose(0, 1)
        if kind == "shared":  # its gradient is broadcast, and without memory of its own
            return (h @ weight).tanh() + h.sum()
        return (h @ weight).tanh()

    def gradients(self, loss: Tensor, **options: Any) -> list[Tensor]:
        self.zero_grad()
        loss.backward(**options)
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.parameters()]


def positions() -> tuple[Tensor, Tensor, Tensor]:
    """A mask whose last row is empty, and rows and columns in order."""
    rng = torch.Generator().manual_seed(1)
    mask = torch.rand(B, S, generator=rng) < 0.7
    mask[-1] = False
    rows, columns = (torch.rand(B, S, generator=rng) < 0.3).nonzero().T
    return mask.to(DEVICE), rows.to(DEVICE), columns.to(DEVICE)


def cost_of(states: list[Tensor], *, context: bool = True, in_order: bool = True) -> Tensor:
    read, mean = pool_trajectory(states, *positions(), context=context, in_order=in_order)
    value = (read * torch.arange(1.0, H + 1).to(read)).sin().sum()
    return value if mean is None else value + mean.square().sum()


def task_of(states: list[Tensor]) -> Tensor:
    return states[-1].square().sum()


@pytest.fixture(autouse=True)
def _however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferred, "LEAST_BYTES", 1)
    monkeypatch.setattr(deferred, "MOST_TARGETS", 1)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The layers whose gradient was added to the model's."""
    seen: list[int] = []
    own = Shares.add

    def add(self: Shares, layer: int, grad: Tensor) -> Tensor:
        seen.append(layer)
        return own(self, layer, grad)

    monkeypatch.setattr(Shares, "add", add)
    return seen


def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "may_defer", lambda hidden_states, targets: False)


models = st.lists(st.sampled_from(KINDS), min_size=1, max_size=4).map(tuple)


@given(kinds=models, context=st.booleans(), task=st.booleans())
@settings(deadline=None, max_examples=60)
def test_a_models_gradients_are_the_plain_operations(
    kinds: tuple[str, ...], context: bool, task: bool
) -> None:
    model = Model(kinds)

    def found() -> list[Tensor]:
        states = model()
        loss = cost_of(states, context=context)
        return model.gradients(loss + task_of(states) if task else loss)

    mine = found()
    with pytest.MonkeyPatch.context() as patch:
        plainly(patch)
        expected = found()
    torch.testing.assert_close(mine, expected, **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_added_to_where_the_models_arrives(added: list[int], kind: str) -> None:
    model = Model((kind,) * 3)
    states = model()
    model.gradients(cost_of(states) + task_of(states))
    assert added == [3, 2, 1, 0]


def test_the_other_branch_of_a_residual_keeps_its_gradient() -> None:
    """Autograd gives both the same tensor."""
    leaf = torch.zeros(B, S, H, device=DEVICE, requires_grad=True)
    other = torch.zeros(B, S, H, device=DEVICE, requires_grad=True)
    read, left = leaf * 1, other * 1
    total = (read + left).sum()
    states, _ = pool_trajectory([read], *positions(), context=False, in_order=True)
    (total + 100 * states.sum()).backward()
    assert other.grad is not None
    assert leaf.grad is not None
    assert (other.grad == 1).all()
    _, rows, columns = positions()
    expected = torch.ones(B, S, H, device=DEVICE)
    expected[rows, columns] = 101
    assert torch.equal(leaf.grad, expected)


def test_a_pass_without_the_cost_gets_nothing_of_it() -> None:
    model = Model(("residual", "plain"))
    states = model()
    cost, task = cost_of(states), task_of(states)
    alone = model.gradients(task, retain_graph=True)
    both = model.gradients(cost + task, retain_graph=True)
    torch.testing.assert_close(model.gradients(task, retain_graph=True), alone, rtol=0, atol=0)
    torch.testing.assert_close(model.gradients(cost + task), both, rtol=0, atol=0)
    assert any((x != y).any() for x, y in zip(alone, both, strict=True))


def test_what_was_added_is_not_kept_with_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Shares]] = []
    own = Shares.__init__

    def init(self: Shares, *args: Any, **kwargs: Any) -> None:
        made.append(weakref.ref(self))
        own(self, *args, **kwargs)

    monkeypatch.setattr(Shares, "__init__", init)
    model = Model(("residual", "plain"))
    states = model()
    loss = cost_of(states) + task_of(states)
    model.gradients(loss)
    assert [shares() for shares in made] == [None]
    assert loss.grad_fn is not None


def test_several_forwards_before_one_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(("residual", "twice"))

    def found() -> list[Tensor]:
        losses = []
        for _ in range(2):
            states = model()
            # Two costs on the same states too.
            losses += [cost_of(states), 3 * cost_of(states, context=False), task_of(states)]
        return model.gradients(torch.stack(losses).sum())

    mine = found()
    plainly(monkeypatch)
    torch.testing.assert_close(mine, found(), **EXACT)


@pytest.mark.parametrize("task", [False, True])
@pytest.mark.parametrize("asked", [[0], [1], [2], [0, 1, 2]])
def test_gradients_of_states_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, asked: list[int], task: bool
) -> None:
    """Of a state and of what it was made of at once: such a pass takes some before their hooks."""
    model = Model(("residual", "plain"))

    def found() -> tuple[Tensor, ...]:
        states = model()
        loss = cost_of(states) + (task_of(states) if task else 0)
        weights = list(model.weights)
        return torch.autograd.grad(loss, [*(states[i] for i in asked), weights[-1]])

    mine = found()
    plainly(monkeypatch)
    torch.testing.assert_close(mine, found(), **EXACT)


def test_whoever_looks_at_a_states_gradient_sees_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(("residual", "plain"))

    def found(doubled: bool) -> tuple[list[Tensor], list[Tensor]]:
        seen: list[Tensor] = []
        states = model()
        states[2].retain_grad()
        states[1].register_hook(lambda g: seen.append(g.clone()))
        if doubled:
            states[0].register_hook(lambda g: 2 * g)
        loss = cost_of(states) + task_of(states)
        states[1].register_hook(lambda g: seen.append(g.clone()))
        grads = model.gradients(loss)
        assert states[2].grad is not None
        return grads, [*seen, states[2].grad]

    mine = [found(doubled) for doubled in (False, True)]
    plainly(monkeypatch)
    expected = [found(doubled) for doubled in (False, True)]
    torch.testing.assert_close(mine, expected, **EXACT)


def test_a_second_derivative_is_refused_not_wrong() -> None:
    model = Model(("plain",))
    states = model()
    (grad,) = torch.autograd.grad(cost_of(states), model.weights[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_a_first_derivative_that_might_be_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(("residual", "plain"))
    states = model()
    mine = model.gradients(cost_of(states) + task_of(states), create_graph=True)
    plainly(monkeypatch)
    states = model()
    torch.testing.assert_close(mine, model.gradients(cost_of(states) + task_of(states)), **EXACT)


def test_a_leaf_among_the_states_has_no_hook_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the embeddings are with `enable_input_require_grads`."""

    def found() -> list[Tensor]:
        leaf = torch.ones(B, S, H, device=DEVICE, dtype=torch.float64, requires_grad=True)
        states = [leaf, (2 * leaf).sin(), torch.ones_like(leaf).detach()]
        for _ in range(2):
            (cost_of(states) + states[1].sum()).backward(retain_graph=True)
        assert not leaf._backward_hooks
        assert leaf.grad is not None
        return [leaf.grad]

    mine = found()
    plainly(monkeypatch)
    torch.testing.assert_close(mine, found(), **EXACT)


@pytest.mark.parametrize("around", ["model", "cost", "both"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed(monkeypatch: pytest.MonkeyPatch, around: str, reentrant: bool) -> None:
    model = Model(("residual", "plain"))

    def ran(what: Callable[..., Any], *args: Tensor, here: bool) -> Any:
        return checkpoint(what, *args, use_reentrant=reentrant) if here else what(*args)

    def layers(first: Tensor) -> tuple[Tensor, ...]:
        states = [first * 1]
        for kind, weight in zip(model.kinds, model.weights, strict=False):
            states.append(model.layer(kind, states[-1], weight))
        return tuple(states)

    def whole(first: Tensor) -> Tensor:
        states = list(ran(layers, first, here=around == "model"))
        cost: Tensor = ran(lambda *read: cost_of(list(read)), *states, here=around == "cost")
        return cost + task_of(states)

    def found() -> list[Tensor]:
        loss: Tensor = ran(whole, model.weights[-1], here=around == "both")
        return model.gradients(loss)

    mine = found()
    plainly(monkeypatch)
    torch.testing.assert_close(mine, found(), **EXACT)


def test_states_of_a_compiled_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """They leave one node together, and what the model does with them is not seen from outside."""
    model = Model(("residual", "plain"))

    def found() -> list[Tensor]:
        states = torch.compile(model.__call__, backend="aot_eager")()
        return model.gradients(cost_of(states) + task_of(states))

    mine = found()
    plainly(monkeypatch)
    torch.testing.assert_close(mine, found(), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_as_a_sum_is(dtype: torch.dtype) -> None:
    """A state's gradient is the model's plus the share: three roundings of numbers of these sizes."""
    hidden = torch.randn(B, S, H, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
    leaf = hidden.requires_grad_()
    mask, rows, columns = positions()
    both = leaf * 1
    states, context = pool_trajectory([both], mask, rows, columns, in_order=True)
    left, right = torch.randn(states.shape).to(states), torch.randn(context.shape).to(context)
    model = torch.randn(B, S, H).to(DEVICE, dtype)
    loss = (both * model).sum() + ((states * left).sum() + (context * right).sum()).to(dtype)
    loss.backward()
    share = torch.zeros(B, S, H, device=DEVICE, dtype=torch.float64)
    share[rows, columns] += left[0].double()
    count = mask.sum(1, keepdim=True).clamp(min=1)
    share += (mask / count)[..., None] * right[0, :, None].double()
    assert leaf.grad is not None
    unit = torch.finfo(dtype).eps / 2
    size = model.double().abs() + 2 * share.abs()
    assert ((leaf.grad.double() - model.double() - share).abs() <= 3 * unit * size).all()


def test_targets_that_may_repeat_do_not_wait(added: list[int]) -> None:
    model = Model(("plain",))
    states = model()
    model.gradients(cost_of(states, in_order=False) + task_of(states))
    assert not added


@pytest.mark.parametrize("more", [0, 1])
def test_on_a_device_only_large_gradients_wait(monkeypatch: pytest.MonkeyPatch, more: int) -> None:
    """Those of two states, for a leaf and one without a gradient do not."""
    monkeypatch.setattr(deferred, "LEAST_BYTES", 2 * B * S * H * 4 + more)
    for device, expected in (("cpu", True), ("meta", not more)):
        leaf = torch.zeros(B, S, H, device=device, requires_grad=True)
        states = [leaf, leaf * 1, leaf.detach(), leaf * 2]
        assert deferred.may_defer(states, 1) == expected
        assert not deferred.may_defer(states[::2], 1)
        with torch.no_grad():
            assert not deferred.may_defer(states, 1)


def test_of_many_targets_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found for them would be kept as long as what is saved."""
    monkeypatch.setattr(deferred, "MOST_TARGETS", 0.25)
    states = [torch.zeros(2, 8, H, requires_grad=True) * 1]
    assert deferred.may_defer(states, 4)
    assert not deferred.may_defer(states, 5)


def test_a_pass_within_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each over the whole graph: the outer one's shares are its own."""
    model = Model(("residual", "plain", "twice"))

    def found() -> list[Tensor]:
        model.zero_grad()
        states, ran = model(), []
        loss = cost_of(states) + task_of(states)

        def again(grad: Tensor) -> None:
            if not ran:
                ran.append(1)
                loss.backward(retain_graph=True)

        states[1].register_hook(again)
        return model.gradients(loss, retain_graph=True)

    mine = found()
    plainly(monkeypatch)
    torch.testing.assert_close(mine, found(), **EXACT)


def test_passes_in_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(("residual", "plain"))

    def found() -> list[Tensor]:
        model.zero_grad()
        states, both = model(), threading.Barrier(2)
        loss = cost_of(states) + task_of(states)
        states[1].register_hook(lambda grad: both.wait(10) and None)
        threads = [
            threading.Thread(target=lambda: loss.backward(retain_graph=True), daemon=True)
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]

    mine = found()
    plainly(monkeypatch)
    torch.testing.assert_close(mine, found(), **EXACT)


def test_a_mask_may_be_written_to_before_the_backward_pass() -> None:
    """As by a loop that has one buffer for all batches."""
    model, grads = Model(("plain",)), []
    for overwritten in (False, True):
        mask, rows, columns = positions()
        read, mean = pool_trajectory(model(), mask, rows, columns, in_order=True)
        if overwritten:
            mask.fill_(True)
        grads.append(model.gradients(read.square().sum() + mean.square().sum()))
    torch.testing.assert_close(*grads, rtol=0, atol=0)


def test_no_gradient_of_all_layers_is_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 24 layers, that keep their states: what comes on top is the gradient of a state or two."""
    layers, shape = 24, (4, 64, 256)
    leaf = torch.zeros(shape, device=DEVICE, requires_grad=True)
    rows = torch.arange(4, device=DEVICE)
    size = leaf.nbytes

    def step() -> None:
        states = [leaf * 1]
        for _ in range(layers):
            states.append(states[-1].sin())
        read, _ = pool_trajectory(states, None, rows, rows, context=False, in_order=True)
        last = states.pop()
        del states
        (last.sum() + read.square().sum()).backward()
        leaf.grad = None

    step()
    forward = (layers + 1) * size
    mine = peak_bytes(step, DEVICE)
    assert mine < forward + 4 * size
    plainly(monkeypatch)
    step()
    assert peak_bytes(step, DEVICE) > mine + (layers - 4) * size
