"""The Triton path of both operations against the float64 oracle: on a GPU, or else in the interpreter.

The interpreter runs the same kernel source on the CPU when TRITON_INTERPRET=1 is set before the import.
It knows neither the precision of tensor cores nor hints of alignment: `test_triton_aot` looks at those.
The file needs no more than torch, triton and pytest, so that it runs on any machine with a GPU.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from kernels import bridge_nll as operations
from kernels import deferred, oracle
from kernels.gpu import launch as triton_launch
from kernels.gpu import pooling
from kernels.gpu.linear import linear, linear_backward, weight_gradient
from kernels.gpu.pooling import pool_trajectory, target_states
from kernels.lens import lens_nll, lens_project
from kernels.pooling import pool_trajectory as pool_public

pytestmark = pytest.mark.slow

INTERPRETED = bool(triton.knobs.runtime.interpret)
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
if DEVICE == "cpu" and not INTERPRETED:
    pytest.skip("needs a CUDA device or TRITON_INTERPRET=1", allow_module_level=True)

BOUND = {torch.float32: 1e-5, torch.float16: 4 * 2.0**-11, torch.bfloat16: 4 * 2.0**-8}
"""Relative RMS of an output or a gradient. float32: three TF32 products lose two or three of 24 bits.
16 bit: four units, for the rounding of the result, of the activations and of the gradients between the
layers (the interpreter truncates to bfloat16, which is two units for one)."""


bridge_nll = partial(operations.bridge_nll, backend="triton")


def relative_rms(value: Tensor, true: Tensor) -> float:
    """0 for a truth of zeros that is met exactly."""
    error = (value.double() - true).square().mean().sqrt()
    return float(error / true.square().mean().sqrt()) if error else 0.0


class Case(NamedTuple):
    """Arguments of `bridge_nll`."""

    states: Tensor
    context: Tensor
    rows: Tensor
    weights: list[Tensor]
    biases: list[Tensor]
    end: Tensor
    carry: Tensor | None
    mean: Tensor
    precision: Tensor

    def each(self, change: Callable[[Tensor], Tensor]) -> Case:
        """The floats changed, every one a new leaf that wants a gradient."""

        def apply(value: Any) -> Any:
            if isinstance(value, list):
                return [apply(v) for v in value]
            if value is None or not value.is_floating_point():
                return value
            return change(value.detach()).requires_grad_()

        return Case(*map(apply, self))

    def floats(self) -> list[Tensor]:
        laws = [x for x in (self.end, self.carry, self.mean, self.precision) if x is not None]
        return [self.states, self.context, *self.weights, *self.biases, *laws]


def case(
    layers: int = 4,
    targets: int = 5,
    batch: int = 3,
    width: int = 4,
    sizes: Sequence[int] = (6, 5, 3),
    *,
    carry: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Case:
    """Random inputs of the cost; the precisions are positive."""
    rng = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    made = Case(
        states=randn(layers, targets, width),
        context=randn(layers, batch, width),
        rows=torch.randint(batch, (targets,), generator=rng).to(DEVICE),
        weights=[randn(b, a) / a**0.5 for a, b in pairwise((2 * width, *sizes))],
        biases=[randn(b) for b in sizes],
        end=randn(targets, sizes[-1]),
        carry=randn(layers) if carry else None,
        mean=randn(layers),
        precision=randn(layers).exp(),
    )
    return made.each(lambda x: x.to(DEVICE, dtype))


def value_and_gradients(operation: Callable[..., Tensor], inputs: Case) -> list[Tensor]:
    value = operation(*inputs)
    return [value.detach(), *torch.autograd.grad(value, inputs.floats(), materialize_grads=True)]


def truth(*inputs: Any, **options: Any) -> Tensor:
    """The oracle, for which no carry is a carry of zero."""
    exact = Case(*inputs)
    carry = torch.zeros_like(exact.mean) if exact.carry is None else exact.carry
    return oracle.bridge_nll(*exact._replace(carry=carry), **options)


def check_cost(inputs: Case) -> None:
    dtype = inputs.states.dtype
    mine = value_and_gradients(bridge_nll, inputs)
    true = value_and_gradients(truth, inputs.each(Tensor.double))
    assert {x.dtype for x in mine} == {dtype}
    errors = [relative_rms(x, y) for x, y in zip(mine, true, strict=True)]
    assert max(errors) <= BOUND[dtype], errors


SHAPES: dict[str, tuple[Any, ...]] = {
    "three layers": (4, 7, 3, 19, (40, 33, 5)),
    "two layers": (3, 6, 2, 16, (32, 16)),
    "one layer": (4, 5, 3, 17, (35,)),
    "four layers": (2, 3, 2, 3, (6, 5, 4, 3)),
    "one of everything": (1, 1, 1, 1, (1,)),
    "one target": (5, 1, 2, 8, (16, 17)),
    "one state": (1, 9, 4, 6, (7, 3)),
    "many rows": (13, 25, 3, 4, (5, 3)),
}


@pytest.mark.parametrize("carry", [False, True])
@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_cost_and_every_gradient_are_the_oracles(
    shape: tuple[Any, ...], dtype: torch.dtype, carry: bool
) -> None:
    check_cost(case(*shape, carry=carry, dtype=dtype))


@pytest.mark.parametrize("seed", range(8))
def test_any_shape(seed: int) -> None:
    rng = random.Random(seed)
    shape = rng.randint(1, 4), rng.randint(1, 40), rng.randint(1, 3), rng.randint(1, 40)
    sizes = [rng.randint(1, 40) for _ in range(rng.randint(1, 4))]
    check_cost(case(*shape, sizes, carry=rng.random() < 0.5))


@pytest.mark.parametrize("programs", [1, 10**6])
@pytest.mark.parametrize("carry", [False, True])
def test_the_largest_and_the_smallest_tile(
    monkeypatch: pytest.MonkeyPatch, programs: int, carry: bool
) -> None:
    monkeypatch.setattr(triton_launch, "PROGRAMS", programs)
    assert triton_launch.tile(66, 70) == triton_launch.TILES[0 if programs == 1 else -1]
    check_cost(case(layers=2, targets=33, width=34, sizes=(66, 70), carry=carry))


@pytest.mark.parametrize("carry", [False, True])
def test_without_targets_the_cost_and_every_gradient_are_zero(carry: bool) -> None:
    for value in value_and_gradients(bridge_nll, case(targets=0, carry=carry)):
        assert (value == 0).all()


@pytest.mark.parametrize("carry", [False, True])
def test_the_pytorch_path_gives_the_same(carry: bool) -> None:
    inputs = case(carry=carry)
    pairs = zip(
        value_and_gradients(bridge_nll, inputs),
        value_and_gradients(partial(bridge_nll, backend="pytorch"), inputs),
        strict=True,
    )
    assert max(relative_rms(mine, theirs.double()) for mine, theirs in pairs) <= 1e-5


@pytest.mark.parametrize("carry", [False, True])
def test_each_token_and_several_end_points_of_it(carry: bool) -> None:
    """Unreduced costs [K, N] and the gradients of a function that weights each of them differently."""
    inputs = case(carry=carry, width=9, sizes=(17, 6))
    ends = torch.stack([inputs.end.detach(), -inputs.end.detach(), 0.5 * inputs.end.detach()])
    several = inputs._replace(end=ends.requires_grad_())

    def squared(operation: Callable[..., Tensor], *inputs: Any) -> Tensor:
        values = operation(*inputs, reduction="none")
        assert values.shape == (3, 5)
        return values.square().sum()

    mine = value_and_gradients(partial(squared, bridge_nll), several)
    true = value_and_gradients(partial(squared, truth), several.each(Tensor.double))
    assert max(relative_rms(x, y) for x, y in zip(mine, true, strict=True)) <= BOUND[torch.float32]


def test_the_first_carry_multiplies_the_zero_start() -> None:
    inputs = case(carry=True)
    assert inputs.carry is not None
    only_first = inputs.carry.detach() * torch.eye(4, device=DEVICE)[0] * 1e9
    for mine, theirs in zip(
        value_and_gradients(bridge_nll, inputs._replace(carry=only_first.requires_grad_()))[:2],
        value_and_gradients(bridge_nll, inputs._replace(carry=None))[:2],
        strict=True,
    ):
        assert relative_rms(mine, theirs.double()) <= 1e-6


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, in the interpreter
@pytest.mark.skipif(not INTERPRETED, reason="three TF32 products make nan of inf")
def test_what_overflows_is_infinite_and_not_undefined() -> None:
    inputs = case(sizes=(3,)).each(lambda x: x.abs() + 1)
    value = bridge_nll(*inputs._replace(states=inputs.states.detach() * float("inf")))
    assert value == float("inf")


def test_inputs_of_the_cost_may_be_non_contiguous() -> None:
    inputs = case(layers=3, targets=6, width=17, sizes=(9, 8), carry=True)

    def strided(x: Tensor) -> Tensor:
        """The same numbers with the dimensions in reverse order in memory, vectors with holes."""
        order = tuple(reversed(range(x.dim())))
        turned = x.permute(order).contiguous().permute(order)
        return torch.stack([turned, turned], 1)[:, 0] if x.dim() == 1 else turned

    other = inputs.each(strided)
    assert not any(x.is_contiguous() for x in (other.states, *other.weights, *other.biases))
    for mine, theirs in zip(
        value_and_gradients(bridge_nll, other), value_and_gradients(bridge_nll, inputs), strict=True
    ):
        assert relative_rms(mine, theirs.double()) <= 1e-6


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments of the kernels launched since, in order."""
    found: list[tuple[str, dict[str, Any]]] = []
    original = triton_launch.launch

    def launch(kernel: Any, grid: tuple[int, int, int], /, **arguments: Any) -> None:
        found.append((kernel.fn.__name__.removesuffix("_kernel"), arguments))
        original(kernel, grid, **arguments)

    monkeypatch.setattr(triton_launch, "launch", launch)
    return found


def test_only_what_is_asked_for_is_computed(launched: list[tuple[str, dict[str, Any]]]) -> None:
    inputs = case(carry=True)
    everything = value_and_gradients(bridge_nll, inputs)
    floats = inputs.floats()
    forward = ["linear", "linear", "linear", "likelihood"]
    counts = {}
    for i, wanted in enumerate(floats):
        for x in floats:
            x.requires_grad_(x is wanted)
        launched.clear()
        value = bridge_nll(*inputs)
        assert [name for name, _ in launched] == forward
        (grad,) = torch.autograd.grad(value, [wanted])
        assert torch.equal(grad, everything[1 + i])
        counts[i] = [name for name, _ in launched[len(forward) :]]
    back = "linear_backward"
    latent = "latent_gradient"
    assert counts[0] == [latent, back, back, back]  # states
    assert counts[1] == [latent, back, back, "segment_sum", back]  # context
    assert counts[2] == [latent, back, back, "segment_sum", "weight_gradient", "weight_gradient"]
    assert counts[4] == [latent, "weight_gradient"]  # the last weight
    assert counts[7] == [latent]  # the last bias
    assert counts[8] == counts[9] == counts[10] == counts[11] == []  # end, carry, mean, precision


def test_without_gradients_nothing_is_kept(launched: list[tuple[str, dict[str, Any]]]) -> None:
    inputs = case()
    with torch.no_grad():
        value = bridge_nll(*inputs)
    assert not value.requires_grad
    assert [c["KEEP"] for name, c in launched if name == "likelihood"] == [False]
    torch.testing.assert_close(value, bridge_nll(*inputs), rtol=1e-6, atol=0)  # another compilation
    assert [c["KEEP"] for name, c in launched if name == "likelihood"] == [False, True]
    laws = inputs._replace(states=inputs.states.detach(), mean=inputs.mean.detach())
    for learned, some in ((False, laws), (True, inputs)):
        launched.clear()
        for x in some.floats():
            x.requires_grad_(learned and x is some.mean)
        some.states.requires_grad_()
        bridge_nll(*some)
        assert [c["SUMS"] for name, c in launched if name == "likelihood"] == [learned]


@pytest.mark.parametrize("several", [False, True])
def test_many_rows_of_a_float32_map_are_left_to_products_of_torch(
    monkeypatch: pytest.MonkeyPatch, launched: list[tuple[str, dict[str, Any]]], several: bool
) -> None:
    """On either side of the limit, to the same values and gradients."""
    monkeypatch.setattr(triton_launch, "MANY", 28)
    inputs = case(targets=7, carry=True, width=9, sizes=(17, 6))
    end = inputs.end.detach()
    ends = torch.stack([end, -end]) if several else end
    inputs = inputs._replace(end=ends.requires_grad_())
    weighs = partial(bridge_nll, reduction="none")

    def both(operation: Callable[..., Tensor], *given: Any) -> Tensor:
        return operation(*given).square().sum()

    mine = value_and_gradients(partial(both, weighs), inputs)
    assert not launched
    monkeypatch.setattr(triton_launch, "MANY", 29)
    fused = value_and_gradients(partial(both, weighs), inputs)
    assert launched
    true = value_and_gradients(
        partial(both, partial(truth, reduction="none")), inputs.each(Tensor.double)
    )
    for found in (mine, fused):
        pairs = zip(found, true, strict=True)
        assert max(relative_rms(x, y) for x, y in pairs) <= BOUND[torch.float32]
    for other in (case(targets=12, dtype=torch.bfloat16), case(targets=12)):
        launched.clear()
        value_and_gradients(partial(bridge_nll, source=torch.bfloat16), other)
        assert launched  # a map in 16 bits, and one of what was read in 16 bits


@pytest.mark.parametrize("activation", ["none", "gelu", "silu"])
def test_every_activation_and_its_slope(activation: str) -> None:
    functions = {"none": lambda x: x, "gelu": F.gelu, "silu": F.silu}
    rng = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(2, 9, 20, generator=rng, dtype=torch.float64)
    weight, bias = torch.randn(7, 20, generator=rng).double(), torch.randn(7, generator=rng).double()
    grad = torch.randn(2, 9, 7, generator=rng).double()
    x.requires_grad_()
    weight.requires_grad_()
    true = F.linear(functions[activation](x), weight, bias)
    true_grads = torch.autograd.grad(true, [x, weight], grad)
    x, weight, bias, grad = (t.detach().to(DEVICE, torch.float32) for t in (x, weight, bias, grad))
    mine = linear(x, weight, bias, activation)
    found = torch.empty_like(weight)
    weight_gradient(grad, x, found, activation)
    mine_grad = linear_backward(grad, weight, x, activation)
    for value, expected in zip((mine, mine_grad, found), (true, *true_grads), strict=True):
        assert relative_rms(value.cpu(), expected.detach()) <= 1e-6


Pooled = tuple[list[Tensor], Tensor, Tensor, Tensor]


def pooled(
    layers: int, batch: int, length: int, width: int, targets: int, dtype: torch.dtype = torch.float32
) -> Pooled:
    """Random leaves, mask, rows and columns; the last sequence's mask is empty."""
    rng = torch.Generator().manual_seed(0)
    hidden = [torch.randn(batch, length, width, generator=rng) for _ in range(layers)]
    mask = torch.rand(batch, length, generator=rng) < 0.6
    mask[-1] = False
    rows = torch.randint(batch, (targets,), generator=rng)
    columns = torch.randint(length, (targets,), generator=rng)
    leaves = [h.to(DEVICE, dtype).requires_grad_() for h in hidden]
    return leaves, mask.to(DEVICE), rows.to(DEVICE), columns.to(DEVICE)


def outputs_and_gradients(operation: Any, hidden: Sequence[Tensor], *where: Tensor) -> list[Tensor]:
    """Gradients of a fixed random functional of both outputs, for the layers that need one."""
    outputs = operation(hidden, *where)
    rng = torch.Generator().manual_seed(7)
    terms = [(x * torch.randn(x.shape, generator=rng).to(x)).sum() for x in outputs]
    wanted = [h for h in hidden if h.requires_grad]
    value = sum(terms) + 0 * sum(h.sum() for h in wanted)  # zero where nothing was read
    return [*(x.detach() for x in outputs), *torch.autograd.grad(value, wanted)]


def check_pooling(hidden: Sequence[Tensor], *where: Tensor, in_order: bool = False) -> None:
    dtype = hidden[0].dtype
    mine = partial(pool_trajectory, in_order=in_order)
    states, context, *grads = outputs_and_gradients(mine, hidden, *where)
    exact = [h.detach().double().requires_grad_(h.requires_grad) for h in hidden]
    true_states, *true = outputs_and_gradients(oracle.pool_trajectory, exact, *where)
    assert states.dtype == context.dtype == torch.float32
    assert {g.dtype for g in grads} <= {dtype}
    assert torch.equal(states.double(), true_states)
    assert relative_rms(context, true[0]) <= 1e-6  # sums in float32, for every dtype
    assert max(map(relative_rms, grads, true[1:]), default=0.0) <= BOUND[dtype]


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("context", [True, False])
def test_gradients_that_wait_for_the_models_are_the_oracles(
    context: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of states that a model computed; what arrives there beside the cost's is 1."""
    monkeypatch.setattr(deferred, "LEAST_BYTES", 1)
    monkeypatch.setattr(deferred, "MOST_TARGETS", 1)
    hidden, mask, *_ = pooled(3, 3, 17, 20, 0, dtype=dtype)
    rng = torch.Generator().manual_seed(2)
    where = mask, *(torch.rand(mask.shape, generator=rng) < 0.3).nonzero().T.to(DEVICE)
    computed, exact = [2 * h for h in hidden], [2 * h.detach().double() for h in hidden]
    exact = [h.requires_grad_() for h in exact]
    mine = pool_public(computed, *where, context=context, in_order=True, backend="triton")
    values = []
    for states, mean in (mine, oracle.pool_trajectory(exact, *where)):
        value = states.double().square().sum()
        values.append(value + mean.double().square().sum() if context and mean is not None else value)
    (values[0] + torch.stack([h.double().sum() for h in computed]).sum()).backward()
    true = torch.autograd.grad(values[1], exact)
    for leaf, grad in zip(hidden, true, strict=True):
        assert leaf.grad is not None
        assert relative_rms(leaf.grad, 2 * (1 + grad)) <= BOUND[dtype]


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize(
    "shape",
    [(3, 3, 37, 21, 6), (2, 2, 16, 128, 40), (1, 1, 1, 1, 1), (4, 2, 5, 130, 0), (2, 4, 33, 8, 1)],
    ids=str,
)
def test_pooling_and_every_gradient_are_the_oracles(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check_pooling(*pooled(*shape, dtype=dtype))


@pytest.mark.parametrize("seed", range(8))
def test_pooling_of_any_shape(seed: int) -> None:
    rng = random.Random(seed)
    check_pooling(*pooled(*(rng.randint(1, n) for n in (4, 4, 40, 140)), rng.randint(0, 40)))


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.4, 1.0])
@pytest.mark.parametrize(
    "shape", [(2, 3, 70, 20), (3, 2, 32, 128), (1, 1, 1, 1), (2, 5, 33, 130)], ids=str
)
def test_targets_in_order_are_found_without_sorting(
    shape: tuple[int, int, int, int],
    share: float,
    dtype: torch.dtype,
    launched: list[tuple[str, dict[str, Any]]],
) -> None:
    """None, few, many and all positions; what `nonzero` gives is strided."""
    hidden, mask, *_ = pooled(*shape, 0, dtype=dtype)
    chosen = torch.rand(mask.shape, generator=torch.Generator().manual_seed(2)) < share
    rows, columns = chosen.to(DEVICE).nonzero().T
    check_pooling(hidden, mask, rows, columns, in_order=True)
    assert [c["IN_ORDER"] for name, c in launched if name == "pool_backward"] == [True]
    found = []
    for in_order in (True, False):
        states = target_states(hidden, rows, columns, in_order=in_order)
        found.append(torch.autograd.grad(states.sin().sum(), hidden))
    for said, unsaid in zip(*found, strict=True):
        assert torch.equal(said, unsaid)


def test_no_sort_runs_where_the_targets_are_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("sorted")

    monkeypatch.setattr(torch, "sort", refuse)
    hidden, mask, *_ = pooled(2, 3, 9, 20, 0)
    rows, columns = mask.nonzero().T
    check_pooling(hidden, mask, rows, columns, in_order=True)
    with pytest.raises(AssertionError, match="sorted"):
        check_pooling(hidden, mask, rows, columns)


def test_many_repeated_targets_out_of_order_are_the_oracles() -> None:
    """About a dozen a position, across the blocks of positions; the sums are the same in every run."""
    hidden, mask, *_ = pooled(2, 3, 70, 20, 0)
    rng = torch.Generator().manual_seed(3)
    rows = torch.randint(3, (300,), generator=rng).to(DEVICE)
    columns = (torch.randint(9, (300,), generator=rng) * 8).clamp(max=69).to(DEVICE)
    check_pooling(hidden, mask, rows, columns)
    first, second = (outputs_and_gradients(pool_trajectory, hidden, mask, rows, columns) for _ in "12")
    for mine, again in zip(first, second, strict=True):
        assert torch.equal(mine, again)


def test_a_table_of_the_same_addresses_is_sent_once_and_few_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: dict[tuple[object, ...], Tensor] = {}
    monkeypatch.setattr(pooling, "_tables", kept)
    monkeypatch.setattr(pooling, "_MOST", 3)
    device = torch.device(DEVICE)
    first = pooling._to_device([16, 2, 1], device)
    assert first.tolist() == [16, 2, 1]
    assert pooling._to_device([16, 2, 1], device) is first
    for number in range(7):
        assert pooling._to_device([number, 5], device).tolist() == [number, 5]
        assert len(kept) <= 3
    assert pooling._to_device([16, 2, 1], device).tolist() == [16, 2, 1]


def test_states_that_lie_where_others_lay_are_read_anew() -> None:
    hidden, *where = pooled(2, 3, 9, 20, 4)
    first = pool_trajectory(hidden, *where)
    with torch.no_grad():
        for h in hidden:
            h.mul_(2)
    again = pool_trajectory(hidden, *where)
    for mine, before in zip(again, first, strict=True):
        assert torch.equal(mine, 2 * before)
    check_pooling(hidden, *where)


@pytest.mark.parametrize("way", ["forward", "backward"])
def test_capture_in_a_cuda_graph_is_refused(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, *where = pooled(2, 3, 9, 20, 4)

    def capturing() -> bool:
        return True

    states = pool_trajectory(hidden, *where)[0]
    monkeypatch.setattr(torch.cuda, "is_available", capturing)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", capturing)
    with pytest.raises(RuntimeError, match="cannot be captured in a CUDA graph"):
        states.sum().backward() if way == "backward" else pool_trajectory(hidden, *where)


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("targets", [6, 40, 0])
def test_without_the_mean_nothing_else_changes(targets: int, dtype: torch.dtype) -> None:
    hidden, _, rows, columns = pooled(3, 3, 37, 21, targets, dtype=dtype)
    states = target_states(hidden, rows, columns)
    true = torch.stack([h.double()[rows, columns] for h in hidden])
    assert states.dtype == torch.float32
    assert torch.equal(states.double(), true)
    weights = torch.randn(states.shape).to(states)
    found = torch.autograd.grad(states, hidden, weights)
    for grad, expected in zip(found, torch.autograd.grad(true, hidden, weights.double()), strict=True):
        assert grad.dtype == dtype
        assert relative_rms(grad, expected.double()) <= BOUND[dtype]
        assert torch.equal(grad == 0, expected == 0)


def test_layers_may_lie_in_memory_as_they_like() -> None:
    hidden, *where = pooled(6, 3, 9, 20, 7)
    plain = [h.detach() for h in hidden]
    wide = torch.zeros(3, 11, 41, device=DEVICE)
    wide[:, 1:10, 3:23] = plain[1]
    apart = torch.stack([plain[2], plain[2]], -1)
    hidden = [
        plain[0].transpose(0, 1).contiguous().transpose(0, 1),  # positions first
        wide[:, 1:10, 3:23],  # a slice, off every alignment
        apart[..., 0],  # the last dimension strided: copied
        plain[3].transpose(0, 2).contiguous().transpose(0, 2),
        plain[4][:1].expand(3, 9, 20),  # strides of zero
        plain[5],
    ]
    assert not any(h.is_contiguous() for h in hidden[:5])
    check_pooling([h.requires_grad_() for h in hidden], *where)


@pytest.mark.parametrize("trained", [[], [0], [2], [0, 3]], ids=str)
def test_only_layers_that_need_a_gradient_get_one(
    trained: list[int], launched: list[tuple[str, dict[str, Any]]]
) -> None:
    hidden, *where = pooled(4, 3, 9, 20, 7)
    expected = outputs_and_gradients(pool_trajectory, hidden, *where)[2:]
    for i, h in enumerate(hidden):
        h.requires_grad_(i in trained)
    launched.clear()
    if not trained:
        assert not any(x.requires_grad for x in pool_trajectory(hidden, *where))
        assert [name for name, _ in launched] == ["pool"]
        return
    mine = outputs_and_gradients(pool_trajectory, hidden, *where)[2:]
    assert [name for name, _ in launched] == ["pool", "pool_backward"]
    for grad, i in zip(mine, trained, strict=True):
        assert torch.equal(grad, expected[i])


def test_what_is_masked_out_has_no_influence_even_if_not_finite() -> None:
    hidden, mask, *_ = pooled(2, 3, 9, 20, 0)
    rows, columns = mask.nonzero()[:4].T
    expected = outputs_and_gradients(pool_trajectory, hidden, mask, rows, columns)
    with torch.no_grad():
        for h in hidden:
            h[~mask] = float("nan")
    for mine, true in zip(
        outputs_and_gradients(pool_trajectory, hidden, mask, rows, columns), expected, strict=True
    ):
        assert torch.equal(mine, true)


def test_repeated_targets_add_their_gradients() -> None:
    hidden, mask, *_ = pooled(2, 3, 9, 20, 0)
    rows = torch.tensor([1, 0, 1, 2, 1], device=DEVICE)
    columns = torch.tensor([2, 3, 2, 8, 2], device=DEVICE)
    states, _ = pool_trajectory(hidden, mask, rows, columns)
    for grad in torch.autograd.grad(states.sum(), hidden):
        expected = torch.zeros_like(grad)
        expected[1, 2], expected[0, 3], expected[2, 8] = 3, 1, 1
        assert torch.equal(grad, expected)


@pytest.mark.parametrize(("cut", "aligned"), [(0, True), (1, False)])
def test_alignment_is_claimed_only_where_it_is(
    cut: int, aligned: bool, launched: list[tuple[str, dict[str, Any]]]
) -> None:
    hidden, *where = pooled(2, 3, 9, 40, 4)
    hidden[1] = torch.zeros(3, 9, 48, device=DEVICE)[..., cut : 40 + cut].requires_grad_()
    check_pooling(hidden, *where)
    assert [c["ALIGNED"] for _, c in launched] == [aligned, True]
    launched.clear()
    check_pooling([h[..., :38] for h in hidden], *where)
    assert [c["ALIGNED"] for _, c in launched] == [aligned, False]


def _everything() -> Iterator[Tensor]:
    """All outputs and gradients of both operations, with targets, without, and with empty masks."""
    for targets in (7, 0):
        for carry in (False, True):
            yield from value_and_gradients(bridge_nll, case(targets=targets, carry=carry))
        yield from outputs_and_gradients(pool_trajectory, *pooled(3, 3, 17, 20, targets))
        hidden, _, *where = pooled(3, 3, 17, 20, targets)
        yield from torch.autograd.grad(target_states(hidden, *where).square().sum(), hidden)
    many = case(layers=13, targets=25, width=4, sizes=(5, 3))
    yield from value_and_gradients(bridge_nll, many)


def test_two_runs_are_equal_bit_for_bit_and_no_uninitialised_memory_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = list(_everything())
    assert all(x.isfinite().all() for x in expected)

    def poisoned(original: Any) -> Any:
        def make(*args: Any, **kwargs: Any) -> Tensor:
            made: Tensor = original(*args, **kwargs)
            return made.fill_(float("nan")) if made.is_floating_point() else made

        return make

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    monkeypatch.setattr(Tensor, "new_empty", poisoned(Tensor.new_empty))
    assert torch.zeros(1).new_empty(3).isnan().all()
    for mine, before in zip(_everything(), expected, strict=True):
        assert torch.equal(mine, before)


@pytest.mark.parametrize("operation", ["pooling", "cost"])
def test_a_second_derivative_is_refused_not_wrong(operation: str) -> None:
    if operation == "cost":
        inputs = case()
        leaf, value = inputs.states, bridge_nll(*inputs)
    else:
        hidden, *where = pooled(2, 2, 5, 4, 3)
        leaf, value = hidden[0], pool_trajectory(hidden, *where)[0].square().sum()
    (grad,) = torch.autograd.grad(value, leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_the_host_never_waits_for_the_device() -> None:
    inputs, (hidden, *where) = case(carry=True), pooled(3, 3, 9, 20, 7)

    def step() -> None:
        pairs = bridge_nll(*inputs), *pool_trajectory(hidden, *where)
        torch.stack([x.sum() for x in pairs]).sum().backward()

    step()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("carry", [False, True])
def test_a_gradient_asked_for_under_autocast_is_the_same(carry: bool) -> None:
    inputs = case(carry=carry, width=9, sizes=(17, 6))
    expected = value_and_gradients(bridge_nll, inputs)
    with torch.autocast(DEVICE, torch.bfloat16):
        mine = value_and_gradients(bridge_nll, inputs)
    assert all(torch.equal(x, y) for x, y in zip(mine, expected, strict=True))


@pytest.mark.parametrize(
    ("states", "source", "digits"),
    [
        (torch.float32, None, "tf32x3"),
        (torch.bfloat16, None, "tf32"),
        (torch.float32, torch.float16, "tf32"),
        (torch.float32, torch.float32, "tf32x3"),
        (torch.bfloat16, torch.float32, "tf32x3"),
    ],
)
def test_products_have_the_digits_of_what_was_read(
    states: torch.dtype,
    source: torch.dtype | None,
    digits: str,
    launched: list[tuple[str, dict[str, Any]]],
) -> None:
    """Forward and backward, of the map and of the lens, whatever the states are handed over in."""
    inputs = case(width=9, sizes=(17, 6))
    read = inputs.states.detach().to(states).requires_grad_()
    value_and_gradients(partial(bridge_nll, source=source), inputs._replace(states=read))
    lens = torch.randn(4, 6, 9, device=DEVICE), torch.randn(4, 6, device=DEVICE)
    law = torch.ones(4, device=DEVICE)
    given = (read, *lens, inputs.end.detach(), law, law, law)
    lens_nll(*given, source=source, backend="triton").sum().backward()
    lens_project(read, *lens, source=source, backend="triton").sum().backward()
    made = [(name, told["PRECISION"]) for name, told in launched if "PRECISION" in told]
    assert {name for name, _ in made} >= {"linear", "linear_backward", "likelihood", "lens"}
    assert {precision for _, precision in made} == {digits}
