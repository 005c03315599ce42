"""The fused bridge likelihood against the oracle."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import oracle
from kernels.bridge_nll import bridge_nll

EXACT = {"rtol": 1e-12, "atol": 1e-12}
"""float64: at most a few hundred terms of size 1, about 1e-15 each."""


@dataclasses.dataclass(frozen=True)
class Case:
    states: Tensor
    context: Tensor
    rows: Tensor
    weights: list[Tensor]
    biases: list[Tensor]
    end: Tensor
    carry: Tensor | None
    mean: Tensor
    precision: Tensor

    def arguments(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    def to(self, dtype: torch.dtype) -> Case:
        return self._each(lambda x: x.to(dtype))

    def trainable(self) -> Case:
        return self._each(lambda x: x.detach().clone().requires_grad_())

    def floats(self) -> tuple[Tensor, ...]:
        """Every tensor a gradient may be asked for."""
        carry = () if self.carry is None else (self.carry,)
        flat = (self.states, self.context, *self.weights, *self.biases, self.end)
        return (*flat, *carry, self.mean, self.precision)

    def _each(self, change: Any) -> Case:
        def apply(value: Any) -> Any:
            if isinstance(value, list):
                return [change(v) for v in value]
            return change(value) if value is not None and value.is_floating_point() else value

        return Case(*(apply(value) for value in self.arguments()))


def case(
    layers: int = 4,
    targets: int = 5,
    batch: int = 3,
    width: int = 4,
    sizes: Sequence[int] = (6, 5, 3),
    *,
    carry: bool = False,
    seed: int = 0,
) -> Case:
    """Random float64 inputs; the precisions are positive."""
    rng = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    inputs = (2 * width, *sizes[:-1])
    return Case(
        states=randn(layers, targets, width),
        context=randn(layers, batch, width),
        rows=torch.randint(batch, (targets,), generator=rng),
        weights=[randn(b, a) / a**0.5 for a, b in zip(inputs, sizes, strict=True)],
        biases=[randn(b) for b in sizes],
        end=randn(targets, sizes[-1]),
        carry=randn(layers) if carry else None,
        mean=randn(layers),
        precision=randn(layers).exp(),
    )


def truth(inputs: Case) -> Tensor:
    zero = torch.zeros_like(inputs.mean) if inputs.carry is None else inputs.carry
    return oracle.bridge_nll(*dataclasses.replace(inputs, carry=zero).arguments())


def gradients(value: Tensor, inputs: Case) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, inputs.floats(), materialize_grads=True)


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(0, 5), st.integers(1, 3), st.integers(1, 5)),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    carry=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=40)
def test_value_and_every_gradient_are_the_oracles(
    shape: tuple[int, int, int, int], sizes: list[int], carry: bool, seed: int
) -> None:
    inputs = case(*shape, sizes, carry=carry, seed=seed).trainable()
    mine, true = bridge_nll(*inputs.arguments()), truth(inputs)
    torch.testing.assert_close(mine, true, **EXACT)
    if shape[1]:
        torch.testing.assert_close(gradients(mine, inputs), gradients(true, inputs), **EXACT)


@pytest.mark.parametrize("carry", [False, True])
def test_the_cost_of_each_token_is_its_own(carry: bool) -> None:
    """Unreduced, value n is the cost of a batch of token n alone; the mean is their mean."""
    inputs = case(carry=carry)
    each = bridge_nll(*inputs.arguments(), reduction="none")
    assert each.shape == (5,)
    for n, value in enumerate(each):
        alone = dataclasses.replace(
            inputs, states=inputs.states[:, [n]], rows=inputs.rows[[n]], end=inputs.end[[n]]
        )
        torch.testing.assert_close(value, bridge_nll(*alone.arguments()), **EXACT)
    torch.testing.assert_close(each.mean(), bridge_nll(*inputs.arguments()), **EXACT)


@pytest.mark.parametrize("carry", [False, True])
def test_several_end_points_of_a_token_are_as_many_calls(carry: bool) -> None:
    inputs = case(carry=carry)
    ends = torch.stack([inputs.end, -inputs.end, 0 * inputs.end])
    several = dataclasses.replace(inputs, end=ends).trainable()
    mine, true = (
        f(*several.arguments(), reduction="none")
        for f in (bridge_nll, oracle.bridge_nll if carry else _without_carry)
    )
    assert mine.shape == (3, 5)
    torch.testing.assert_close(mine, true, **EXACT)
    torch.testing.assert_close(
        gradients(mine.square().sum(), several), gradients(true.square().sum(), several), **EXACT
    )


def _without_carry(*arguments: Any, **options: Any) -> Tensor:
    *stack, _, mean, precision = arguments
    return oracle.bridge_nll(*stack, torch.zeros_like(mean), mean, precision, **options)


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match="reduction='sum': expected 'mean' or 'none'"):
        bridge_nll(*case().arguments(), reduction="sum")  # type: ignore[arg-type]


@pytest.mark.parametrize("carry", [False, True])
@pytest.mark.parametrize("sizes", [(2,), (3, 2, 2)])
def test_every_gradient_is_the_derivative(sizes: tuple[int, ...], carry: bool) -> None:
    inputs = case(layers=3, targets=3, batch=2, width=2, sizes=sizes, carry=carry).trainable()
    # The closures read the very leaves that gradcheck moves.
    assert torch.autograd.gradcheck(lambda *_: bridge_nll(*inputs.arguments()), inputs.floats())


def test_one_affine_layer_by_hand() -> None:
    """L = N = B = H = d = 1: z = 2 * 3 + 5 * 7 + 1 = 42; precision (z - mean v)^2 / 2 = 4 * 30^2 / 2."""

    def exact(x: Any) -> Tensor:
        return torch.tensor(x, dtype=torch.float64)

    value = bridge_nll(
        exact([[[7.0]]]),
        exact([[[3.0]]]),
        torch.tensor([0]),
        [exact([[2.0, 5.0]])],
        [exact([1.0])],
        exact([[24.0]]),
        None,
        exact([0.5]),
        exact([4.0]),
    )
    assert value.item() == 1800.0


def test_a_carry_of_zero_is_no_carry_and_another_one_is() -> None:
    inputs = case()
    none = bridge_nll(*inputs.arguments())
    zero = bridge_nll(*dataclasses.replace(inputs, carry=torch.zeros(4).double()).arguments())
    ones = bridge_nll(*dataclasses.replace(inputs, carry=torch.ones(4).double()).arguments())
    torch.testing.assert_close(zero, none, **EXACT)
    assert abs(ones - none) > 1e-3 * none


def test_the_first_carry_multiplies_the_zero_start() -> None:
    inputs = case(carry=True)
    assert inputs.carry is not None
    changed = inputs.carry.clone()
    changed[0] = 1e6
    other = dataclasses.replace(inputs, carry=changed)
    assert torch.equal(bridge_nll(*other.arguments()), bridge_nll(*inputs.arguments()))


@pytest.mark.parametrize("carry", [False, True])
def test_without_targets_the_value_and_every_gradient_are_zero(carry: bool) -> None:
    inputs = case(targets=0, carry=carry).trainable()
    value = bridge_nll(*inputs.arguments())
    assert value.item() == 0
    assert value.requires_grad
    for grad in gradients(value, inputs):
        assert (grad == 0).all()


@pytest.mark.parametrize("carry", [False, True])
def test_float32_is_close_to_float64(carry: bool) -> None:
    """1e-5 relative: about a hundred aligned float32 roundings of 6e-8."""
    inputs = case(layers=7, targets=9, width=16, sizes=(16, 8, 6), carry=carry)
    low = inputs.to(torch.float32).trainable()
    exact = low.to(torch.float64).trainable()
    value, true = bridge_nll(*low.arguments()), truth(exact)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), true, rtol=1e-5, atol=0)
    for grad, expected in zip(gradients(value, low), gradients(true, exact), strict=True):
        assert (grad.double() - expected).norm() <= 1e-5 * expected.norm()


def test_it_computes_in_the_dtype_of_the_weights() -> None:
    inputs = case().to(torch.float32)
    half = dataclasses.replace(inputs, states=inputs.states.bfloat16(), end=inputs.end.double())
    widened = dataclasses.replace(half, states=half.states.float(), end=half.end.float())
    value = bridge_nll(*half.arguments())
    assert value.dtype == torch.float32
    assert torch.equal(value, bridge_nll(*widened.arguments()))


def test_autocast_around_it_changes_nothing() -> None:
    inputs = case(width=16).to(torch.float32)
    outside = bridge_nll(*inputs.arguments())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = bridge_nll(*inputs.arguments())
    assert torch.equal(inside, outside)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": torch.zeros(3, 3, 4)}, r"context \(3, 3, 4\) does not fit states \(4, 5, 4\)"),
        ({"context": torch.zeros(4, 3, 5)}, r"context \(4, 3, 5\).*expected \[4, B, 4\]"),
        ({"context": torch.zeros(4, 4)}, r"context \(4, 4\).*expected \[4, B, 4\]"),
        (
            {"states": torch.zeros(4, 5, 3), "context": torch.zeros(4, 3, 3)},
            r"\(6, 8\): expected \[\*, 6\] for H=3",
        ),
        ({"states": torch.zeros(4, 4)}, r"states \(4, 4\) and rows \(5,\): expected \[L, N, H\]"),
        ({"rows": torch.zeros(4).long()}, r"rows \(4,\): expected \[L, N, H\] and \[N\]"),
        ({"weights": [], "biases": []}, r"weights \[\] and biases \[\] are no stack of layers"),
        (
            {"weights": [torch.zeros(6, 8), torch.zeros(3, 5)]},
            r"\[\(6, 8\), \(3, 5\)\].* are no stack of layers",
        ),
        ({"biases": [torch.zeros(6)]}, r"biases \[\(6,\)\] are no stack of layers"),
        ({"end": torch.zeros(4, 3)}, r"end \(4, 3\): expected \(5, 3\), \[N, d\]"),
        ({"end": torch.zeros(2, 4, 3)}, r"end \(2, 4, 3\): expected \(5, 3\), \[N, d\], or \[K, N, d\]"),
        ({"end": torch.zeros(5, 2)}, r"end \(5, 2\): expected \(5, 3\), \[N, d\]"),
        ({"carry": torch.zeros(3)}, r"carry \(3,\): expected \(4,\), one per layer"),
        ({"mean": torch.zeros(1)}, r"mean \(1,\): expected \(4,\), one per layer"),
        ({"precision": torch.zeros(())}, r"precision \(\): expected \(4,\), one per layer"),
        (
            {"rows": torch.zeros(5, device="meta").long()},
            r"rows is on meta, states on cpu: expected all",
        ),
        (
            {"biases": [torch.zeros(6), torch.zeros(5), torch.zeros(3, device="meta")]},
            r"biases\[2\] is on meta, states on cpu: .*move what is elsewhere with .to\('cpu'\)",
        ),
        ({"end": torch.zeros(5, 3, device="meta")}, r"end is on meta, states on cpu"),
        ({"carry": torch.zeros(4, device="meta")}, r"carry is on meta, states on cpu"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bridge_nll(*dataclasses.replace(case(), **changes).arguments())
