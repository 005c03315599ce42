"""The power of a plan, simulated and exact."""

from __future__ import annotations

import pytest

from benchmarks.evidence.power import simulated_power
from pets.study.statistics.power import power


def test_simulated_power_is_the_exact_one_for_one_baseline() -> None:
    """With so many examples that counting adds nothing, deviations of the differences are known."""
    found = simulated_power(
        0.02, tasks=[(0.5, 0.03)], splits=12, tests=1, correlation=0.5, examples=10**6, rounds=20_000
    )
    exact = power(0.02 / 0.03, 12)  # the deviation of a difference is 0.03 sqrt(2 (1 - 0.5))
    assert found == pytest.approx(exact, abs=4 * 0.5 / 20_000**0.5)
    # All of several baselines are seen less often than one, and nothing is seen where nothing is.
    more = {"tasks": [(0.5, 0.03)], "splits": 12, "correlation": 0.5, "examples": 10**6}
    assert simulated_power(0.02, tests=5, rounds=4000, **more) < found
    assert simulated_power(0.0, tests=1, rounds=20_000, **more) < 0.03  # half of 5 %: above, not below
