"""What is measured, and in which forms: every operation as a scalar of the inputs, one arm a form.

An operation's gradient goes to the hidden states, as in tuning with a frozen g; that of "fit" goes to
the weights of g over frozen states. The plain forms are those of `benchmarks.eager`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from benchmarks import eager
from benchmarks.shapes import Inputs, Leaves
from kernels.bridge_nll import bridge_nll
from kernels.dispatch import choose
from kernels.lens import lens_nll
from kernels.path.solver import Solver, SolverReport
from kernels.pooling import pool_trajectory
from kernels.sde import sde_cost

Value = Callable[[Inputs], Tensor]


@dataclass(frozen=True)
class Operation:
    """What is computed, what its gradient goes to, and the arm that the others are compared with."""

    name: str
    leaves: Leaves
    baseline: str
    says: str


OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation("pooling", "states", "eager", "pooling, forward and backward"),
        Operation("pdf", "states", "eager", "Gaussian cost from hidden states, forward and backward"),
        Operation("pdf-forward", "nothing", "eager", "Gaussian cost from hidden states, forward alone"),
        Operation("sde", "states", "torchsde", "SDE cost from hidden states, forward and backward"),
        Operation("lens", "states", "eager", "lens cost from hidden states, forward and backward"),
        Operation("fit", "weights", "eager", "Gaussian cost, gradient to the weights of g"),
    )
}


def at_shape(name: str) -> list[str]:
    """The operations that are measured at a shape."""
    only = {"tiny": list(OPERATIONS), "fit": ["fit", "pdf", "lens", "sde"]}
    return only.get(name, [operation for operation in OPERATIONS if operation != "fit"])


@dataclass(frozen=True)
class KernelArm:
    """One form of an operation.

    Attributes:
        value: the scalar.
        refusal: why it cannot run here; None if it can. Asked when it is needed: it may take seconds.
        random: draws a path of its own, so only its mean can be compared.
        of: the operation whose value it has, where that is another: what the published method takes.
        whole_only: made for one size, so that a subset of the targets would be another program.
        report: of the SDE's last solve.
    """

    name: str
    value: Value
    refusal: Callable[[], str | None] = lambda: None
    random: bool = False
    of: str = ""
    whole_only: bool = False
    report: Callable[[], SolverReport] | None = None


def arms(operation: str, device: torch.device | str, compiled: bool | str = True) -> list[KernelArm]:
    """Every arm of an operation, ours first.

    Args:
        compiled: whether torch.compile is tried; a text is the reason why it is not.
    """
    chosen = choose(torch.empty(0, device=device)).backend.name
    backends = {"": None, **({"-pytorch": "pytorch"} if chosen != "pytorch" else {})}
    if operation == "sde":
        solvers: tuple[Solver, ...] = ("picard", "sequential")
        own = [ours(operation, b, s, f"ours-{s}{x}") for x, b in backends.items() for s in solvers]
        return [*own, KernelArm("torchsde", _torchsde, _torchsde_refusal, random=True)]
    own = [ours(operation, backend, None, f"ours{suffix}") for suffix, backend in backends.items()]
    if operation == "lens":
        published = KernelArm("eager", partial(_plain, _eager_pdf), of="pdf")
        return [*own, published, KernelArm("eager-lens", _eager_lens)]
    plain = _eager_pooling if operation == "pooling" else _eager_pdf

    def refusal() -> str | None:
        if compiled is True:
            return compiler_refusal(torch.device(device).type)
        return compiled or "not asked for"

    return [
        *own,
        KernelArm("eager", partial(_plain, plain)),
        KernelArm("compiled", partial(_plain, _Compiled(plain)), refusal, whole_only=True),
    ]


def ours(operation: str, backend: str | None, solver: Solver | None, name: str) -> KernelArm:
    """The library's own, on a backend and with a solver, or as it chooses itself."""
    if operation == "sde":
        sde = _Sde(backend, solver)
        return KernelArm(name, sde, report=lambda: sde.report)
    own = {"pooling": _pooling, "lens": _lens}.get(operation, _pdf)
    return KernelArm(name, partial(own, backend))


def probed(pooled: tuple[Tensor, Tensor], probe: tuple[Tensor, Tensor]) -> Tensor:
    """A scalar of which every pooled number is a part: positive terms, so that none cancels another."""
    value = torch.zeros((), device=probe[0].device, dtype=probe[0].dtype)
    for x, weight in zip(pooled, probe, strict=True):
        value = value + (weight * x.square()).sum()
    return value


def _pool(backend: str | None, x: Inputs) -> tuple[Tensor, Tensor]:
    # As training reads them: its targets come out of a mask in their order, and are not sorted again.
    return pool_trajectory(x.hidden, x.mask, x.rows, x.columns, in_order=True, backend=backend)


def _pooling(backend: str | None, x: Inputs) -> Tensor:
    return probed(_pool(backend, x), x.probe)


def _pdf(backend: str | None, x: Inputs) -> Tensor:
    states, context = _pool(backend, x)
    given = (states, context, x.rows, x.weights, x.biases, x.end, None, x.mean, x.precision)
    return bridge_nll(*given, source=x.hidden[0].dtype, backend=backend)  # as in a `RunningCost`


def _lens(backend: str | None, x: Inputs) -> Tensor:
    where = x.mask, x.rows, x.columns
    states, _ = pool_trajectory(x.hidden, *where, context=False, in_order=True, backend=backend)
    laws = (x.end, x.mean, x.mean, x.precision)
    return lens_nll(states, *x.lens, *laws, source=x.hidden[0].dtype, backend=backend).mean()


class _Sde:
    """Keeps the report of its last solve."""

    def __init__(self, backend: str | None, solver: Solver | None) -> None:
        self.backend, self.solver, self.report = backend, solver, SolverReport()

    def __call__(self, x: Inputs) -> Tensor:
        states, context = _pool(self.backend, x)
        # The backend is given to the call: autograd's own threads do not see `use_backend`.
        value, self.report = sde_cost(
            states,
            context,
            x.rows,
            x.path_weight,
            x.weights,
            x.biases,
            x.end,
            x.noise,
            x.grid,
            solver=self.solver,
            backend=self.backend,
        )
        return value


def _plain(form: Callable[..., Tensor], x: Inputs) -> Tensor:
    """Tensors in the place of the record, for torch.compile to see."""
    cost = (x.weights, x.biases, x.end, x.mean, x.precision)
    return form(x.hidden, x.mask, x.rows, x.columns, x.probe, *cost)


class _Compiled:
    """Compiled when first called, for those sizes: the compiler takes seconds to import."""

    def __init__(self, form: Callable[..., Tensor]) -> None:
        self.form = form
        self.compiled: Callable[..., Tensor] | None = None

    def __call__(self, *tensors: Any) -> Tensor:
        if self.compiled is None:
            self.compiled = torch.compile(self.form, dynamic=False)
        return self.compiled(*tensors)


def _eager_pooling(
    hidden: tuple[Tensor, ...],
    mask: Tensor,
    rows: Tensor,
    columns: Tensor,
    probe: tuple[Tensor, Tensor],
    *cost: Any,
) -> Tensor:
    return probed(eager.pool(hidden, mask, rows, columns), probe)


def _eager_pdf(
    hidden: tuple[Tensor, ...],
    mask: Tensor,
    rows: Tensor,
    columns: Tensor,
    probe: tuple[Tensor, Tensor],
    *cost: Any,
) -> Tensor:
    return eager.bridge_nll(*eager.pool(hidden, mask, rows, columns), rows, *cost)


def _eager_lens(x: Inputs) -> Tensor:
    states = torch.stack([hidden[x.rows, x.columns] for hidden in x.hidden]).float()
    return eager.lens_nll(states, *x.lens, x.end, x.mean, x.precision)


def _torchsde(x: Inputs) -> Tensor:
    pooled = eager.pool(x.hidden, x.mask, x.rows, x.columns)
    return eager.sde_cost(*pooled, x.rows, x.path_weight, x.weights, x.biases, x.end)


def _torchsde_refusal() -> str | None:
    return None if find_spec("torchsde") else "torchsde is not installed (the extra `bench` has it)"


@lru_cache
def compiler_refusal(device: str) -> str | None:
    """Why torch.compile does not work on a kind of device; None if it does. Seconds, the first time."""
    try:
        torch.compile(lambda x: (x * 2).sum(), dynamic=False)(torch.ones(4, device=device))
    except Exception as error:  # a missing compiler shows in many kinds
        first = str(error).strip().partition("\n")[0]
        return f"torch.compile does not work here: {type(error).__name__}: {first}"
    return None
