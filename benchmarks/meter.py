"""Time and memory of calls, on the CPU and on CUDA."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Call = Callable[[], object]
Quantiles = dict[str, float]

WARM_UP = 2
"""Rounds that are not counted."""

FEWEST = 3
"""Rounds that are counted, whatever time they take."""

_AT = {"p20": 0.2, "p50": 0.5, "p80": 0.8}


def measure(
    arms: Mapping[str, Call],
    rounds: int,
    device: torch.device | str,
    *,
    seconds: float = float("inf"),
    around: Callable[[str], AbstractContextManager[Any]] = lambda name: nullcontext(),
) -> dict[str, list[float]]:
    """Milliseconds of every call: all arms in turn in each round, so that they share the machine's mood.

    Who begins moves on by one each round, so that no arm always follows the same one's caches.

    Args:
        rounds: at most.
        seconds: of counted rounds, after which none is begun, once there are `FEWEST`.
        around: entered around each call of an arm, outside the time.
    """
    taken: dict[str, list[float]] = {name: [] for name in arms}
    for name, counted in turns(list(arms), rounds, seconds):
        with around(name):
            milliseconds = once(arms[name], device)
        if counted:
            taken[name].append(milliseconds)
    return taken


def turns(names: Sequence[str], rounds: int, seconds: float) -> Iterator[tuple[str, bool]]:
    """Who runs next, and whether it is counted; see `measure`."""
    start = time.perf_counter()
    for k in range(WARM_UP + rounds):
        if k == WARM_UP:  # what is compiled in the rounds before it is not of the time
            start = time.perf_counter()
        if k >= WARM_UP + FEWEST and time.perf_counter() - start > seconds:
            break
        turn = k % max(len(names), 1)
        for name in [*names[turn:], *names[:turn]]:
            yield name, k >= WARM_UP


def once(call: Call, device: torch.device | str) -> float:
    """Milliseconds of one call, until the device is done."""
    if torch.device(device).type != "cuda":
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    before.record()
    call()
    after.record()
    torch.cuda.synchronize(device)
    return float(before.elapsed_time(after))


def quantiles(values: Sequence[float]) -> Quantiles:
    """20, 50 and 80 % of some values."""
    at = torch.tensor(list(_AT.values()), dtype=torch.float64)
    cuts = torch.tensor(values, dtype=torch.float64).quantile(at)
    return {name: float(f"{x:.6g}") for name, x in zip(_AT, cuts.tolist(), strict=True)}


def ratios(arm: Sequence[float], baseline: Sequence[float]) -> Quantiles:
    """Quantiles of the arm's time over the baseline's of the same round."""
    return quantiles([a / b for a, b in zip(arm, baseline, strict=True)])


def peak_bytes(call: Call, device: torch.device | str) -> int:
    """The most memory that one call has taken at a time, what it returns included.

    On CUDA by the caching allocator's count, on the CPU by the profiler's: every allocation and release
    of a tensor, in their order. Scratch memory inside a library's product is in neither.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        kept = call()
        torch.cuda.synchronize(device)
        del kept
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = call()
    del kept
    results = getattr(profiler.profiler, "kineto_results", None)
    changes = [e for e in results.events() if e.name() == "[memory]"] if results else []
    now = peak = 0
    for change in sorted(changes, key=lambda e: e.start_ns()):
        now += change.nbytes()
        peak = max(peak, now)
    return peak
