"""The lens against the oracle: values, the states' gradient, states of any size, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import oracle, pytorch_lens
from kernels.lens import lens_nll, lens_project

EXACT = {"rtol": 1e-12, "atol": 1e-12}
"""float64: at most a few hundred terms of size 1, about 1e-15 each."""

CLOSE = 1e-5
"""float32, relative RMS: about a hundred roundings of 6e-8."""


class Case(NamedTuple):
    """Arguments of `lens_nll`; the first three are those of `lens_project`."""

    states: Tensor
    weight: Tensor
    bias: Tensor
    end: Tensor
    factor: Tensor
    mean: Tensor
    precision: Tensor

    def each(self, change: Callable[[Tensor], Tensor]) -> Case:
        return Case(*map(change, self))

    def with_states(self, states: Tensor) -> Case:
        """A new leaf."""
        return self._replace(states=states.detach().clone().requires_grad_())


def case(
    layers: int = 4,
    targets: int = 5,
    width: int = 6,
    dim: int = 3,
    ends: int | None = None,
    *,
    seed: int = 0,
) -> Case:
    """Random float64 inputs; precisions are positive, the second target's last state is zero."""
    rng = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    states = randn(layers, targets, width)
    states[-1, 1:2] = 0
    return Case(
        states=states.requires_grad_(),
        weight=randn(layers, dim, width) / width**0.5,
        bias=randn(layers, dim),
        end=randn(targets, dim) if ends is None else randn(ends, targets, dim),
        factor=randn(layers),
        mean=randn(layers),
        precision=randn(layers).exp(),
    )


def found(operation: Callable[..., Tensor], inputs: Case, *, times: float = 1.0) -> list[Tensor]:
    """The value and the states' gradient of a function that weights each number of it differently."""
    given = inputs[:3] if "project" in operation.__name__ else inputs
    value = operation(*given)
    rng = torch.Generator().manual_seed(7)
    weights = torch.randn(value.shape, generator=rng, dtype=torch.float64) * times
    (grad,) = torch.autograd.grad(value, inputs.states, weights.to(value))
    return [value.detach(), grad]


def relative_rms(value: Tensor, true: Tensor) -> float:
    """0 for a truth of zeros that is met exactly."""
    error = float((value.double() - true.double()).norm())
    return error / float(true.double().norm()) if error else 0.0


PAIRS = [(lens_nll, oracle.lens_nll), (lens_project, oracle.lens_project)]
each_operation = pytest.mark.parametrize(("mine", "true"), PAIRS, ids=["nll", "project"])


@each_operation
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(0, 5), st.integers(1, 6), st.integers(1, 5)),
    ends=st.none() | st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=40)
def test_value_and_gradient_are_the_oracles(
    mine: Any, true: Any, shape: tuple[int, int, int, int], ends: int | None, seed: int
) -> None:
    inputs = case(*shape, ends, seed=seed)
    # A state of one number has rms 1 whatever it is: only its gradient's zero is to be met.
    torch.testing.assert_close(found(mine, inputs), found(true, inputs), rtol=1e-10, atol=1e-10)


@each_operation
@given(
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(8, 40), st.integers(1, 9)),
    ends=st.none() | st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=40)
def test_a_float32_lens_reads_states_of_every_dtype(
    mine: Any,
    true: Any,
    dtype: torch.dtype,
    shape: tuple[int, int, int, int],
    ends: int | None,
    seed: int,
) -> None:
    """The gradient is rounded once to the dtype of the states; what normalising takes out of it may be
    most of it."""
    inputs = case(*shape, ends, seed=seed).each(lambda x: x.detach().float())
    low = inputs.with_states(inputs.states.to(dtype))
    exact = inputs.each(Tensor.double).with_states(low.states.double())
    (value, grad), (true_value, true_grad) = found(mine, low), found(true, exact)
    assert (value.dtype, grad.dtype) == (torch.float32, dtype)
    assert relative_rms(value, true_value) <= CLOSE
    assert relative_rms(grad, true_grad) <= max(5 * CLOSE, 2 * torch.finfo(dtype).eps)


@each_operation
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_lens_of_16_bits_is_computed_in_32_and_rounded_once(
    mine: Any, true: Any, dtype: torch.dtype
) -> None:
    low = case(width=40, ends=2).each(lambda x: x.detach().to(dtype)).with_states(case(width=40).states)
    exact = low.each(Tensor.double).with_states(low.states)
    (value, grad), (true_value, true_grad) = found(mine, low), found(true, exact)
    assert (value.dtype, grad.dtype) == (dtype, torch.float64)
    assert relative_rms(value, true_value) <= torch.finfo(dtype).eps
    assert relative_rms(grad, true_grad) <= torch.finfo(dtype).eps  # the weights in `found` are rounded


@pytest.mark.parametrize("ends", [None, 1, 3])
def test_the_gradient_is_the_derivative(ends: int | None) -> None:
    inputs = case(3, 2, 4, 3, ends)
    states = (inputs.states + 0.1).detach().requires_grad_()  # no zeros: x jumps there
    assert torch.autograd.gradcheck(lambda s: lens_nll(s, *inputs[1:]), states)
    assert torch.autograd.gradcheck(lambda s: lens_project(s, *inputs[1:3]), states)


def test_by_hand() -> None:
    """h = (3, 4): rms 5 / sqrt 2; p = 5 x_1 + 1 = 3 sqrt 2 + 1; cost 4 (2 p - 3 * 2)^2 / 2."""

    def exact(x: Any) -> Tensor:
        return torch.tensor(x, dtype=torch.float64)

    lens = exact([[[3.0, 4.0]]]), exact([[[5.0, 0.0]]]), exact([[1.0]])
    p = 3 * 2**0.5 + 1
    assert lens_project(*lens).item() == pytest.approx(p, rel=1e-14)
    value = lens_nll(*lens, exact([[2.0]]), exact([2.0]), exact([3.0]), exact([4.0]))
    assert value.shape == (1, 1)
    assert value.item() == pytest.approx(2 * (2 * p - 6) ** 2, rel=1e-14)


@pytest.mark.parametrize("backend", [None, "pytorch"])
def test_several_end_points_are_as_many_calls(backend: str | None) -> None:
    inputs = case(ends=3)
    together = lens_nll(*inputs, backend=backend)
    assert together.shape == (3, 4, 5)
    for value, end in zip(together, inputs.end, strict=True):
        torch.testing.assert_close(value, lens_nll(*inputs._replace(end=end), backend=backend), **EXACT)


SIZES = [
    (torch.float32, 1e-40),
    (torch.float32, 1e-30),
    (torch.float32, 1e30),
    (torch.float32, 3e38),
    (torch.bfloat16, 1e-30),
    (torch.bfloat16, 2.2e4),
    (torch.bfloat16, 3e38),
    (torch.float16, 6e-5),
    (torch.float16, 65504.0),
]


@each_operation
@pytest.mark.parametrize("outlier", [False, True], ids=["all", "one"])
@pytest.mark.parametrize(("dtype", "size"), SIZES, ids=str)
def test_tiny_and_massive_states(
    mine: Any, true: Any, dtype: torch.dtype, size: float, outlier: bool
) -> None:
    """All numbers of a state, or one of them beside small ones; the gradient has the size 1 / rms."""
    inputs = case(width=70, ends=2)
    sized = inputs.states.clamp(-1, 1) * size
    states = torch.where(torch.arange(70) == 3, sized, inputs.states / 4) if outlier else sized
    low = inputs.each(lambda x: x.detach().float()).with_states(states.to(dtype))
    exact = low.each(Tensor.double).with_states(low.states.double())
    times = max(min(size, 1), 1e-30)  # so that the gradient can be written in the states' dtype
    value, grad = found(mine, low, times=times)
    true_value, true_grad = found(true, exact, times=times)
    assert grad.isfinite().all()
    assert relative_rms(value, true_value) <= CLOSE
    information = torch.finfo(dtype)
    error = (grad.double() - true_grad).abs()
    bound = max(1e-4, 2 * information.eps) * true_grad.abs().amax(-1, keepdim=True)
    assert (error <= bound + information.smallest_normal * information.eps).all()


def test_the_size_of_a_state_does_not_matter() -> None:
    inputs = case().each(lambda x: x.detach().float())
    expected = lens_project(*inputs[:3])
    for power in (-90, -30, 30, 90):
        scaled = inputs.states * 2.0**power
        torch.testing.assert_close(lens_project(scaled, *inputs[1:3]), expected, rtol=1e-6, atol=1e-6)


def test_a_state_of_zeros_is_read_as_the_bias_and_has_no_gradient() -> None:
    inputs = case()
    latent, grad = found(lens_project, inputs)
    assert torch.equal(latent[-1, 1], inputs.bias[-1])
    assert (grad[-1, 1] == 0).all()
    assert (grad[-1, 0] != 0).all()


def test_a_state_that_is_not_finite_shows() -> None:
    for wrong in (float("nan"), float("inf")):
        states = case().states.detach().clone()
        states[0, 0, 0] = wrong
        value = lens_nll(*case()._replace(states=states))
        assert value[0, 0].isnan()
        assert value[0, 1:].isfinite().all()


@each_operation
@pytest.mark.parametrize("layers", [1, 3, 4, 7, 100])
def test_however_many_layers_are_read_at_once(
    mine: Any, true: Any, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = case(layers=7)
    monkeypatch.setattr(pytorch_lens, "CACHE", layers * 5 * 6 * 8)
    assert (
        max(part.stop - part.start for part in pytorch_lens._parts(inputs.states, torch.float64))
        == layers
    )
    torch.testing.assert_close(found(mine, inputs), found(true, inputs), rtol=1e-10, atol=1e-10)


@each_operation
def test_inputs_may_be_non_contiguous(mine: Any, true: Any) -> None:
    inputs = case(ends=2)

    def strided(x: Tensor) -> Tensor:
        """The same numbers with the dimensions in reverse order in memory, vectors with holes."""
        order = tuple(reversed(range(x.dim())))
        turned = x.detach().permute(order).contiguous().permute(order)
        return torch.stack([turned, turned], 1)[:, 0] if x.dim() == 1 else turned

    other = inputs.each(strided)
    assert not any(x.is_contiguous() for x in other)
    other.states.requires_grad_()
    torch.testing.assert_close(found(mine, other), found(true, inputs), **EXACT)


def test_without_targets_there_is_nothing() -> None:
    inputs = case(targets=0)
    assert lens_nll(*inputs).shape == (4, 0)
    assert lens_nll(*case(targets=0, ends=3)).shape == (3, 4, 0)
    assert lens_project(*inputs[:3]).shape == (4, 0, 3)
    (grad,) = torch.autograd.grad(lens_nll(*inputs).sum(), inputs.states)
    assert grad.shape == inputs.states.shape


@each_operation
def test_autocast_around_it_changes_nothing(mine: Any, true: Any) -> None:
    """Neither around the value nor around the gradient."""
    inputs = case(width=16).each(lambda x: x.detach().float())
    inputs = inputs.with_states(inputs.states)
    outside = found(mine, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = found(mine, inputs)
    assert all(torch.equal(x, y) for x, y in zip(inside, outside, strict=True))


def test_without_gradients_a_trained_input_is_read_as_it_is() -> None:
    inputs = case()
    expected = lens_nll(*inputs)
    with torch.no_grad():
        value = lens_nll(*inputs.each(lambda x: x.detach().requires_grad_()))
    assert not value.requires_grad
    assert torch.equal(value, expected)


@pytest.mark.parametrize("name", Case._fields[1:])
def test_a_gradient_of_anything_but_the_states_is_refused(name: str) -> None:
    inputs = case()
    asked = inputs._replace(**{name: getattr(inputs, name).clone().requires_grad_()})
    with pytest.raises(ValueError, match=f"^{name} requires a gradient, .* states alone: detach it"):
        lens_nll(*asked)
    if name in ("weight", "bias"):
        with pytest.raises(ValueError, match=rf"^{name} requires a gradient"):
            lens_project(*asked[:3])
    else:
        with pytest.raises(ValueError, match="write the cost in PyTorch on the latents of lens_project"):
            lens_nll(*asked)


@each_operation
def test_a_second_derivative_is_refused_not_wrong(mine: Any, true: Any) -> None:
    inputs = case()
    value = mine(*(inputs[:3] if mine is lens_project else inputs)).sum()
    (grad,) = torch.autograd.grad(value, inputs.states, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_no_uninitialised_memory_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [case(ends=2), case(targets=0)]
    expected = [found(op, c) for op, _ in PAIRS for c in cases]

    def poisoned(original: Any) -> Any:
        def make(*args: Any, **kwargs: Any) -> Tensor:
            made: Tensor = original(*args, **kwargs)
            return made.fill_(float("nan")) if made.is_floating_point() else made

        return make

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    monkeypatch.setattr(Tensor, "new_empty", poisoned(Tensor.new_empty))
    assert torch.zeros(1).new_empty(3).isnan().all()
    torch.testing.assert_close([found(op, c) for op, _ in PAIRS for c in cases], expected, **EXACT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"states": torch.zeros(4, 5)},
            r"states is .*float32 \(4, 5\): expected floats \[L, N, H\]",
        ),
        ({"states": torch.zeros(4, 5, 6).long()}, r"states is torch.int64 .* expected floats"),
        (
            {"weight": torch.zeros(3, 6)},
            r"weight is torch.float32 \(3, 6\): expected floats \[4, d, 6\] for states \(4, 5, 6\)",
        ),
        ({"weight": torch.zeros(4, 6, 3)}, r"weight .*\(4, 6, 3\): expected floats \[4, d, 6\]"),
        ({"weight": torch.zeros(3, 3, 6)}, r"weight .*\(3, 3, 6\): expected floats \[4, d, 6\]"),
        ({"weight": torch.zeros(4, 3, 6).long()}, r"weight is torch.int64"),
        ({"bias": torch.zeros(3)}, r"bias \(3,\): expected \(4, 3\), \[L, d\]"),
        ({"bias": torch.zeros(4, 2)}, r"bias \(4, 2\): expected \(4, 3\)"),
        ({"end": torch.zeros(4, 3)}, r"end \(4, 3\): expected \(5, 3\), \[N, d\], or \[K, N, d\]"),
        ({"end": torch.zeros(2, 5, 2)}, r"end \(2, 5, 2\): expected \(5, 3\)"),
        ({"factor": torch.zeros(3)}, r"factor \(3,\): expected \(4,\), one per layer"),
        ({"mean": torch.zeros(1)}, r"mean \(1,\): expected \(4,\), one per layer"),
        ({"precision": torch.zeros(())}, r"precision \(\): expected \(4,\), one per layer"),
        (
            {"bias": torch.zeros(4, 3, device="meta")},
            r"bias is on meta, states on cpu: expected all",
        ),
        ({"end": torch.zeros(5, 3, device="meta")}, r"end is on meta, states on cpu"),
        ({"mean": torch.zeros(4, device="meta")}, r"mean is on meta, states on cpu"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lens_nll(*case()._replace(**changes))
