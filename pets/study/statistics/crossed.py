"""The interval of a mean difference where both the splits and the examples might have been others."""

from __future__ import annotations

import numpy as np
from scipy import stats

from bridges.errors import BadInput
from pets.study.statistics.paired import Array


def crossed_interval(differences: Array, error: float) -> tuple[float, float]:
    """Bounds of the mean of differences that were all measured on the same examples.

    An arm minus its baseline on split s and example e is a mean, plus what the split adds, what the
    example adds, and what the two add together, all random (the two-way layout of Searle, Casella and
    McCulloch, "Variance Components", 1992, chapter 4). With S splits and E examples the variance of
    the mean is that of the splits over S, plus that of the examples over E, plus the rest over S E; it
    is put together of the three mean squares, its degrees of freedom are Satterthwaite's (1946). An
    interval over splits alone lacks the second part. Where examples seem to add nothing it is that one.

    Args:
        differences: [S, E], each at least 2.
        error: the bounds leave the mean out with this probability.

    Raises:
        BadInput: for fewer than two splits or examples.
    """
    if differences.ndim != 2 or min(differences.shape) < 2:
        raise BadInput(f"differences of shape {differences.shape}: expected two splits and two examples")
    splits, examples = differences.shape
    mean = differences.mean()
    by_split, by_example = differences.mean(1), differences.mean(0)
    rest = differences - by_split[:, None] - by_example + mean
    freedom = np.array([splits - 1, examples - 1, (splits - 1) * (examples - 1)], dtype=np.float64)
    of_splits, of_examples, of_rest = (
        np.array(
            [
                examples * np.square(by_split - mean).sum(),
                splits * np.square(by_example - mean).sum(),
                np.square(rest).sum(),
            ]
        )
        / freedom
        / differences.size
    )
    if of_examples <= of_rest:  # no more than chance: the interval over splits
        variance, known = of_splits, freedom[0]
    else:
        variance = of_splits + of_examples - of_rest
        parts = np.array([of_splits, of_examples, of_rest])
        known = variance**2 / (np.square(parts) / freedom).sum()
    half = stats.t.ppf(1 - error / 2, known) * np.sqrt(variance) if variance > 0 else 0.0
    return float(mean - half), float(mean + half)
