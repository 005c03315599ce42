"""What pairs can show: against simulation with the test that decides, and against a published table."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bridges import BadInput
from pets.study.statistics.paired import t_test
from pets.study.statistics.power import detectable, pairs_needed, power


@pytest.mark.parametrize(("count", "error"), [(3, 0.05), (5, 0.05), (5, 0.05 / 8), (20, 0.01)])
def test_the_detectable_difference_is_seen_four_times_in_five(count: int, error: float) -> None:
    repetitions = 4000
    difference = detectable(0.02, count, error)
    rows = np.random.default_rng(count).normal(difference, 0.02, size=(repetitions, count))
    seen = np.mean(t_test(rows) < error)
    assert abs(seen - 0.8) < 4 * math.sqrt(0.8 * 0.2 / repetitions)


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_pairs_needed_are_the_textbooks(effect: float, pairs: int) -> None:
    """Two-sided 5 %, power 0.8: Cohen's small, medium and large effect, as G*Power 3.1 has them."""
    assert pairs_needed(effect, 1.0) == pairs


def test_the_two_are_inverse() -> None:
    for error in (0.05, 0.005):
        needed = pairs_needed(0.02, 0.03, error)
        assert needed is not None
        assert detectable(0.03, needed, error) <= 0.02 < detectable(0.03, needed - 1, error)


def test_ends() -> None:
    assert power(0.0, 5) == pytest.approx(0.05, abs=1e-5)
    assert pairs_needed(0.02, 0.0) == 3
    assert detectable(0.0, 5) == 0
    assert pairs_needed(1e-6, 1.0) is None


def test_errors() -> None:
    with pytest.raises(BadInput, match="1 pairs show no difference"):
        detectable(0.1, 1)
    with pytest.raises(BadInput, match="deviation nan: expected a finite number"):
        detectable(math.nan, 5)
    with pytest.raises(BadInput, match=r"difference -0\.1: expected a positive number"):
        pairs_needed(-0.1, 0.1)
