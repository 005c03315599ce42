"""A path driven by a network, solved one step after the other or in parallel over time.

The discrete path is ``y_0 = 0,  y_(j+1) = decay_j y_j + gain_j p_j + e_j`` with ``p_j = net_j(y_j)``.
Both solvers end at the same path and share one adjoint:

- ``sequential`` evaluates the network once at each node, node after node: least arithmetic.
- ``picard`` evaluates it at all nodes at once, solves the linear recurrence exactly for those values and
  repeats. The affine part is exact, so only the network's own feedback has to converge: a few sweeps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from kernels.dispatch import choose
from kernels.path.network import PathNetwork, Solution
from kernels.path.picard import FixedSweeps, adjoint_picard, solve_picard

Solver = Literal["sequential", "picard"]


@dataclass(frozen=True)
class SolverSettings:
    """How the path is solved.

    Attributes:
        solver: which of the two.
        tolerance: Picard stops when a sweep changes every token's path by less, relative RMS.
        max_sweeps: after so many sweeps without that, the path is solved sequentially.
        backend: of the sequential solver, by name; by default `kernels.dispatch` chooses.
        fixed: Picard's sweeps where the host cannot look whether they are enough.

    Raises:
        ValueError: for an unknown solver, or limits that are not above zero.
    """

    solver: Solver
    tolerance: float = 1e-4
    max_sweeps: int = 12
    backend: str | None = None
    fixed: FixedSweeps | None = None

    def __post_init__(self) -> None:
        if self.solver not in get_args(Solver):
            raise ValueError(f"solver={self.solver!r}: expected one of {', '.join(get_args(Solver))}")
        if self.max_sweeps < 1 or not self.tolerance > 0:
            raise ValueError(
                f"max_sweeps={self.max_sweeps}, tolerance={self.tolerance}: expected both above 0"
            )


@dataclass
class SolverReport:
    """What a solve took.

    Attributes:
        solver: what solved the path in the end; "sequential" after Picard gave up.
        evaluations: batched network evaluations, Picard's; 0 if sequential from the start.
        residual: relative change of the last sweep; NaN if sequential from the start.
        backward_evaluations, backward_residual: the same of the adjoint, once it has run.
    """

    solver: Solver = "sequential"
    evaluations: int = 0
    residual: float = math.nan
    backward_evaluations: int = 0
    backward_residual: float = math.nan


class SolvePath(torch.autograd.Function):
    """y and p as a function of the network's inputs, its weights, the forcing and the recurrence.

    The gradient is that of the discrete path itself, whichever solver found it: the adjoint recurrence
    runs backwards through the stored values.
    """

    @staticmethod
    def forward(
        ctx: Any,
        settings: SolverSettings,
        report: SolverReport,
        forcing: Tensor,
        decay: Tensor,
        gain: Tensor,
        inputs: Tensor,
        path_weight: Tensor,
        *stack: Tensor,
    ) -> tuple[Tensor, Tensor]:
        half = len(stack) // 2
        net = PathNetwork(inputs, path_weight, stack[:half], stack[half:])
        solution: Solution | None = None
        if settings.solver == "picard":
            solution, report.evaluations, report.residual = solve_picard(
                net, forcing, decay, gain, settings.tolerance, settings.max_sweeps, settings.fixed
            )
        report.solver = "sequential" if solution is None else "picard"
        if solution is None:
            sequential = choose(decay, backend=settings.backend).backend.operations
            solution = sequential.solve_sequential(net, forcing, decay, gain)
        ctx.save_for_backward(decay, gain, path_weight, *stack, solution.y, *solution.values)
        ctx.settings, ctx.report, ctx.half = settings, report, half
        return solution.y, solution.values[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grads[0].device.type, enabled=False):  # it may be asked for under autocast
            return SolvePath._adjoint(ctx, *grads)

    @staticmethod
    def _adjoint(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        half, report, settings = ctx.half, ctx.report, ctx.settings
        grad_y, grad_p = grads
        decay, gain, path_weight, *rest = ctx.saved_tensors
        y, *values = rest[2 * half :]
        solution = Solution(y, values)
        net = PathNetwork(values[0], path_weight, rest[:half], rest[half : 2 * half])
        solved: tuple[Tensor, list[Tensor]] | None = None
        if report.solver == "picard":
            most = settings.tolerance, settings.max_sweeps, settings.fixed
            solved, report.backward_evaluations, report.backward_residual = adjoint_picard(
                net, solution, grad_y, grad_p, decay, gain, *most
            )
        if solved is None:
            sequential = choose(decay, backend=settings.backend).backend.operations
            solved = sequential.adjoint_sequential(net, solution, grad_y, grad_p, decay, gain)
        total, layers = solved
        _, _, of_forcing, of_decay, of_gain, of_inputs, of_path, *of_stack = ctx.needs_input_grad

        def outer(grad: Tensor, value: Tensor) -> Tensor:
            return grad.flatten(0, 1).T @ value.flatten(0, 1)

        weights = [
            outer(grad, F.silu(value)) if needed else None
            for needed, grad, value in zip(of_stack[:half], layers[1:], values, strict=False)
        ]
        biases = [
            grad.sum((0, 1)) if needed else None
            for needed, grad in zip(of_stack[half:], layers[1:], strict=True)
        ]
        return (
            None,
            None,
            total[1:] if of_forcing else None,
            (total[1:] * y[:-1]).sum((1, 2)) if of_decay else None,
            (total[1:] * values[-1][:-1]).sum((1, 2)) if of_gain else None,
            layers[0] if of_inputs else None,
            outer(layers[0], y) if of_path else None,
            *weights,
            *biases,
        )
