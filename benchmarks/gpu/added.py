"""What an arm adds to the vanilla step: on the device, on the host, and in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

MEBIBYTE = 2**20

CONFIDENCE = 0.95

Row = dict[str, Any]


def paired(arm: Sequence[float], baseline: Sequence[float]) -> Row:
    """The median of the differences within a round, and an interval of it.

    The interval is between two of the sorted differences (that of the sign test), at least 95 %
    whatever the noise is like: on a busy host a few steps take several times as long as the others.

    Args:
        arm, baseline: milliseconds, a number a round.

    Returns:
        milliseconds, low, high: the latter two None below six rounds, where no interval has 95 %.
        rounds: how many.
    """
    differences = sorted(a - b for a, b in zip(arm, baseline, strict=True))
    count, cut = len(differences), _cut(len(differences))
    median = float(torch.tensor(differences, dtype=torch.float64).quantile(0.5))
    low, high = (differences[cut - 1], differences[-cut]) if cut else (None, None)
    found = {"milliseconds": median, "low": low, "high": high}
    rounded = {name: None if x is None else float(f"{x:.6g}") for name, x in found.items()}
    return {**rounded, "rounds": count}


def _cut(count: int) -> int:
    """The k for which the k-th and the k-th last of sorted numbers hold the median; 0 for none."""
    beyond, k = 0.0, 0
    while True:
        beyond += math.comb(count, k) / 2**count
        if beyond > (1 - CONFIDENCE) / 2:
            return k
        k += 1


def adds(arm: Row, vanilla: Row) -> Row:
    """Of two rows of a training step; each part is None where its numbers are not there.

    Returns:
        device: milliseconds more than the vanilla step's median, low and high from the p20 and p80 of
            both, and percent of it.
        host, wall: as `paired`, with ``percent``, ``percent_low`` and ``percent_high`` of the vanilla
            step's median. In a row without differences the wall time's percents are of the ratios.
        mebibytes: of peak memory.
    """
    given = arm.get("paired") or {}
    host, wall = (_share(given.get(clock), vanilla[clock]["p50"]) for clock in ("host", "wall"))
    return {
        "device": _device(arm["device"], vanilla["device"]),
        "host": host,
        "wall": wall or of_ratios(arm["ratio"], arm["rounds"]),
        "mebibytes": round(arm["peak_mebibytes"] - vanilla["peak_mebibytes"], 3),
    }


def of_ratios(ratio: dict[str, float], rounds: int) -> Row:
    """Percent that a median ratio adds; between p20 and p80, where that is an interval of it of 95 %."""
    beyond = math.floor(0.2 * (rounds - 1)) + 2  # p20 is at most the number with this rank
    low, high = ("p20", "p80") if beyond <= _cut(rounds) else (None, None)
    found = {"percent": "p50", "percent_low": low, "percent_high": high}
    percent = {
        name: None if at is None else round(100 * (ratio[at] - 1), 3) for name, at in found.items()
    }
    return {"milliseconds": None, "low": None, "high": None, "rounds": rounds, **percent}


def _device(arm: Row | None, vanilla: Row | None) -> Row | None:
    if arm is None or vanilla is None:
        return None
    mine, base = arm["milliseconds"], vanilla["milliseconds"]
    more = mine["p50"] - base["p50"]
    return {
        "milliseconds": round(more, 4),
        "low": round(mine["p20"] - base["p80"], 4),
        "high": round(mine["p80"] - base["p20"], 4),
        "percent": round(100 * more / base["p50"], 2),
    }


def _share(interval: Row | None, of: float) -> Row | None:
    if interval is None:
        return None
    names = {"percent": "milliseconds", "percent_low": "low", "percent_high": "high"}
    each = {name: interval[source] for name, source in names.items()}
    return {**interval, **{n: None if x is None else round(100 * x / of, 3) for n, x in each.items()}}


def state_gradients(sizes: Row) -> float:
    """MiB of a dense gradient for every one of the L+1 hidden states, as a step with a cost has them."""
    numbers = (sizes["layers"] + 1) * sizes["batch"] * sizes["length"] * sizes["hidden"]
    dtype: torch.dtype = getattr(torch, sizes["dtype"])
    return float(numbers * dtype.itemsize / MEBIBYTE)


def kernels(arm: dict[str, list[float]], vanilla: dict[str, list[float]], most: int = 12) -> list[Row]:
    """The kernels whose time a call of the arm has more of, or less, the largest first.

    Args:
        arm, vanilla: microseconds and number in a call, by the kernel's name.
    """
    none = [0.0, 0.0]

    def more(name: str) -> list[float]:
        return [a - b for a, b in zip(arm.get(name, none), vanilla.get(name, none), strict=True)]

    changed = [name for name in {**vanilla, **arm} if more(name)[0]]
    largest = sorted(changed, key=lambda name: -abs(more(name)[0]))[:most]
    return [
        {"name": name[:100], "microseconds": round(time, 2), "count": round(count, 1)}
        for name in largest
        for time, count in [more(name)]
    ]
