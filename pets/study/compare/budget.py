"""A time that a comparison may take, and what of its seeds and weights fits into it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from bridges.errors import BadInput, shown

_Item = TypeVar("_Item")

LEAST_SEEDS = 3
"""Of fewer no difference can be tested."""
ENOUGH_SEEDS = 8
"""From here on further weights come before further seeds."""
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_TIME = re.compile("".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in _UNITS))


def parse_budget(text: str) -> float:
    """Seconds of ``"2h"``, ``"90m"``, ``"45s"`` or ``"1h30m"``.

    Raises:
        BadInput: for another text, or no time at all.
    """
    found = _TIME.fullmatch(text.strip().lower()) if isinstance(text, str) else None
    numbers = [float(number or 0) for number in found.groups()] if found else []
    seconds = sum(n * unit for n, unit in zip(numbers, _UNITS.values(), strict=False))
    if not 0 < seconds < 1e9:
        raise BadInput(f"budget {shown(text)}: expected a time such as 2h, 90m, 45s or 1h30m")
    return seconds


def said(seconds: float) -> str:
    """A time as people say it, to two digits or so: "45 s", "12 min", "1 h 30 min", "3.5 days"."""
    if seconds < 0.95:
        return f"{seconds:.1g} s"
    if seconds < 99.5:
        return f"{seconds:.2g} s" if seconds < 9.5 else f"{round(seconds)} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        hours, rest = divmod(minutes, 60)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{seconds / 86400:.1f} days"


def fitting(
    seconds: Callable[[int, int], float], seeds: int, weights: int, budget: float
) -> tuple[int, int]:
    """How many seeds and weights fit into a budget.

    As many seeds as were given, up to 8, with one weight each; then as many weights as fit; then the
    other seeds. A result of more seeds can be told from chance, one of more weights is a little better.
    Where some of it is done with several weights, so that these take less than one, it begins with them.

    Args:
        seconds: what so many seeds with so many weights take.
        seeds, weights: how many were given, at most what is taken.
        budget: in seconds.

    Raises:
        BadInput: if it is less than 3 seeds, or all where fewer were given, with one weight take.
    """
    least = min(LEAST_SEEDS, seeds)

    def most(fewest: int, given: int, takes: Callable[[int], float]) -> int:
        return next((n for n in range(given, fewest, -1) if takes(n) <= budget), fewest)

    needed, first = min((seconds(least, n), n) for n in range(1, weights + 1))
    if needed > budget:
        tested = "can be tested" if least == LEAST_SEEDS else "were given"
        each = "one weight" if first == 1 else f"{first} weights"
        raise BadInput(
            f"a budget of {said(budget)} is too little: {least} seeds, the fewest that {tested}, with "
            f"{each} take about {said(needed)} ({needed:.0f} s); give that, or leave out arms, PETs, "
            "shots or tasks, or take fewer --steps"
        )
    some = most(least, min(seeds, ENOUGH_SEEDS), lambda n: seconds(n, first))
    kept = most(first, weights, lambda n: seconds(some, n))
    return most(some, seeds, lambda n: seconds(n, kept)), kept


def middle(values: Sequence[_Item], count: int) -> tuple[_Item, ...]:
    """So many of them, those at both ends left out."""
    first = (len(values) - count) // 2
    return tuple(values[first : first + count])
