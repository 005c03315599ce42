"""What the measured numbers were to be, and what they are."""

from __future__ import annotations

from typing import Any

TIME = {"brownian": 1.0, "sde": 3.0}
"""Percent of a training step that a cost may add."""

TIME_GPU_BOUND = {"brownian": 2.0, "sde": 3.0}
"""The same where the vanilla step waits for the device and not for the host."""

MEMORY = 2.0
"""Percent of a training step's peak memory."""

BANDWIDTH = 85.0
"""Percent of the copy bandwidth that pooling reaches."""

EAGER, COMPILED, TORCHSDE = 10.0, 2.0, 50.0
"""How many times as long another form of the same takes."""

Aim = dict[str, Any]


def aims(record: dict[str, Any]) -> list[Aim]:
    """Every aim with what was measured; ``reached`` is None, and a reason given, where nothing was.

    ``missed_by`` is in the aim's unit, None where it is reached or nothing was measured.
    """
    found = [*_training(record["training"]), *_pooling(record), *_ratios(record["times"])]
    if record["quick"]:  # what was measured was not what the aims are about
        nothing = {
            "measured": None,
            "reached": None,
            "missed_by": None,
            "reason": "tiny models, --quick",
        }
        return [{**aim, **nothing} for aim in found]
    return found


def _aim(
    what: str, unit: str, aim: float, measured: float | None, *, at_most: bool, reason: str = ""
) -> Aim:
    if measured is None:
        return _row(what, unit, aim, None, None, None, at_most, reason)
    off = measured - aim if at_most else aim - measured
    reached = off <= 0
    missed = None if reached else round(off, 3)
    return _row(what, unit, aim, round(measured, 3), reached, missed, at_most, reason)


def _row(
    what: str,
    unit: str,
    aim: float,
    measured: float | None,
    reached: bool | None,
    missed: float | None,
    at_most: bool,
    reason: str,
) -> Aim:
    return {
        "what": what,
        "unit": unit,
        "aim": aim,
        "at_most": at_most,
        "measured": measured,
        "reached": reached,
        "missed_by": missed,
        "reason": reason,
    }


def _training(workloads: list[dict[str, Any]]) -> list[Aim]:
    by_name = {work["workload"]: work["arms"] for work in workloads}
    found = []
    for name in ("bert", "causal"):
        arms = by_name.get(name, {})
        bound = arms.get("vanilla", {}).get("host_bound")
        limits = TIME_GPU_BOUND if bound is False else TIME
        said = {True: "the step is host-bound", False: "the step is GPU-bound", None: ""}[bound]
        for arm, limit in limits.items():
            ratio = arms[arm]["ratio"]["p50"] if arm in arms else None
            added = None if ratio is None else 100 * (ratio - 1)
            what = f"{arm}: time added to a step, {name}"
            found.append(_aim(what, "%", limit, added, at_most=True, reason=said if arms else ""))
        for arm in ("brownian", "lens", "posterior", "sde"):
            memory = arms[arm]["added_memory_percent"] if arm in arms else None
            found.append(
                _aim(f"{arm}: peak memory added to a step, {name}", "%", MEMORY, memory, at_most=True)
            )
    return found


def _pooling(record: dict[str, Any]) -> list[Aim]:
    memory = record["ceilings"]["bandwidth"]
    copy = memory["gigabytes_per_second"]["copy"] if memory else None
    rows = [row for row in record["pooling"] if row["backend"] == "triton"]
    if copy is None or not rows:
        reason = (
            "no copy bandwidth was measured" if copy is None else "Triton's pooling was not measured"
        )
        what = "pooling: share of the copy bandwidth"
        return [_aim(what, "%", BANDWIDTH, None, at_most=False, reason=reason)]
    return [
        _aim(
            f"pooling {row['way']}, {row['shape']}: share of the copy bandwidth",
            "%",
            BANDWIDTH,
            100 * row["gigabytes_per_second"] / copy,
            at_most=False,
            reason=f"by {row['by']} time",
        )
        for row in rows
    ]


def _ratios(groups: list[dict[str, Any]]) -> list[Aim]:
    found = []
    for other, limit in (("eager", EAGER), ("compiled", COMPILED)):
        for operation, shape in (("pdf", "bert-large"), ("fit", "fit")):
            arms = _arms(groups, operation, shape, other)
            for clock in ("device", "wall"):
                what = f"{operation}, {shape}: {other} takes, by {clock} time"
                found.append(
                    _aim(
                        what,
                        "x",
                        limit,
                        _times(arms, other, "ours", clock),
                        at_most=False,
                        reason=_why(arms, other),
                    )
                )
    arms = _arms(groups, "sde", "bert-large", "torchsde")
    ratio = _times(arms, "torchsde", "ours-picard", "wall")
    reason = "torchsde not there" if ratio is None else ""
    found.append(
        _aim(
            "sde, bert-large: torchsde takes, by wall time",
            "x",
            TORCHSDE,
            ratio,
            at_most=False,
            reason=reason,
        )
    )
    return found


def _arms(groups: list[dict[str, Any]], operation: str, shape: str, other: str) -> dict[str, Any]:
    """Of the last group of them where the other form was timed, else of the last."""
    named = [g["arms"] for g in groups if (g["operation"], g["shape"]) == (operation, shape)]
    timed = [arms for arms in named if arms.get(other, {}).get("status") == "timed"]
    chosen: dict[str, Any] = (timed or named or [{}])[-1]
    return chosen


def _times(arms: dict[str, Any], slow: str, fast: str, clock: str) -> float | None:
    pair = [_milliseconds(arms.get(name), clock) for name in (slow, fast)]
    return pair[0] / pair[1] if pair[0] is not None and pair[1] else None


def _milliseconds(arm: dict[str, Any] | None, clock: str) -> float | None:
    if arm is None or arm["status"] != "timed" or arm[clock] is None:
        return None
    spread = arm["device"]["milliseconds"] if clock == "device" else arm[clock]
    return float(spread["p50"])


def _why(arms: dict[str, Any], other: str) -> str:
    arm = arms.get(other)
    return str(arm["reason"]) if arm and arm["status"] != "timed" else ""
