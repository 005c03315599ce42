"""Is every operation right on this device? Backends, solvers and dtypes against float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks.arms import OPERATIONS, KernelArm, at_shape, ours
from benchmarks.gpu.plan import Context
from benchmarks.guard import Guard, allowed
from benchmarks.shapes import Inputs, Shape, make_inputs, named
from kernels.dispatch import BACKENDS, choose
from kernels.path.solver import Solver

CHECKED = tuple(operation for operation in OPERATIONS if operation != "pdf-forward")
"""Operations, of which one is but a part of another."""

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


def run(context: Context) -> None:
    """A row "check" for each arm; "checked", with the number of them, says that all were made."""
    if context.option == "odd":
        shapes, dtypes = (ODD[:1], DTYPES[:1]) if context.quick else (ODD, DTYPES)
        rows = odd(context.device, shapes, dtypes)
    else:
        rows = large(context.device, context.shapes)
    count, at = 0, ""
    for row in rows:
        if row["shape"] != at:
            at = row["shape"]
            context.say(at)
        if row["ok"] is False:
            context.say(f"WRONG {row}")
        context.add("check", **row)
        count += 1
    context.add("checked", count=count)


def odd(
    device: torch.device | str, shapes: Sequence[Shape] = ODD, dtypes: Sequence[torch.dtype] = DTYPES
) -> Iterator[dict[str, Any]]:
    """Sizes that fill no tile, and a tiny model, against the oracle on the CPU.

    g is float32, as the library keeps it; on the odd shapes it is also checked with everything but the
    SDE's grid in 16 bits. ``ok`` is None where a form cannot run.
    """
    for shape in (*shapes, named("tiny", device)):
        for dtype in dtypes if shape.batch > 1 else dtypes[:1]:
            inputs = make_inputs(dataclasses.replace(shape, dtype=dtype), device)
            for operation in CHECKED:
                yield from _rows(operation, shape, inputs, TARGETS)
                if shape in ODD and dtype.itemsize == 2 and operation != "pooling":
                    half = dataclasses.replace(inputs.to(device, dtype), grid=inputs.grid)
                    yield from _rows(operation, shape, half, TARGETS)


def large(device: torch.device | str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Sizes of real models, in the dtype that is timed and in another, against float64 on the device."""
    for name in names:
        shape = named(name, device)
        other = torch.float16 if shape.dtype == torch.float32 else torch.float32
        for dtype in (shape.dtype, other):
            inputs = make_inputs(dataclasses.replace(shape, dtype=dtype), device)
            for operation in at_shape(name):
                if operation in CHECKED:
                    yield from _rows(operation, shape, inputs, None)
            del inputs
            if torch.device(device).type == "cuda":
                torch.cuda.empty_cache()


def _rows(operation: str, shape: Shape, inputs: Inputs, targets: int | None) -> Iterator[dict[str, Any]]:
    g = inputs.weights[0]
    guard: Guard | None = None
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
            try:
                guard = guard or Guard(OPERATIONS[operation], inputs, targets=targets)
            except Exception as error:  # no truth: the others have theirs
                first = str(error).strip().partition("\n")[0][:300]
                yield {**row, "ok": False, "errors": {}, "reason": f"{type(error).__name__}: {first}"}
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
