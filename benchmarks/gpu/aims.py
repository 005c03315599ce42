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

NOT_TIMED = "the command did not come to it"

Aim = dict[str, Any]


def aims(record: dict[str, Any]) -> list[Aim]:
    """Every aim with what was measured; ``reached`` is None, and a reason given, where nothing was.

    A training step's time is judged by the interval of the wall time that is added. ``reached`` is None
    beside what was measured where the aim lies within that interval: it is not resolved.
    ``missed_by`` is in the aim's unit, None where it is reached or that is not known.
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
        return _row(what, unit, aim, None, None, None, at_most, reason or NOT_TIMED)
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
    by_name = {work["workload"]: work for work in workloads}
    found = []
    for name in ("bert", "causal"):
        arms = by_name.get(name, {"arms": {}})["arms"]
        bound = arms.get("vanilla", {}).get("host_bound")
        limits = TIME_GPU_BOUND if bound is False else TIME
        said = {True: "the step is host-bound", False: "the step is GPU-bound", None: ""}[bound]
        for arm, limit in limits.items():
            what = f"{arm}: time added to a step, {name}"
            found.append(_time(what, limit, arms.get(arm), arms.get("vanilla"), said))
        gradients = by_name[name]["state_gradients_mebibytes"] if name in by_name else 0.0
        for arm in ("brownian", "lens", "posterior", "sde"):
            memory, why = None, ""
            if arm in arms:
                memory, more = arms[arm]["added_memory_percent"], arms[arm]["adds"]["mebibytes"]
                why = f"{more:+.0f} MiB; the states' gradients are {gradients:.0f}"
            what = f"{arm}: peak memory added to a step, {name}"
            found.append(_aim(what, "%", MEMORY, memory, at_most=True, reason=why))
    return found


def _time(what: str, limit: float, arm: Aim | None, vanilla: Aim | None, said: str) -> Aim:
    """By the interval of the wall time where it does not hold the limit; the device's time beside it."""
    if arm is None or vanilla is None:
        return _aim(what, "%", limit, None, at_most=True)
    wall, device = arm["adds"]["wall"], arm["adds"]["device"]
    why = [said] if said else []
    if device is not None:
        base = vanilla["device"]["milliseconds"]["p50"]
        more, share = device["milliseconds"], device["percent"]
        why.append(f"device {more:+.3g} ms of {base:.3g}, {share:.2g} %")
    low, high, measured = wall["percent_low"], wall["percent_high"], wall["percent"]
    if low is None:
        why.insert(0, f"no interval of {wall['rounds']} rounds")
    else:
        why.insert(0, f"{low:+.1f} to {high:+.1f} % in {wall['rounds']} rounds")
    reached = None if low is None or low <= limit < high else high <= limit
    missed = round(measured - limit, 3) if reached is False else None
    return _row(what, "%", limit, round(measured, 3), reached, missed, True, "; ".join(why))


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
    reason = _why(arms, "torchsde")
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
