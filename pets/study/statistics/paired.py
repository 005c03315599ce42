"""Paired differences between two arms under the same seeds: intervals, tests, and their correction.

Everything works on arrays ``[repetitions, n]``, so the tests of this module measure coverage and size on
the code that the tables use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from bridges.errors import BadInput

Array = npt.NDArray[np.float64]
Span = tuple[float, float]
"""The lowest and the highest value of a metric."""

ERROR = 0.05  # of intervals and tests: 95 %
ROUNDING = 1e-9  # a deviation below it is that of differences which are all alike
_DECIMALS = 12  # of a difference: 0.65 - 0.64 and 0.66 - 0.65 are a tie, which floats would break


@dataclass(frozen=True)
class PairedDifference:
    """What paired differences (arm minus baseline) say about their mean.

    The primary test, the one to be corrected and called significant or not, is the paired t test: it
    can reject at five pairs. The signed-rank test stands beside it; its smallest two-sided p is
    2^(1-n), which is 0.0625 at five pairs, so at five pairs it can never reject at 5 %.

    Attributes:
        mean: mean difference.
        deviation: sample standard deviation of the differences; nan for a single one.
        count: number of pairs.
        low, high: the 95 % `t_interval` of the mean; nan for a single pair.
        p: two-sided p of the paired t test (`t_test`); nan for a single pair.
        wilcoxon_p: two-sided p of the exact `signed_rank_test`; nan for a single pair.
        differences, baseline, span: what it was made from, for intervals of another level.
    """

    mean: float
    deviation: float
    count: int
    low: float
    high: float
    p: float
    wilcoxon_p: float
    differences: tuple[float, ...] = field(repr=False)
    baseline: tuple[float, ...] = field(repr=False)
    span: Span | None = field(default=None, repr=False)

    def __str__(self) -> str:
        if self.count == 1:
            return f"{self.mean:+.3f} (n 1)"
        return f"{self.mean:+.3f} [{self.low:.3f}, {self.high:.3f}] (n {self.count})"

    def interval(self, error: float = ERROR) -> tuple[float, float]:
        """Bounds that leave the mean out with probability ``error``; nan for a single pair.

        Of m differences those with error 0.05 / m hold together with 95 % (Bonferroni).
        """
        if self.count == 1:
            return math.nan, math.nan
        rows, baseline = (np.array([values]) for values in (self.differences, self.baseline))
        low, high = t_interval(rows, error, baseline, self.span)
        return float(low[0]), float(high[0])


def difference(
    values: Sequence[float], baseline: Sequence[float], span: Span | None = None
) -> PairedDifference:
    """Compare an arm to a baseline that was measured under the same seeds, in the same order.

    Args:
        values, baseline: their scores.
        span: the metric's lowest and highest value, which cut the interval; None: not cut.

    Raises:
        BadInput: if the two are not equally long, are empty, or hold a number that is not finite.
    """
    if len(values) != len(baseline):
        raise BadInput(f"{len(values)} values against {len(baseline)}: expected pairs")
    if not len(values):
        raise BadInput("no pairs to compare: expected at least one seed that both arms have")
    theirs: Array = np.asarray(baseline, dtype=np.float64)
    d: Array = (np.asarray(values, dtype=np.float64) - theirs).round(_DECIMALS)
    if not np.isfinite(d).all():
        raise BadInput(f"differences {d.tolist()}: expected finite numbers; leave failed runs out")
    found: dict[str, Any] = {
        "differences": tuple(d.tolist()),
        "baseline": tuple(theirs.tolist()),
        "span": span,
    }
    if len(d) == 1:
        found |= dict.fromkeys(("deviation", "low", "high", "p", "wilcoxon_p"), math.nan)
        return PairedDifference(mean=float(d[0]), count=1, **found)
    rows: Array = d.reshape(1, -1)
    mean, deviation = _moments(rows)
    low, high = t_interval(rows, baseline=theirs.reshape(1, -1), span=span)
    return PairedDifference(
        mean=float(mean[0]),
        deviation=float(deviation[0]),
        count=len(d),
        low=float(low[0]),
        high=float(high[0]),
        p=float(t_test(rows)[0]),
        wilcoxon_p=float(signed_rank_test(rows)[0]),
        **found,
    )


def t_interval(
    differences: Array, error: float = ERROR, baseline: Array | None = None, span: Span | None = None
) -> tuple[Array, Array]:
    """Bounds of Student's t interval of the mean of every row of ``[repetitions, n]``, n > 1.

    It leaves out 0 where `t_test` has p below ``error``, rows of equal differences aside. It is cut to
    what a mean difference of this metric can be: the arm's mean is in the metric's span, so the
    difference is at most the highest value minus the baseline's mean. That mean is not known, its lower
    bound of the same level is (the sample's mean in its place would cut off the truth where an arm is
    near the highest value).

    Measured coverage in % (40,000 rows each, standard error 0.1). "Tied" is a normal of deviation 1.2
    rounded to whole numbers, "exp" the exponential about its mean; the accuracies are of 100 examples
    with what a split does to each arm, true means 0.97 and 0.99 or 0.98 and 0.999, cut::

                              n 3     5    10    30
        normal               95.2  95.1  94.8  95.2
        tied                 96.3  95.6  95.3  95.0
        exp                  88.5  88.3  89.9  92.6
        accuracy 0.97, 0.99  93.5  94.1  94.7  94.9
        accuracy 0.98, 0.999 87.5  87.5  91.3  93.2

    So it is too short where differences are strongly skewed, as near the end of a metric's span: there
    about 1 in 8 misses the truth, not 1 in 20. Without the cut the last line is 88.7, 88.3, 91.4, 93.2;
    cut at the highest value minus the sample's mean it would be 47, 48, 54, 58.
    """
    low, high = _plain_interval(differences, error)
    if baseline is not None and span is not None:
        lowest, highest = span
        least, most = (bound.clip(lowest, highest) for bound in _plain_interval(baseline, error))
        low, high = np.maximum(low, lowest - most), np.minimum(high, highest - least)
    return low, high


def _plain_interval(rows: Array, error: float) -> tuple[Array, Array]:
    n = rows.shape[1]
    mean, deviation = _moments(rows)
    half = stats.t.ppf(1 - error / 2, n - 1) * deviation / math.sqrt(n)
    return mean - half, mean + half


def t_test(differences: Array) -> Array:
    """Two-sided p of the t test that every row of ``[repetitions, n]``, n > 1, has mean 0.

    Measured size at 5 % and five pairs: 4.9 % for normal differences, 4.3 % for tied and 12 % for
    exponential ones (see `t_interval`), so a p near 0.05 from five skewed pairs is weaker than it looks.

    Rows of equal differences have no t: p is 1 if they are zero, else that of the sign test, 2^(1-n).
    """
    n = differences.shape[1]
    mean, deviation = _moments(differences)
    constant = deviation == 0
    t = np.divide(mean * math.sqrt(n), deviation, out=np.zeros_like(mean), where=~constant)
    p: Array = 2 * stats.t.sf(np.abs(t), n - 1)
    return np.where(constant & (mean != 0), 2.0 ** (1 - n), p)


def signed_rank_test(differences: Array) -> Array:
    """Two-sided p of Wilcoxon's signed-rank test for every row of ``[repetitions, n]``.

    Exact at every n: zero differences are left out (Wilcoxon's way), ties share their mean rank, and
    the law of the rank sum is that of random signs on these very ranks. All zero: p is 1.

    Its null is symmetry about 0, not mean 0: many skewed differences of mean 0 are rejected, and rightly
    so. The smallest p is 2^(1-n): 0.0625 at five pairs, so there it cannot reject at 5 %.
    """
    return np.array([_signed_rank_p(row[row != 0]) for row in differences])


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given.

    Comparisons with adjusted p below 0.05 hold together: the chance of one or more false ones among
    them is at most 5 %, whatever the dependence (Holm 1979). A nan, a comparison without a test, stays
    nan and does not count.
    """
    order = sorted((i for i, value in enumerate(p) if not math.isnan(value)), key=lambda i: p[i])
    adjusted = [math.nan] * len(p)
    largest = 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * p[i]))
        adjusted[i] = largest
    return adjusted


def _moments(rows: Array) -> tuple[Array, Array]:
    """Mean and sample deviation of every row; those of equal numbers are exact."""
    constant = np.ptp(rows, axis=1) == 0
    mean = np.where(constant, rows[:, 0], rows.mean(axis=1))
    return mean, np.where(constant, 0.0, rows.std(axis=1, ddof=1))


def _signed_rank_p(d: Array) -> float:
    if not len(d):
        return 1.0
    ranks = np.rint(2 * stats.rankdata(np.abs(d))).astype(int)  # doubled: ties have half ranks
    law = np.ones(1)  # of the doubled sum of the ranks with sign +
    for rank in ranks:
        law = 0.5 * (np.pad(law, (0, rank)) + np.pad(law, (rank, 0)))
    positive = int(ranks[d > 0].sum())
    tail = min(law[: positive + 1].sum(), law[positive:].sum())
    return float(min(1.0, 2 * tail))
