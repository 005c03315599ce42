"""Arithmetic counted from shapes: a product of [m, k] by [k, n] counts 2 m k n, nothing else counts.

The count is of the work that has to be done, hoisted as in the library, and the same for every arm but
Picard's: a form that does more for the same result has a lower rate. A backward pass to the states costs
its forward pass again; one to the weights of g costs g again for the weights, and once more, without the
first layer, for the values between the layers.
"""

from __future__ import annotations

from itertools import pairwise

from benchmarks.shapes import Shape
from kernels.path.solver import SolverReport


def flops(operation: str, shape: Shape, report: SolverReport | None = None) -> int:
    """Floating-point operations of one call, backward pass included where the operation has one.

    Args:
        report: of an SDE solve; without one, or after a sequential one, every node is evaluated once.
    """
    pooling = 2 * shape.states * shape.batch * shape.length * shape.hidden
    if operation == "pooling":
        return 2 * pooling
    if operation == "lens":
        return 2 * 2 * shape.states * shape.tokens * shape.hidden * shape.widths[-1]
    if operation == "sde":
        forward, backward = (evaluation * times for evaluation, times in _evaluations(shape, report))
        return 2 * (pooling + _first_layer(shape) + _path_inputs(shape)) + forward + backward
    first, rest = _first_layer(shape), shape.states * shape.tokens * _chain(shape.widths)
    if operation == "pdf-forward":
        return pooling + first + rest
    if operation == "fit":
        return pooling + 2 * (first + rest) + rest
    return 2 * (pooling + first + rest)


def _chain(widths: tuple[int, ...]) -> int:
    """Of one row through the layers after the first."""
    return sum(2 * a * b for a, b in pairwise(widths))


def _first_layer(shape: Shape) -> int:
    """On the states of every target and the context of every sequence, once a layer of the model."""
    rows = shape.states * (shape.tokens + shape.batch)
    return 2 * rows * shape.hidden * shape.widths[0]


def _path_inputs(shape: Shape) -> int:
    """The spline at every node, and the Gram matrices [L+1, L+1] that LayerNorm's variance needs."""
    spline = 2 * (shape.steps + 1) * shape.states * shape.tokens * shape.widths[0]
    gram = 2 * shape.states**2 * shape.hidden * (shape.tokens + shape.batch)
    variance = 2 * (shape.steps + 1) * shape.states**2 * shape.tokens
    return spline + gram + variance


def _evaluations(shape: Shape, report: SolverReport | None) -> list[tuple[int, int]]:
    """(operations of one evaluation at all nodes, how many) forward and backward.

    Picard's has the linear recurrence besides: one product [T+1, T] by [T, N d].
    """
    dim = shape.widths[-1]
    nodes = (shape.steps + 1) * shape.tokens
    network = nodes * (2 * dim * shape.widths[0] + _chain(shape.widths))
    counts = (report.evaluations, report.backward_evaluations) if report else (0, 0)
    recurrence = 2 * nodes * shape.steps * dim
    return [(network + recurrence, count) if count else (network, 1) for count in counts]
