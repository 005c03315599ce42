"""The parallel solver: the network at all nodes at once, the linear recurrence exactly, and again."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.path.network import PathNetwork, Solution

UNCHECKED_SWEEPS = 3
"""Sweeps before the residual is first looked at, which makes a CUDA device wait."""


@dataclass(frozen=True)
class FixedSweeps:
    """So many sweeps, and no look at a number: for a solve that is captured as a CUDA graph.

    Attributes:
        forward, backward: sweeps of the path and of its adjoint.
        worst: [], the largest change of a last sweep so far, which a solve raises on the device.
    """

    forward: int
    backward: int
    worst: Tensor

    def note(self, change: Tensor) -> None:
        """A last sweep's; NaN stays."""
        torch.maximum(self.worst, change.to(self.worst.dtype), out=self.worst)


def propagator(decay: Tensor) -> Tensor:
    """[T+1, T+1]: the recurrence's response at node j to an impulse at node k."""
    nodes = torch.arange(len(decay) + 1, device=decay.device)
    later = nodes[:, None] > nodes
    steps = torch.where(later, torch.cat([decay.new_ones(1), decay])[:, None], 1)
    return torch.cumprod(steps, 0) * (nodes[:, None] >= nodes)


def solve_picard(
    net: PathNetwork,
    forcing: Tensor,
    decay: Tensor,
    gain: Tensor,
    tolerance: float,
    max_sweeps: int,
    fixed: FixedSweeps | None = None,
) -> tuple[Solution | None, int, float]:
    """All nodes at once: the solution, or None if it did not converge; evaluations; residual.

    With ``fixed`` the solution after so many sweeps, whose residual is noted there and NaN here.
    """
    max_sweeps = max_sweeps if fixed is None else fixed.forward
    response = propagator(decay)[:, 1:]
    y = free = _integrate(response, forcing)
    values = [y.new_empty(*y.shape[:2], width) for width in net.widths()]
    residual = math.inf
    for sweep in range(1, max_sweeps + 1):
        net.evaluate(y.flatten(0, 1), slice(None), [value.flatten(0, 1) for value in values])
        after = free + _integrate(response, gain[:, None, None] * values[-1][:-1])
        if fixed is not None and sweep == max_sweeps:
            fixed.note(_change(after, y))
            return Solution(y, values), sweep, math.nan
        if fixed is None and sweep >= min(UNCHECKED_SWEEPS, max_sweeps):
            residual = float(_change(after, y))
            if residual <= tolerance:
                return Solution(y, values), sweep, residual
        y = after
    return None, max_sweeps, residual


def adjoint_picard(
    net: PathNetwork,
    solution: Solution,
    grad_y: Tensor,
    grad_p: Tensor,
    decay: Tensor,
    gain: Tensor,
    tolerance: float,
    max_sweeps: int,
    fixed: FixedSweeps | None = None,
) -> tuple[tuple[Tensor, list[Tensor]] | None, int, float]:
    """The same, all nodes at once; None if it did not converge."""
    max_sweeps = max_sweeps if fixed is None else fixed.backward
    response = propagator(decay).T.contiguous()
    total = free = _integrate(response, grad_y)
    residual = math.inf
    for sweep in range(1, max_sweeps + 1):
        grad = grad_p.clone()
        grad[:-1] += gain[:, None, None] * total[1:]
        layers, of_y = net.transposed(grad, solution.values)
        after = free + _integrate(response, of_y)
        if fixed is not None and sweep == max_sweeps:
            fixed.note(_change(after, total))
            return (after, layers), sweep, math.nan
        if fixed is None and sweep >= min(UNCHECKED_SWEEPS, max_sweeps):
            residual = float(_change(after, total))
            if residual <= tolerance:
                return (after, layers), sweep, residual
        total = after
    return None, max_sweeps, residual


def _integrate(response: Tensor, drive: Tensor) -> Tensor:
    """[T+1, T] or [T+1, T+1] times [T, N, d]: one product for all nodes."""
    return (response @ drive.flatten(1)).view(len(response), *drive.shape[1:])


def _change(new: Tensor, old: Tensor) -> Tensor:
    """Largest relative RMS change of a token's path, []. NaN compares as not converged."""
    size = new.square().sum((0, 2))
    change = (new - old).square().sum((0, 2)) / size.clamp(min=torch.finfo(new.dtype).tiny)
    return change.max().sqrt() if len(change) else new.new_zeros(())
