"""What a number of pairs can show: the smallest difference seen, the pairs that one needs."""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, stats

from bridges.errors import BadInput
from pets.study.statistics.paired import ERROR

POWER = 0.8
"""How often a true difference is to be seen: four times in five."""
_MOST_PAIRS = 10_000
_PLACES, _HALVES = np.polynomial.legendre.leggauss(200)
_NODES, _WEIGHTS = (_PLACES + 1) / 2, _HALVES / 2  # of the mean over probabilities from 0 to 1


def power(effect: float, count: int, error: float = ERROR) -> float:
    """How often the two-sided paired t test sees a true mean difference, for normal differences.

    Args:
        effect: the true mean over the deviation of the differences.
        count: pairs, at least 2.
        error: of the test; of m tests corrected by Holm the first has to pass 0.05 / m.
    """
    freedom, shift = count - 1, effect * math.sqrt(count)
    # Over the law of the sample's deviation: scipy's non-central t is nan far out in a tail.
    spread = np.sqrt(stats.chi2.ppf(_NODES, freedom) / freedom) * stats.t.ppf(1 - error / 2, freedom)
    seen = stats.norm.sf(spread - shift) + stats.norm.sf(spread + shift)
    return float(seen @ _WEIGHTS)


def detectable(deviation: float, count: int, error: float = ERROR) -> float:
    """The true mean difference that so many pairs show four times in five; in the metric's unit.

    Args:
        deviation: of the differences, as seen.
        count: pairs.
        error: of the test, see `power`.

    Raises:
        BadInput: for fewer than 2 pairs, or a deviation that is negative or not finite.
    """
    _check(deviation)
    if count < 2:
        raise BadInput(f"{count} pairs show no difference of any size: expected at least 2")
    freedom = count - 1
    near = (stats.t.ppf(1 - error / 2, freedom) + stats.t.ppf(POWER, freedom)) / math.sqrt(count)
    effect = optimize.brentq(lambda d: power(d, count, error) - POWER, 0.2 * near, 2 * near)
    return float(effect) * deviation


def pairs_needed(difference: float, deviation: float, error: float = ERROR) -> int | None:
    """How many pairs show a true mean difference four times in five; at least 3.

    Returns:
        None where more than 10,000 are needed.

    Raises:
        BadInput: for a difference that is not positive, or a deviation that is negative or not finite.
    """
    _check(deviation)
    if not difference > 0:
        raise BadInput(f"difference {difference}: expected a positive number")
    if deviation == 0:
        return 3
    low, high = 2, 3
    while power(difference / deviation, high, error) < POWER:
        low, high = high, 2 * high
        if low > _MOST_PAIRS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = power(difference / deviation, middle, error) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


def _check(deviation: float) -> None:
    if not 0 <= deviation < math.inf:
        raise BadInput(f"deviation {deviation}: expected a finite number of at least 0")
