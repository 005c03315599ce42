"""The lens on Triton against the float64 oracle: on a GPU, or else in the interpreter.

See `test_triton_kernels` for what the interpreter knows. The file needs no more than torch, triton and
pytest.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import triton
from torch import Tensor

from kernels import lens, oracle
from kernels.gpu import launch as triton_launch

pytestmark = pytest.mark.slow

INTERPRETED = bool(triton.knobs.runtime.interpret)
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
if DEVICE == "cpu" and not INTERPRETED:
    pytest.skip("needs a CUDA device or TRITON_INTERPRET=1", allow_module_level=True)

BOUND = {torch.float32: 2e-5, torch.float16: 4 * 2.0**-11, torch.bfloat16: 4 * 2.0**-8}
"""Relative RMS of a result or a gradient, by the coarser dtype of lens and states: as in
`test_triton_kernels`, and twice that in float32, for what normalising takes out of the gradient."""

lens_nll = partial(lens.lens_nll, backend="triton")
lens_project = partial(lens.lens_project, backend="triton")


class Case(NamedTuple):
    """Arguments of `lens_nll`."""

    states: Tensor
    weight: Tensor
    bias: Tensor
    end: Tensor
    factor: Tensor
    mean: Tensor
    precision: Tensor

    def exact(self) -> Case:
        """In float64, the states a new leaf."""
        states = self.states.detach().double().requires_grad_()
        return Case(states, *(x.double() for x in self[1:]))


def case(
    layers: int = 4,
    targets: int = 5,
    width: int = 20,
    dim: int = 6,
    ends: int | None = 2,
    *,
    states: torch.dtype = torch.float32,
    dtype: torch.dtype = torch.float32,
    size: float = 1.0,
) -> Case:
    """Random inputs; precisions are positive, the second target's last state is zero."""
    rng = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    hidden = randn(layers, targets, width).clamp(-1, 1) * size
    hidden[-1, 1:2] = 0
    rest = (
        randn(layers, dim, width) / width**0.5,
        randn(layers, dim),
        randn(targets, dim) if ends is None else randn(ends, targets, dim),
        randn(layers),
        randn(layers),
        randn(layers).exp(),
    )
    leaf = hidden.to(DEVICE, states).requires_grad_()
    return Case(leaf, *(x.to(DEVICE, dtype) for x in rest))


def found(operation: Callable[..., Tensor], inputs: Case, count: int, times: float) -> list[Tensor]:
    """The value and the states' gradient of a function that weights each number of it differently."""
    value = operation(*inputs[:count])
    rng = torch.Generator().manual_seed(7)
    weights = (torch.randn(value.shape, generator=rng) * times).to(DEVICE, inputs.weight.dtype)
    return [value.detach(), *torch.autograd.grad(value, inputs.states, weights)]


def relative_rms(value: Tensor, true: Tensor) -> float:
    """0 for a truth of zeros that is met exactly."""
    error = float((value.double() - true).norm())
    return error / float(true.norm()) if error else 0.0


def check(inputs: Case, times: float = 1.0) -> None:
    """Both operations; the truth's outer gradient is rounded as ours is."""
    bound = max(BOUND[inputs.states.dtype], BOUND[inputs.weight.dtype])
    exact = inputs.exact()
    for mine, true, count in ((lens_nll, oracle.lens_nll, 7), (lens_project, oracle.lens_project, 3)):
        value, grad = found(mine, inputs, count, times)
        true_value, true_grad = found(true, exact, count, times)
        assert (value.dtype, grad.dtype) == (inputs.weight.dtype, inputs.states.dtype)
        assert value.isfinite().all()
        assert grad.isfinite().all()
        assert relative_rms(value, true_value) <= bound
        assert relative_rms(grad, true_grad) <= bound


SHAPES: dict[str, tuple[Any, ...]] = {
    "odd": (4, 7, 19, 5, 3),
    "even": (3, 6, 64, 32, 1),
    "one of each but the width": (1, 1, 8, 1, None),
    "more than a tile": (2, 21, 270, 35, 2),
    "many layers": (13, 3, 9, 5, 2),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_are_the_oracles(shape: tuple[Any, ...]) -> None:
    check(case(*shape))


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("states", BOUND, ids=str)
def test_states_and_lens_in_any_dtypes(states: torch.dtype, dtype: torch.dtype) -> None:
    check(case(3, 7, 70, 35, states=states, dtype=dtype))


@pytest.mark.parametrize("seed", range(8))
def test_any_shape(seed: int) -> None:
    rng = random.Random(seed)
    shape = rng.randint(1, 4), rng.randint(1, 40), rng.randint(8, 80), rng.randint(1, 40)
    check(case(*shape, rng.choice([None, 1, 2, 5])))


@pytest.mark.parametrize("programs", [1, 10**6])
def test_the_largest_and_the_smallest_tile(monkeypatch: pytest.MonkeyPatch, programs: int) -> None:
    monkeypatch.setattr(triton_launch, "PROGRAMS", programs)
    assert triton_launch.tile(66, 70) == triton_launch.TILES[0 if programs == 1 else -1]
    check(case(2, 66, 70, 67))


def test_a_tile_is_of_one_layer() -> None:
    """Many matrices of few rows take the smallest tile only where there are too few of them."""
    assert triton_launch.tile(32, 128, products=25) == (16, 32)
    assert triton_launch.tile(32, 128, products=64) == (64, 64)
    assert triton_launch.tile(32, 128) == triton_launch.tile(32, 128, products=1)


@pytest.mark.parametrize(
    ("states", "size"),
    [
        (torch.float32, 1e-40),
        (torch.float32, 1e-30),
        (torch.float32, 1e30),
        (torch.float32, 3e38),
        (torch.bfloat16, 2.2e4),
        (torch.float16, 65504.0),
    ],
    ids=str,
)
def test_tiny_and_massive_states(states: torch.dtype, size: float) -> None:
    outer = 1e4 if states == torch.float16 else max(min(size, 1), 1e-30)
    check(case(states=states, size=size), times=outer)


def test_a_state_of_zeros_is_read_as_the_bias_and_has_no_gradient() -> None:
    inputs = case()
    latent, grad = found(lens_project, inputs, 3, 1.0)
    assert torch.equal(latent[-1, 1], inputs.bias[-1])
    assert (grad[-1, 1] == 0).all()


def test_without_targets_there_is_nothing() -> None:
    inputs = case(targets=0)
    assert lens_nll(*inputs).shape == (2, 4, 0)
    assert lens_project(*inputs[:3]).shape == (4, 0, 6)
    (grad,) = torch.autograd.grad(lens_nll(*inputs).sum(), inputs.states)
    assert grad.shape == (4, 0, 20)


def test_the_pytorch_path_gives_the_same() -> None:
    inputs = case(ends=3)
    for name, count in (("lens_nll", 7), ("lens_project", 3)):
        operation = getattr(lens, name)
        mine, theirs = (
            found(partial(operation, backend=b), inputs, count, 1.0) for b in ("triton", "pytorch")
        )
        assert all(relative_rms(x, y.double()) <= 2e-5 for x, y in zip(mine, theirs, strict=True))


def test_inputs_may_be_non_contiguous() -> None:
    inputs = case(targets=6)

    def strided(x: Tensor) -> Tensor:
        """The same numbers with the dimensions in reverse order in memory, vectors with holes."""
        order = tuple(reversed(range(x.dim())))
        turned = x.detach().permute(order).contiguous().permute(order)
        return torch.stack([turned, turned], 1)[:, 0] if x.dim() == 1 else turned

    other = Case(*map(strided, inputs))
    assert not any(x.is_contiguous() for x in other)
    other.states.requires_grad_()
    mine, theirs = found(lens_nll, other, 7, 1.0), found(lens_nll, inputs, 7, 1.0)
    assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


def test_without_a_gradient_no_latents_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []
    original = triton_launch.launch

    def launch(kernel: Any, grid: tuple[int, int, int], /, **arguments: Any) -> None:
        launched.append((kernel.fn.__name__, arguments.get("LATENT")))
        original(kernel, grid, **arguments)

    monkeypatch.setattr(triton_launch, "launch", launch)
    inputs = case()
    with torch.no_grad():
        value = lens_nll(*inputs)
    assert launched == [("row_scale_kernel", None), ("lens_kernel", False)]
    torch.testing.assert_close(value, lens_nll(*inputs), rtol=1e-6, atol=0)  # another compilation
    assert launched[2:] == [("row_scale_kernel", None), ("lens_kernel", True)]


def test_two_runs_are_equal_and_no_uninitialised_memory_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    def everything() -> list[Tensor]:
        cases = case(), case(targets=0), case(2, 37, 70, 9)
        both = [(lens_nll, 7), (lens_project, 3)]
        return [x for c in cases for op, count in both for x in found(op, c, count, 1.0)]

    expected = everything()

    def poisoned(original: Any) -> Any:
        def make(*args: Any, **kwargs: Any) -> Tensor:
            made: Tensor = original(*args, **kwargs)
            return made.fill_(float("nan")) if made.is_floating_point() else made

        return make

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    monkeypatch.setattr(Tensor, "new_empty", poisoned(Tensor.new_empty))
    assert torch.zeros(1).new_empty(3).isnan().all()
    for mine, before in zip(everything(), expected, strict=True):
        assert torch.equal(mine, before)


def test_a_second_derivative_is_refused_not_wrong() -> None:
    inputs = case()
    (grad,) = torch.autograd.grad(lens_nll(*inputs).sum(), inputs.states, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
