"""The interval over splits and examples, against Monte Carlo and the usual sums of squares."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bridges.errors import BadInput
from pets.study.statistics.crossed import crossed_interval
from pets.study.statistics.paired import Array

ROUNDS = 2000


def made(
    shape: tuple[int, int], deviations: tuple[float, float, float], rng: np.random.Generator
) -> Array:
    """A split's part, an example's, and what the two add together."""
    of_split, of_example, rest = deviations
    return (
        of_split * rng.standard_normal((shape[0], 1))
        + of_example * rng.standard_normal((1, shape[1]))
        + rest * rng.standard_normal(shape)
    )


def over_splits(differences: Array) -> tuple[float, float]:
    found = stats.ttest_1samp(differences.mean(1), 0.0).confidence_interval(0.95)
    return float(found.low), float(found.high)


@pytest.mark.parametrize(
    ("shape", "deviations"),
    [((8, 60), (0.05, 0.1, 0.3)), ((28, 100), (0.05, 0.1, 0.4)), ((20, 100), (0.02, 0.2, 0.3))],
)
def test_it_holds_the_mean_as_often_as_it_says(
    shape: tuple[int, int], deviations: tuple[float, float, float]
) -> None:
    """Within four standard errors, and two hundredths for what Satterthwaite's freedom misses."""
    rng = np.random.default_rng(0)
    held = alone = 0
    for _ in range(ROUNDS):
        differences = made(shape, deviations, rng)
        low, high = crossed_interval(differences, 0.05)
        held += low <= 0 <= high
        low, high = over_splits(differences)
        alone += low <= 0 <= high
    error = 4 * (0.95 * 0.05 / ROUNDS) ** 0.5
    assert 0.93 - error < held / ROUNDS < 0.95 + error
    assert alone < held  # an interval over splits alone is too short


def test_it_is_the_interval_over_splits_where_examples_add_nothing() -> None:
    differences = made((6, 30), (0.1, 0.0, 0.2), np.random.default_rng(1))
    differences -= differences.mean(0) - differences.mean()  # all examples alike to the last bit
    assert crossed_interval(differences, 0.05) == pytest.approx(over_splits(differences))
    assert crossed_interval(np.full((3, 4), 0.25), 0.05) == (0.25, 0.25)


def test_its_variance_is_that_of_the_mean_squares_by_hand() -> None:
    differences = made((3, 4), (0.0, 1.0, 0.1), np.random.default_rng(2))
    mean = differences.mean()
    squares = {"split": 0.0, "example": 0.0, "rest": 0.0}
    for s in range(3):
        for e in range(4):
            split, example = differences[s].mean() - mean, differences[:, e].mean() - mean
            squares["split"] += split**2
            squares["example"] += example**2
            squares["rest"] += (differences[s, e] - mean - split - example) ** 2
    parts = [squares["split"] / 2 / 12, squares["example"] / 3 / 12, -squares["rest"] / 6 / 12]
    freedom = sum(parts) ** 2 / sum(p**2 / f for p, f in zip(parts, (2, 3, 6), strict=True))
    half = stats.t.ppf(0.995, freedom) * sum(parts) ** 0.5
    assert crossed_interval(differences, 0.01) == pytest.approx((mean - half, mean + half))


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (5,)])
def test_one_split_or_example_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="expected two splits and two examples"):
        crossed_interval(np.zeros(shape), 0.05)
