"""Pooling: the operation against the oracle, in every dtype, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import oracle
from kernels.pooling import pool_trajectory

EXACT = {"rtol": 1e-12, "atol": 1e-12}
"""float64: sums of at most a few dozen numbers of size 1, about 1e-15 each way."""

UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}

Case = tuple[list[Tensor], Tensor, Tensor, Tensor]


def make_case(
    layers: int = 3, batch: int = 3, length: int = 7, width: int = 5, targets: int = 6, *, seed: int = 0
) -> Case:
    """Random float64 states and targets; the last sequence's mask is empty, the others are random."""
    rng = torch.Generator().manual_seed(seed)
    hidden = [torch.randn(batch, length, width, generator=rng).double() for _ in range(layers)]
    mask = torch.rand(batch, length, generator=rng) < 0.6
    mask[-1] = False
    rows = torch.randint(batch, (targets,), generator=rng)
    columns = torch.randint(length, (targets,), generator=rng)
    return hidden, mask, rows, columns


def leaves(hidden: Sequence[Tensor]) -> list[Tensor]:
    return [h.detach().clone().requires_grad_() for h in hidden]


def gradients(operation: Any, hidden: list[Tensor], *where: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a fixed random functional of both outputs; zero where nothing was read."""
    states, context = operation(hidden, *where)
    rng = torch.Generator().manual_seed(7)
    left = torch.randn(states.shape, generator=rng).to(states.dtype)
    right = torch.randn(context.shape, generator=rng).to(context.dtype)
    value = (
        (states * left).sum()
        + (context * right).sum()
        + 0 * torch.stack([h.sum() for h in hidden]).sum()
    )
    return torch.autograd.grad(value, hidden)


def relative_rms(value: Tensor, truth: Tensor) -> float:
    return float((value.double() - truth).square().mean().sqrt() / truth.square().mean().sqrt())


shapes = st.tuples(*(st.integers(1, 4) for _ in range(4)), st.integers(0, 6))


@given(shape=shapes, seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_values_and_gradients_are_the_oracles(shape: tuple[int, ...], seed: int) -> None:
    hidden, *where = make_case(*shape, seed=seed)
    for mine, true in zip(
        pool_trajectory(hidden, *where), oracle.pool_trajectory(hidden, *where), strict=True
    ):
        torch.testing.assert_close(mine, true, **EXACT)
    mine = gradients(pool_trajectory, leaves(hidden), *where)
    true = gradients(oracle.pool_trajectory, leaves(hidden), *where)
    torch.testing.assert_close(mine, true, **EXACT)


def test_gradient_is_the_derivative() -> None:
    hidden, *where = make_case(layers=2, length=4, width=2)
    assert torch.autograd.gradcheck(lambda *h: pool_trajectory(h, *where), tuple(leaves(hidden)))


def test_a_second_derivative_is_refused_not_wrong() -> None:
    hidden, *where = make_case()
    first = leaves(hidden)
    states, context = pool_trajectory(first, *where)
    (grad,) = torch.autograd.grad(
        states.square().sum() + context.square().sum(), first[0], create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_a_row_without_attended_positions_has_context_zero_and_no_gradient() -> None:
    hidden, mask, rows, columns = make_case()
    hidden = leaves(hidden)
    _, context = pool_trajectory(hidden, mask, rows, columns)
    assert (context[:, -1] == 0).all()
    assert (context[:, 0] != 0).all()
    for grad in torch.autograd.grad(context.sum(), hidden):
        assert (grad[-1] == 0).all()
        assert (grad[0, mask[0]] != 0).all()


def test_no_targets_leaves_the_context_alone() -> None:
    hidden, mask, rows, columns = make_case()
    nothing = rows[:0]
    states, context = pool_trajectory(hidden, mask, nothing, nothing)
    assert states.shape == (3, 0, 5)
    torch.testing.assert_close(context, pool_trajectory(hidden, mask, rows, columns)[1], rtol=0, atol=0)
    mine = gradients(pool_trajectory, leaves(hidden), mask, nothing, nothing)
    true = gradients(oracle.pool_trajectory, leaves(hidden), mask, nothing, nothing)
    torch.testing.assert_close(mine, true, **EXACT)


def test_repeated_targets_add_their_gradients() -> None:
    hidden, mask, *_ = make_case()
    hidden = leaves(hidden)
    rows, columns = torch.tensor([1, 1, 1, 0]), torch.tensor([2, 2, 2, 3])
    states, _ = pool_trajectory(hidden, mask, rows, columns)
    for grad in torch.autograd.grad(states.sum(), hidden):
        assert (grad[1, 2] == 3).all()
        assert (grad[0, 3] == 1).all()
        assert grad.sum() == 4 * 5


def test_non_contiguous_inputs_give_the_same() -> None:
    hidden, mask, rows, columns = make_case()
    strided = [h.transpose(0, 2).contiguous().transpose(0, 2) for h in hidden]
    wide = torch.stack([rows, columns], 1)
    flipped = mask.T.contiguous().T
    where = (flipped, wide[:, 0], wide[:, 1])
    assert not any(x.is_contiguous() for x in (*strided, *where))
    mine = pool_trajectory(strided, *where)
    torch.testing.assert_close(mine, pool_trajectory(hidden, mask, rows, columns), **EXACT)
    torch.testing.assert_close(
        gradients(pool_trajectory, [h.requires_grad_() for h in strided], *where),
        gradients(pool_trajectory, leaves(hidden), mask, rows, columns),
        **EXACT,
    )


@pytest.mark.parametrize("trained", [[0], [1], [2], [0, 2]])
def test_a_layer_gets_its_own_gradient_when_others_need_none(trained: list[int]) -> None:
    hidden, *where = make_case()
    expected = gradients(pool_trajectory, leaves(hidden), *where)
    chosen = leaves([hidden[i] for i in trained])
    mixed = list(hidden)
    for i, leaf in zip(trained, chosen, strict=True):
        mixed[i] = leaf
    mine = gradients(lambda _, *w: pool_trajectory(mixed, *w), chosen, *where)
    torch.testing.assert_close(mine, tuple(expected[i] for i in trained), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", UNIT_ROUNDOFF)
def test_lower_precision_rounds_once(dtype: torch.dtype) -> None:
    """Values: the states are copied, the mean is rounded once to the input's dtype: 2 units allow for
    the float32 sum. Gradients: the row and at most two repeated targets are rounded: 4 units."""
    hidden, *where = make_case(layers=4, batch=4, length=33, width=64, targets=12)
    low = [h.to(dtype) for h in hidden]
    exact = [h.double() for h in low]
    unit = UNIT_ROUNDOFF[dtype]
    states, context = pool_trajectory(low, *where)
    assert states.dtype == context.dtype == torch.float32
    true_states, true_context = oracle.pool_trajectory(exact, *where)
    torch.testing.assert_close(states, true_states.float(), rtol=0, atol=0)
    assert relative_rms(context, true_context) <= 2 * unit
    mine = gradients(pool_trajectory, leaves(low), *where)
    true = gradients(oracle.pool_trajectory, leaves(exact), *where)
    for value, truth in zip(mine, true, strict=True):
        assert value.dtype == dtype
        assert relative_rms(value, truth) <= 4 * unit


def test_float64_stays_float64() -> None:
    assert {x.dtype for x in pool_trajectory(*make_case())} == {torch.float64}


def test_autocast_around_it_changes_nothing() -> None:
    hidden, *where = make_case(length=40)
    hidden = [h.float() for h in hidden]
    outside = pool_trajectory(hidden, *where)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = pool_trajectory(hidden, *where)
    torch.testing.assert_close(inside, outside, rtol=0, atol=0)


@pytest.mark.parametrize("length", [3000, 4096])
def test_half_precision_means_of_long_rows_of_large_states_do_not_overflow(length: int) -> None:
    """A plain sum would be 6e4 * length, far above half precision's 65504. Tolerance: one rounding."""
    hidden = [torch.full((1, length, 2), 6e4, dtype=torch.float16)]
    mask = torch.ones(1, length, dtype=torch.bool)
    _, context = pool_trajectory(hidden, mask, *torch.zeros(2, 1, dtype=torch.int64))
    torch.testing.assert_close(
        context, torch.full((1, 1, 2), float(hidden[0][0, 0, 0])), rtol=2**-11, atol=0
    )


def test_no_uninitialised_memory_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with an empty mask and with no target, where a loop may write nothing."""
    hidden, mask, rows, columns = make_case()
    expected = pool_trajectory(hidden, mask, rows, columns)
    true = gradients(oracle.pool_trajectory, leaves(hidden), mask, rows, columns)

    def poisoned(original: Any) -> Any:
        def make(*args: Any, **kwargs: Any) -> Tensor:
            made: Tensor = original(*args, **kwargs)
            return made.fill_(float("nan")) if made.is_floating_point() else made

        return make

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    monkeypatch.setattr(Tensor, "new_empty", poisoned(Tensor.new_empty))
    assert hidden[0].new_empty(3).isnan().all()
    torch.testing.assert_close(pool_trajectory(hidden, mask, rows, columns), expected, rtol=0, atol=0)
    mine = gradients(pool_trajectory, leaves(hidden), mask, rows, columns)
    torch.testing.assert_close(mine, true, **EXACT)
    _, context = pool_trajectory(hidden, mask & False, rows[:0], rows[:0])
    assert (context == 0).all()


@given(shape=shapes, seed=st.integers(0, 2**31), dtype=st.sampled_from([torch.float64, torch.bfloat16]))
@settings(deadline=None, max_examples=30)
def test_without_context_the_states_and_their_gradient_are_the_same(
    shape: tuple[int, ...], seed: int, dtype: torch.dtype
) -> None:
    """To the bit, for a target's position gets nothing else; repeated ones may add in another order."""
    hidden, *where = make_case(*shape, seed=seed)
    both, alone = (leaves([h.to(dtype) for h in hidden]) for _ in range(2))
    states, context = pool_trajectory(alone, *where, context=False)
    assert context is None
    true, _ = pool_trajectory(both, *where)
    assert torch.equal(states, true)
    weights = torch.randn(states.shape).to(states)
    found = torch.autograd.grad(states, alone, weights)
    expected = torch.autograd.grad(true, both, weights)
    torch.testing.assert_close(found, expected)
    at_targets = torch.zeros(shape[1:3], dtype=torch.bool)
    at_targets[where[1], where[2]] = True
    for grad in found:
        assert grad.dtype == dtype
        assert (grad[~at_targets] == 0).all()
        assert (grad[at_targets] != 0).any(-1).all()


def test_without_context_there_need_be_no_mask() -> None:
    hidden, mask, rows, columns = make_case()
    mine = pool_trajectory(hidden, None, rows, columns, context=False)
    assert mine[1] is None
    assert torch.equal(mine[0], pool_trajectory(hidden, mask, rows, columns)[0])
    with pytest.raises(ValueError, match="mask is None: expected the positions that the mean runs over"):
        pool_trajectory(hidden, None, rows, columns)  # type: ignore[call-overload]


def test_without_context_only_layers_that_need_a_gradient_get_one() -> None:
    hidden, *where = make_case()
    last = hidden[-1].requires_grad_()
    states, _ = pool_trajectory(hidden, *where, context=False)
    (grad,) = torch.autograd.grad(states.sum(), last, create_graph=True)
    assert grad.sum() == 6 * 5
    squares = pool_trajectory(hidden, *where, context=False)[0].square().sum()
    (grad,) = torch.autograd.grad(squares, last, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def _refused(name: str) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    hidden, mask, rows, columns = make_case()
    match name:
        case "empty":
            hidden = []
        case "flat":
            hidden = [h[0] for h in hidden]
        case "shape":
            hidden[1] = hidden[1][:, 1:]
        case "dtype":
            hidden[2] = hidden[2].float()
        case "mask dtype":
            mask = mask.long()
        case "mask shape":
            mask = mask[:, 1:]
        case "lengths":
            rows = rows[1:]
        case "matrix":
            rows, columns = rows[:, None], columns[:, None]
        case "layer device":
            hidden[2] = hidden[2].to("meta")
        case "mask device":
            mask = mask.to("meta")
        case "columns device":
            columns = columns.to("meta")
    return hidden, mask, rows, columns


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", r"hidden_states is empty: expected L\+1 tensors \[B, S, H\]"),
        ("flat", r"hidden_states\[0\] has shape \(7, 5\): expected \[B, S, H\]"),
        (
            "shape",
            r"hidden_states\[1\] is torch.float64 \(3, 6, 5\), hidden_states\[0\] is .*must be alike",
        ),
        ("dtype", r"hidden_states\[2\] is torch.float32 \(3, 7, 5\).*must be alike"),
        ("mask dtype", r"mask is torch.int64 \(3, 7\): expected bool \(3, 7\)"),
        ("mask shape", r"mask is torch.bool \(3, 6\): expected bool \(3, 7\)"),
        ("lengths", r"rows \(5,\) and columns \(6,\): expected two vectors \[N\]"),
        ("matrix", r"rows \(6, 1\) and columns \(6, 1\): expected two vectors \[N\]"),
        (
            "layer device",
            r"hidden_states\[2\] is on meta, hidden_states\[0\] on cpu: expected all on one device; "
            r"move what is elsewhere with .to\('cpu'\) \(device_map='auto' puts layers of",
        ),
        ("mask device", r"mask is on meta, hidden_states\[0\] on cpu"),
        ("columns device", r"columns is on meta, hidden_states\[0\] on cpu"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pool_trajectory(*_refused(name))


@pytest.mark.parametrize("context", [True, False])
def test_targets_said_to_be_in_order_give_the_same(context: bool) -> None:
    hidden, mask, *_ = make_case()
    rows, columns = (
        (torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)) < 0.4).nonzero().T
    )

    def both(in_order: bool) -> list[Tensor]:
        read = leaves(hidden)
        found = pool_trajectory(read, mask, rows, columns, context=context, in_order=in_order)
        outputs = [x for x in found if x is not None]
        value = torch.stack([x.sin().sum() for x in outputs]).sum()
        return [*outputs, *torch.autograd.grad(value, read)]

    for said, unsaid in zip(both(True), both(False), strict=True):
        assert torch.equal(said, unsaid)
