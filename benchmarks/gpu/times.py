"""Host, wall and device times of every operation, and what share of the bandwidth pooling reaches."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.arms import at_shape
from benchmarks.gpu.clock import in_turn, three
from benchmarks.gpu.plan import Context
from benchmarks.meter import Call
from benchmarks.shapes import Inputs, Shape, make_inputs, named
from benchmarks.suite import Group
from kernels.dispatch import choose
from kernels.pooling import pool_trajectory

ROUNDS, SECONDS = 30, 1.0
"""Of an operation at a shape, at most."""

FIRST = (("pdf", "bert-large"), ("fit", "fit"), ("sde", "bert-large"), ("lens", "bert-large"))
"""What the aims are about comes before what else there is."""

TORCHSDE_SECONDS = 15.0
"""Kept for it, in the end: a call of it takes seconds on a slow host."""

TORCHSDE_ROUNDS = 3

BESIDE_TORCHSDE = ("ours-sequential", "ours-picard-pytorch", "ours-sequential-pytorch")
"""Forms of ours that are left out there."""

SETS = 2
"""Of hidden states, in turn, so that none is still in a cache."""

LEAST = 6.0
"""Seconds that one operation takes, more or less: with less left none is begun."""

COMPILED = (("pdf", "bert-large"), ("fit", "fit"))
"""What torch.compile is compared at: its compilation takes most of the time."""

COMPILE_SECONDS = 15.0
"""That a compiled form takes, more or less."""

LATER = "in the part `compiled`"


def run(context: Context) -> None:
    """Rows "pooling" and "times", or those of the compiled forms."""
    rounds, seconds = (3, 1.0) if context.quick else (ROUNDS, SECONDS)
    if context.option == "compiled":
        cases = [("pdf", "tiny"), ("fit", "tiny")] if context.quick else list(COMPILED)
        for operation, name in cases:
            _compiled(context, operation, name, rounds, seconds)
        return
    for name in context.shapes:
        if name != "bert-base" and "pooling" in at_shape(name):
            _pooling(context, named(name, context.device), rounds, seconds)
    for operation, name in order(context.shapes):
        if _has(context, LEAST + TORCHSDE_SECONDS, f"{operation}, {name}"):
            without = ("torchsde",) if operation == "sde" else ()
            shape = named(name, context.device)
            _times(context, operation, shape, rounds, seconds, LATER, without)
    last = "tiny" if context.quick else "bert-large"
    if _has(context, TORCHSDE_SECONDS / 2, f"torchsde, {last}"):
        shape = named(last, context.device)
        _times(context, "sde", shape, min(rounds, TORCHSDE_ROUNDS), 0.0, LATER, BESIDE_TORCHSDE)


def order(shapes: Sequence[str]) -> list[tuple[str, str]]:
    """Operations at shapes, but for pooling: those of the aims first, then shape by shape."""
    every = [
        (operation, name)
        for name in shapes
        if name != "bert-base"
        for operation in at_shape(name)
        if operation != "pooling"
    ]
    return sorted(every, key=lambda each: FIRST.index(each) if each in FIRST else len(FIRST))


def _has(context: Context, seconds: float, what: str) -> bool:
    """Whether the part has so much time left; if not, that is written."""
    left = context.left()
    if left >= seconds or context.quick:
        return True
    context.add("skipped", what=what, reason=f"{left:.0f} s were left of the part's time")
    return False


def _pooling(context: Context, shape: Shape, rounds: int, seconds: float) -> None:
    for row in pooling(shape, context.device, rounds, seconds):
        _said(context, f"pooling {row['way']}, {row['backend']}, {shape.name}", row)
        context.add("pooling", **row)


def _compiled(context: Context, operation: str, name: str, rounds: int, seconds: float) -> None:
    if not _has(context, COMPILE_SECONDS, f"{operation}, {name}"):
        return
    compiled: bool | str = True if torch.device(context.device).type == "cuda" else "on a GPU alone"
    _times(context, operation, named(name, context.device), rounds, seconds, compiled)


def _times(
    context: Context,
    operation: str,
    shape: Shape,
    rounds: int,
    seconds: float,
    compiled: bool | str,
    without: Collection[str] = (),
) -> None:
    """One operation at one shape; what goes wrong with it is written, and the next one begins."""
    try:
        group = Group(operation, shape, context.device, compiled=compiled, targets=None, without=without)
        row = timed(group, rounds, seconds)
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        context.say(f"{operation}, {shape.name}: {reason}")
        context.add("failed", what=f"{operation}, {shape.name}", reason=reason)
        return
    for name, arm in row["arms"].items():
        if arm["status"] == "timed":
            _said(context, f"{operation}, {shape.name}, {name}", arm)
        else:
            context.say(f"{operation}, {shape.name}, {name}: {arm['status']}: {arm['reason']}")
    context.add("times", **row)
    if torch.device(context.device).type == "cuda":
        torch.cuda.empty_cache()


def timed(group: Group, rounds: int, seconds: float) -> dict[str, Any]:
    """The arms of a group: checked, then host, wall and device time, memory and arithmetic."""
    calls = group.right()
    memory = {name: group.memory(call) for name, call in calls.items()}
    taken = in_turn(calls, rounds, group.device, seconds=seconds)
    times = three(taken, calls, group.device, group.operation.baseline)
    arms = {}
    for name in group.arms:
        arms[name] = group.checked(name)
        if name in calls:
            arms[name] |= {**times[name], "mebibytes": memory[name], **group.work(name)}
    return {**group.head(), "arms": arms}


def pooling(
    shape: Shape, device: torch.device | str, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Times of pooling each way, for the backend that is chosen and for PyTorch, and the bytes moved.

    Counted is the least that has to be moved: forward, the attended states are read once and the
    results are written; backward, the gradient of every state is written, and the results' is read.
    """
    sets = [make_inputs(shape, device, seed=seed) for seed in range(SETS)]
    attended = int(sets[0].mask.sum()) * shape.states * shape.hidden * shape.dtype.itemsize
    rows = []
    for backend in dict.fromkeys((choose(sets[0].hidden[0]).backend.name, "pytorch")):
        calls, results = _ways(sets, backend)
        times = three(in_turn(calls, rounds, device, seconds=seconds), calls, device, "forward")
        moved = {"forward": attended + results, "backward": shape.hidden_bytes + results}
        for way, each in times.items():
            del each["ratio"]
            clock = each["device"]["milliseconds"] if each["device"] else each["wall"]
            rows.append(
                {
                    "shape": shape.name,
                    "backend": backend,
                    "way": way,
                    "bytes": moved[way],
                    "by": "device" if each["device"] else "wall",
                    "gigabytes_per_second": round(moved[way] / clock["p50"] / 1e6, 1),
                    **each,
                }
            )
    return rows


def _ways(sets: list[Inputs], backend: str) -> tuple[dict[str, Call], int]:
    """Pooling there and back, each call on the next set; and the bytes of its results."""

    def pooled(x: Inputs) -> tuple[Tensor, Tensor]:
        return pool_trajectory(x.hidden, x.mask, x.rows, x.columns, in_order=True, backend=backend)

    graphs = [(x, pooled(x)) for x in sets]
    weights = [torch.ones_like(t) for t in graphs[0][1]]
    there, back = itertools.cycle(sets), itertools.cycle(graphs)

    def backward() -> object:
        x, outputs = next(back)
        return torch.autograd.grad(outputs, x.hidden, weights, retain_graph=True)

    calls: dict[str, Call] = {"forward": lambda: pooled(next(there)), "backward": backward}
    return calls, sum(t.nbytes for t in weights)


def _said(context: Context, what: str, row: dict[str, Any]) -> None:
    clock = row["device"]
    device = f"{clock['milliseconds']['p50']:8.3f} in {clock['kernels']}" if clock else "none"
    rate = f"  {row['gigabytes_per_second']:.0f} GB/s" if "gigabytes_per_second" in row else ""
    context.say(
        f"{what:40} host {row['host']['p50']:8.3f}  wall {row['wall']['p50']:8.3f}  "
        f"device {device}{rate}"
    )
