"""Three times of a call: until it returns, until the device is done, and what the device did for it."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.meter import Call, quantiles, ratios, turns

PROFILED = 5
"""Calls that a profile is the median of."""

WORK = ("kernel", "gpu_memcpy", "gpu_memset")
"""Activities of a device that are work, not an annotation's span."""

OVERHEAD = (
    "Activity Buffer Request",
    "Buffer Flush",
    "Instrumentation",
    "Resource",
    "Lazy Function Loading",
)
"""Of the profiler itself."""

MARK = "spin_kernel"
"""The kernel of `torch.cuda._sleep`, which separates one profiled call from the next."""


@dataclass
class Taken:
    """Of one arm, a number a round: milliseconds until the call returned, and until all was done."""

    host: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


def in_turn(
    arms: Mapping[str, Call], rounds: int, device: torch.device | str, *, seconds: float = float("inf")
) -> dict[str, Taken]:
    """Host and wall time of every call, all arms in turn in each round, the queue empty before each.

    Python's garbage is collected between the calls, and not in them.

    Args:
        rounds, seconds: as `benchmarks.meter.measure`.
    """
    taken = {name: Taken() for name in arms}
    on_cuda = torch.device(device).type == "cuda"
    with uncollected():
        for name, counted in turns(list(arms), rounds, seconds):
            gc.collect()
            _wait(device)
            start = time.perf_counter()
            kept = arms[name]()
            returned = time.perf_counter()
            _wait(device)
            done = time.perf_counter()
            del kept
            if counted:
                taken[name].wall.append(1e3 * (done - start))
                taken[name].host.append(1e3 * ((returned if on_cuda else done) - start))
    return taken


@contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's garbage collector, which stops a process at any time for as long as it likes.

    What is there already is looked at no more, so that collecting by hand is quick.
    """
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def on_device(
    call: Call, device: torch.device | str, calls: int = PROFILED, *, names: bool = False
) -> dict[str, Any] | None:
    """What the device does in a call: the sum of its kernels' times; None where there is no such device.

    Returns:
        milliseconds: of kernels, copies and fills, as quantiles over the profiled calls.
        kernels, copies: how many in a call, the median.
        calls: profiled.
        by_name: with ``names``, microseconds and number in a call, the mean, by the kernel's name.

    Raises:
        RuntimeError: if the profiler saw no work in a call, or lost a call.
    """
    if torch.device(device).type != "cuda":
        return None
    call()
    _wait(device)
    mark: Any = torch.cuda._sleep
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(calls):
            call()
            mark(1)
        _wait(device)
    events = events_of(profiler)
    return {**summed(events, calls), **({"by_name": by_name(events, calls)} if names else {})}


Event = tuple[str, str, int, int]
"""Activity, name, start and duration in nanoseconds."""


def events_of(profiler: Any) -> list[Event]:
    """The device's events of a finished profile, in their order."""
    found = profiler.profiler.kineto_results.events()
    on = [e for e in found if e.device_type() == DeviceType.CUDA]
    each = [(activity(e), e.name(), e.start_ns(), e.duration_ns()) for e in on]
    return sorted(each, key=lambda event: event[2])


def activity(event: Any) -> str:
    """What kind of event it is; by its name in versions of torch that do not say it."""
    if hasattr(event, "activity_type"):
        return str(event.activity_type())
    name = event.name()
    for start, kind in (("Memcpy", "gpu_memcpy"), ("Memset", "gpu_memset")):
        if name.startswith(start):
            return kind
    said = getattr(event, "is_user_annotation", lambda: False)()
    annotation = said or "#" in name or name in OVERHEAD
    return "annotation" if annotation else "kernel"


def summed(events: list[Event], calls: int) -> dict[str, Any]:
    """Time and number of the work before each mark; see `on_device`."""
    parts: list[list[Event]] = [[]]
    for event in events:
        if MARK in event[1]:
            parts.append([])
        elif event[0] in WORK:
            parts[-1].append(event)
    parts.pop()
    if len(parts) != calls or not all(parts):
        seen = [len(part) for part in parts]
        raise RuntimeError(f"{calls} calls were profiled, and the device's work in them was {seen}")
    kernels = [float(sum(e[0] == "kernel" for e in part)) for part in parts]
    copies = [float(sum(e[0] != "kernel" for e in part)) for part in parts]
    return {
        "milliseconds": quantiles([sum(e[3] for e in part) / 1e6 for part in parts]),
        "kernels": round(quantiles(kernels)["p50"]),
        "copies": round(quantiles(copies)["p50"]),
        "calls": calls,
    }


def by_name(events: list[Event], calls: int) -> dict[str, list[float]]:
    """Microseconds and number of each kernel, copy and fill in a call, the mean over the calls."""
    found: dict[str, list[float]] = {}
    for event in events:
        if event[0] in WORK and MARK not in event[1]:
            each = found.setdefault(event[1], [0.0, 0.0])
            each[0] += event[3] / 1e3 / calls
            each[1] += 1 / calls
    return found


def three(
    taken: dict[str, Taken],
    calls: Mapping[str, Call],
    device: torch.device | str,
    baseline: str,
    *,
    names: bool = False,
) -> dict[str, dict[str, Any]]:
    """The times of every arm for a record; the ratio is of wall times in the same round.

    Returns:
        By arm: ``rounds``, ``host``, ``wall`` and ``ratio`` as quantiles, ``device`` as `on_device`, or
        None with ``device_reason`` where it could not be measured.
    """
    rows: dict[str, dict[str, Any]] = {}
    of_baseline = taken.get(baseline)
    for name, times in taken.items():
        row: dict[str, Any] = {
            "rounds": len(times.wall),
            "host": quantiles(times.host),
            "wall": quantiles(times.wall),
            "ratio": _ratios(times, of_baseline) if of_baseline else None,
        }
        try:
            row["device"] = on_device(calls[name], device, names=names)
        except Exception as error:  # host and wall are there, and are worth keeping
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            row |= {"device": None, "device_reason": reason}
        rows[name] = row
    return rows


def _ratios(arm: Taken, baseline: Taken) -> dict[str, float]:
    """An arm may have had fewer rounds, the first ones."""
    return ratios(arm.wall, baseline.wall[: len(arm.wall)])


def _wait(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
