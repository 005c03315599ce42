"""What a device's memory can do, and what share of it pooling reaches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.meter import Call, measure, quantiles
from benchmarks.shapes import Shape, make_inputs
from kernels.dispatch import choose
from kernels.pooling import pool_trajectory

GIBIBYTE = 2**30


def ceilings(device: torch.device | str, size: int, rounds: int) -> dict[str, float]:
    """GB/s of reading (a sum), writing (a fill) and copying (read and written both count).

    Args:
        size: bytes of the array; far more than a cache holds.
    """
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    calls: dict[str, tuple[Call, int]] = {
        "read": (lambda: source.sum(), size),
        "write": (lambda: target.fill_(1.0), size),
        "copy": (lambda: target.copy_(source), 2 * size),
    }
    times = measure({name: call for name, (call, _) in calls.items()}, rounds, device)
    return {name: _rate(moved, times[name]) for name, (_, moved) in calls.items()}


def pooling(
    shape: Shape, device: torch.device | str, rounds: int, ceiling: dict[str, float]
) -> list[dict[str, Any]]:
    """GB/s of pooling each way and its share of the ceiling, for every backend that may be chosen.

    Counted is the least that has to be moved: forward, the attended states are read once and the
    results are written; backward, the gradient of every state is written, and the results' is read.
    """
    x = make_inputs(shape, device)
    chosen = choose(x.hidden[0]).backend.name
    attended = int(x.mask.sum()) * shape.states * shape.hidden * shape.dtype.itemsize
    rows = []
    for backend in dict.fromkeys((chosen, "pytorch")):
        run = _pooled(x.hidden, (x.mask, x.rows, x.columns), backend)
        outputs = run()
        results = sum(t.nbytes for t in outputs)
        weights = [torch.ones_like(t) for t in outputs]

        def backward(outputs: Any = outputs, weights: Any = weights) -> object:
            return torch.autograd.grad(outputs, x.hidden, weights, retain_graph=True)

        times = measure({"forward": run, "backward": backward}, rounds, device)
        ways = (
            ("forward", attended + results, "read"),
            ("backward", shape.hidden_bytes + results, "write"),
        )
        for way, moved, against in ways:
            rate = _rate(moved, times[way])
            rows.append(
                {
                    "backend": backend,
                    "way": way,
                    "milliseconds": quantiles(times[way]),
                    "bytes": moved,
                    "gigabytes_per_second": rate,
                    "ceiling": against,
                    "share": round(rate / ceiling[against], 3),
                }
            )
    return rows


def _pooled(hidden: Any, where: Any, backend: str) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    return lambda: pool_trajectory(hidden, *where, backend=backend)


def _rate(moved: int, milliseconds: list[float]) -> float:
    return round(moved / quantiles(milliseconds)["p50"] / 1e6, 1)
