"""Mean, deviation, interval and count of repeated runs; never a best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from bridges.errors import BadInput

HEADING = "mean ± 95 % (sd, n) | paired difference to"
"""Of every table of `markdown_table`, which is how it is known again."""


@dataclass(frozen=True)
class Summary:
    """What repeated measurements say.

    Attributes:
        mean: their mean.
        deviation: sample standard deviation; nan for a single one.
        interval: half-width of the 95 % Student-t interval of the mean; nan for a single one.
        count: how many there are.
    """

    mean: float
    deviation: float
    interval: float
    count: int

    def __str__(self) -> str:
        if self.count == 1:
            return f"{self.mean:.3f} (n 1)"
        return f"{self.mean:.3f} ± {self.interval:.3f} (sd {self.deviation:.3f}, n {self.count})"


def summarise(values: Sequence[float]) -> Summary:
    """Summary of independent measurements.

    Raises:
        BadInput: if there are none.
    """
    count = len(values)
    if not count:
        raise BadInput("nothing to summarise: expected at least one value")
    mean = math.fsum(values) / count
    if count == 1:
        return Summary(mean, math.nan, math.nan, 1)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (count - 1))
    quantile = float(stats.t.ppf(0.975, count - 1))
    return Summary(mean, deviation, quantile * deviation / math.sqrt(count), count)


def paired(values: Sequence[float], baseline: Sequence[float]) -> Summary:
    """Summary of the differences to a baseline that was measured under the same seeds, in order.

    Raises:
        BadInput: if the two are not equally long.
    """
    if len(values) != len(baseline):
        raise BadInput(f"{len(values)} values against {len(baseline)}: expected pairs")
    return summarise([a - b for a, b in zip(values, baseline, strict=True)])


def markdown_table(arms: Mapping[str, Sequence[float]], baseline: str, metric: str) -> str:
    """A Markdown table: each arm's summary and its paired difference to the baseline arm."""
    lines = [f"| arm | {metric}: {HEADING} {baseline} |"]
    lines.append("| --- | --- | --- |")
    for arm, values in arms.items():
        difference = "" if arm == baseline else str(paired(values, arms[baseline]))
        lines.append(f"| {arm} | {summarise(values)} | {difference} |")
    return "\n".join(lines)
