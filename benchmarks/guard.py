"""Nothing is timed before it is right: values and gradients of an arm against float64.

An arm is compared with the plain loops of `kernels.oracle` on a few targets, and at full size with the
PyTorch path in float64, which itself has to meet the oracle on those targets. torchsde draws paths of
its own on another grid: its mean has to be ours.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.arms import KernelArm, Operation, Value, probed
from benchmarks.shapes import Inputs, Leaves
from kernels import oracle, pytorch
from kernels.sde import sde_cost

TARGETS = 8
"""At most, for the oracle's loops."""

EXACT = 1e-9
"""Two float64 forms of one formula; sums over a batch in another order."""

MEAN_OFF, DRAWS, SIGMAS = 0.03, 4, 3
"""How far torchsde's mean over draws may be off, beyond its Monte Carlo error: its path has steps of
0.01 in coordinates where the last layer's distance to the label is 0.04, ours is exact there."""

Form = Callable[[str, Inputs], Tensor]
"""The scalar of an operation by name."""

Errors = dict[str, float]
"""Of "value" and, where there is one, "gradient": relative RMS, the worst leaf's."""


@dataclass(frozen=True)
class Verdict:
    """What the guard found: errors against "oracle" and "float64", or why there is nothing to time."""

    ok: bool
    errors: dict[str, Errors] = field(default_factory=dict)
    reason: str = ""


def evaluate(value: Value, x: Inputs, leaves: Leaves, scale: float = 1.0) -> list[Tensor]:
    """The scalar, then ``scale`` times its gradient to every leaf."""
    if leaves == "nothing":
        with torch.no_grad():
            return [value(x)]
    scalar = value(x)
    grads = torch.autograd.grad(scalar, x.leaves(leaves), torch.full_like(scalar, scale))
    return [scalar.detach(), *grads]


def allowed(x: Inputs, *, iterated: bool = False) -> Errors:
    """Bounds on relative RMS errors at the precision of the inputs.

    float32: a handful of roundings of 6e-8 that sums partly cancel. Where the path was found by
    iteration a gradient is allowed ten times as much and a value five times, since Picard stops at a
    change of the path of 1e-4; a gradient also on CUDA, where sums of thousands of products run through
    tensor cores that truncate. 16 bit: one unit, four
    times what rounding the result once can do: a gradient is rounded, added to and rounded again, and
    where the parts cancel that shows. Two if g is in 16 bits too, since every layer of it rounds.

    Args:
        iterated: for an SDE solved by Picard.
    """
    lowest = min((x.hidden[0].dtype, x.weights[0].dtype), key=lambda t: t.itemsize)
    if lowest.itemsize > 2:
        loose = iterated or x.hidden[0].is_cuda
        return {"value": 5e-5 if iterated else 1e-5, "gradient": 1e-4 if loose else 1e-5}
    bound = torch.finfo(lowest).eps * (2 if x.weights[0].dtype.itemsize == 2 else 1)
    return {"value": bound, "gradient": bound}


def relative_rms(value: Tensor, true: Tensor) -> float:
    """0 for a truth of zeros that is met exactly; NaN stays NaN."""
    error = float((value.to(true) - true).norm())
    return error / float(true.norm()) if error else 0.0


def errors(values: Sequence[Tensor], true: Sequence[Tensor]) -> Errors:
    """Of what `evaluate` gives."""
    each = [relative_rms(x, y) for x, y in zip(values, true, strict=True)]
    worst = {"gradient": max(each[1:], key=lambda e: (math.isnan(e), e))} if each[1:] else {}
    return {"value": each[0], **worst}


def within(measured: Errors, bound: Errors) -> bool:
    """NaN is not."""
    return all(error <= bound[name] for name, error in measured.items())


def oracle_value(operation: str, x: Inputs) -> Tensor:
    """Plain loops."""
    pooled = oracle.pool_trajectory(x.hidden, x.mask, x.rows, x.columns)
    if operation == "pooling":
        return probed(pooled, x.probe)
    states, context = pooled
    if operation == "lens":
        return oracle.lens_nll(states, *x.lens, x.end, x.mean, x.mean, x.precision).mean()
    if operation == "sde":
        return oracle.sde_cost(
            states, context, x.rows, x.path_weight, x.weights, x.biases, x.end, x.noise, x.grid
        )
    zero = torch.zeros_like(x.mean)
    return oracle.bridge_nll(
        states, context, x.rows, x.weights, x.biases, x.end, zero, x.mean, x.precision
    )


def pytorch_value(operation: str, x: Inputs) -> Tensor:
    """The PyTorch path, past the dispatcher where it can be."""
    if operation == "lens":
        states = pytorch.target_states(x.hidden, x.rows, x.columns)
        return pytorch.lens_nll(states, *x.lens, x.end, x.mean, x.mean, x.precision).mean()
    pooled = pytorch.pool_trajectory(x.hidden, x.mask, x.rows, x.columns)
    if operation == "pooling":
        return probed(pooled, x.probe)
    states, context = pooled
    if operation == "sde":
        return sde_cost(
            states,
            context,
            x.rows,
            x.path_weight,
            x.weights,
            x.biases,
            x.end,
            x.noise,
            x.grid,
            solver="sequential",
            backend="pytorch",
        )[0]
    return pytorch.bridge_nll(
        states, context, x.rows, x.weights, x.biases, x.end, None, x.mean, x.precision
    ).mean()


class Guard:
    """The truth of one operation at some inputs, made once for all its arms.

    Args:
        targets: at most, for the oracle's loops on the CPU; None leaves the oracle out, where the sizes
            are large and smaller ones were compared with it.
    """

    def __init__(self, operation: Operation, x: Inputs, *, targets: int | None = TARGETS) -> None:
        self.operation, self.x = operation, x.requiring(operation.leaves)
        on_all = self._truth(pytorch_value, self.x, x.hidden[0].device)
        self.scale = self._scale(on_all)
        self.truths: dict[str, tuple[Inputs, list[Tensor]]] = {}
        if targets is not None:
            self.truths["oracle"] = self._by_the_oracle(targets)
        self.truths["float64"] = (self.x, self._scaled(on_all))

    def _by_the_oracle(self, targets: int) -> tuple[Inputs, list[Tensor]]:
        device = self.x.hidden[0].device
        few = self.x.subset(targets).requiring(self.operation.leaves)
        true = [t.to(device) for t in self._truth(oracle_value, few, "cpu")]
        off = errors(self._truth(pytorch_value, few, device), true)
        if not within(off, {"value": EXACT, "gradient": EXACT}):
            raise AssertionError(
                f"{self.operation.name}: the float64 PyTorch path misses the oracle by {off}"
            )
        return few, self._scaled(true)

    def check(self, arm: KernelArm) -> Verdict:
        """Every comparison that applies to the arm; an error while it runs is a verdict too."""
        why_not = arm.refusal()
        if why_not is not None:
            return Verdict(False, reason=f"skipped: {why_not}")
        try:
            return self._in_the_mean(arm) if arm.random else self._exactly(arm)
        except Exception as error:  # one arm's failure must not hide what the others did
            first = str(error).strip().partition("\n")[0][:300]
            return Verdict(False, reason=f"wrong: {type(error).__name__}: {first}")

    def _exactly(self, arm: KernelArm) -> Verdict:
        by_truth = {}
        for name, (x, true) in self.truths.items():
            if not (arm.whole_only and name == "oracle"):
                _poison(x)
                by_truth[name] = errors(evaluate(arm.value, x, self.operation.leaves, self.scale), true)
        iterated = arm.report is not None and arm.report().solver == "picard"
        bound = allowed(self.x, iterated=iterated)
        ok = all(within(each, bound) for each in by_truth.values())
        return Verdict(ok, by_truth, "" if ok else f"wrong: allowed {bound}")

    def _in_the_mean(self, arm: KernelArm) -> Verdict:
        generator = torch.Generator(self.x.noise.device).manual_seed(1)
        theirs, mine = [], []
        with torch.no_grad():
            for _ in range(DRAWS):
                fresh = torch.randn(self.x.noise.shape, generator=generator, device=generator.device)
                drawn = dataclasses.replace(self.x, noise=fresh.to(self.x.noise))
                mine.append(float(pytorch_value(self.operation.name, drawn)))
                theirs.append(float(arm.value(self.x)))
        pair = torch.tensor([theirs, mine], dtype=torch.float64)
        mean, error = pair.mean(1), pair.std(1) / math.sqrt(DRAWS)
        off = float((mean[0] - mean[1]).abs() / mean[1])
        bound = MEAN_OFF + SIGMAS * float(error.norm() / mean[1])
        ok = off <= bound
        return Verdict(ok, {"mean": {"value": off}}, "" if ok else f"wrong: allowed {bound:.3f}")

    def _truth(self, value: Form, x: Inputs, device: torch.device | str) -> list[Tensor]:
        name, leaves = self.operation.name, self.operation.leaves
        exact = x.to(device, torch.float64).requiring(leaves)
        return evaluate(lambda y: value(name, y), exact, leaves)

    def _scale(self, true: Sequence[Tensor]) -> float:
        """A power of two that brings the gradient into the range of float16, as loss scaling does."""
        largest = max((float(t.abs().max()) for t in true[1:]), default=1.0)
        power = math.floor(math.log2(16 / largest)) if largest > 0 else 0
        return 2.0 ** min(power, 15 if self.x.weights[0].dtype == torch.float16 else 100)

    def _scaled(self, true: Sequence[Tensor]) -> list[Tensor]:
        return [true[0], *(self.scale * t for t in true[1:])]


def _poison(x: Inputs) -> None:
    """Leave NaN in the memory that the allocator gives out next: what an arm does not write shows."""
    if x.hidden[0].is_cuda:
        torch.cuda.empty_cache()
        numbers = sum(h.numel() for h in x.hidden)
        sizes = [4 * numbers, *[1 << 16] * 64]  # large and small blocks have pools of their own
        poisoned = [torch.full((size,), math.nan, device=x.hidden[0].device) for size in sizes]
        del poisoned
