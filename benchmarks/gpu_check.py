"""Is every operation right on this device? Backends, solvers and dtypes against the float64 oracle."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks.arms import OPERATIONS, KernelArm, at_shape, ours
from benchmarks.guard import Guard, allowed
from benchmarks.shapes import Inputs, Shape, make_inputs, named
from kernels.dispatch import BACKENDS, choose
from kernels.path.solver import Solver

ODD = (
    Shape("odd", 4, 19, 3, 7, (40, 33, 5), targets=2),
    Shape("wide", 2, 130, 5, 33, (70, 66), targets=3),
    Shape("small", 1, 3, 1, 2, (2,)),
)
"""Sizes that fill no tile. The last has so few numbers that no rounding averages out: float32 only."""

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

TARGETS = 4
"""For the oracle's loops, which run once for each shape, dtype and operation."""

SOLVERS: tuple[Solver, ...] = ("picard", "sequential")


def check(device: torch.device | str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One row for each arm and its comparisons, as they are made; ``ok`` is None where it cannot run.

    g is float32, as the library keeps it; on the odd shapes it is also checked with everything but the
    SDE's grid in 16 bits.
    """
    for shape in (*ODD, *(named(name, device) for name in names)):
        odd = shape in ODD
        operations = [op for op in (OPERATIONS if odd else at_shape(shape.name)) if op != "pdf-forward"]
        for dtype in DTYPES if shape.batch > 1 else DTYPES[:1]:
            inputs = make_inputs(dataclasses.replace(shape, dtype=dtype), device)
            for operation in operations:
                yield from _rows(operation, shape, inputs)
                if odd and dtype.itemsize == 2 and operation != "pooling":
                    half = dataclasses.replace(inputs.to(device, dtype), grid=inputs.grid)
                    yield from _rows(operation, shape, half)
            del inputs


def _rows(operation: str, shape: Shape, inputs: Inputs) -> Iterator[dict[str, Any]]:
    guard = Guard(OPERATIONS[operation], inputs, targets=TARGETS)
    g = inputs.weights[0]
    for backend in BACKENDS:
        for solver in SOLVERS if operation == "sde" else (None,):
            row: dict[str, Any] = {
                "shape": shape.name,
                "operation": operation,
                "backend": backend.name,
                "solver": solver,
                "states": str(inputs.hidden[0].dtype).removeprefix("torch."),
                "g": str(g.dtype).removeprefix("torch."),
            }
            try:
                choose(g, backend=backend.name)
            except ValueError as refusal:
                yield {**row, "ok": None, "reason": str(refusal)}
                continue
            yield {**row, **_verdict(guard, ours(operation, backend.name, solver, backend.name))}


def _verdict(guard: Guard, arm: KernelArm) -> dict[str, Any]:
    verdict = guard.check(arm)
    iterated = arm.report is not None and arm.report().solver == "picard"
    return {
        "ok": verdict.ok,
        "errors": verdict.errors,
        "allowed": allowed(guard.x, iterated=iterated),
        "reason": verdict.reason,
    }
