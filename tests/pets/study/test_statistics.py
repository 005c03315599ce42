"""Summaries against scipy, and the interval's coverage on synthetic tables with known truth."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from pets.study.statistics.intervals import markdown_table, paired, summarise


def test_summary_equals_scipy() -> None:
    values = [0.61, 0.64, 0.58, 0.70]
    summary = summarise(values)
    low, high = stats.t.interval(0.95, 3, loc=summary.mean, scale=stats.sem(values))
    assert summary.mean == pytest.approx(sum(values) / 4, abs=1e-15)
    assert summary.deviation == pytest.approx(stats.tstd(values), abs=1e-15)
    assert (summary.mean - summary.interval, summary.mean + summary.interval) == pytest.approx(
        (low, high)
    )
    assert summary.count == 4


def test_the_interval_covers_the_truth_95_times_in_100() -> None:
    draws = (
        torch.randn(4000, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.1 + 0.6
    )
    covered = sum(abs(s.mean - 0.6) <= s.interval for s in (summarise(row.tolist()) for row in draws))
    error = math.sqrt(0.95 * 0.05 / 4000)
    assert abs(covered / 4000 - 0.95) < 4 * error


def test_a_single_run_has_no_deviation() -> None:
    summary = summarise([0.5])
    assert math.isnan(summary.deviation)
    assert str(summary) == "0.500 (n 1)"


def test_differences_are_paired() -> None:
    """Both arms move with the seed; the pairs do not."""
    baseline = [0.5, 0.6, 0.7]
    difference = paired([0.52, 0.62, 0.72], baseline)
    assert difference.mean == pytest.approx(0.02)
    assert difference.interval < 1e-12


def test_table_names_every_arm_and_leaves_the_baseline_without_difference() -> None:
    lines = markdown_table({"vanilla": [0.5, 0.6], "ou": [0.6, 0.7]}, "vanilla", "accuracy").splitlines()
    assert lines[0].startswith("| arm | accuracy")
    assert lines[2].endswith("|  |")
    assert "0.100 ± 0.000" in lines[3]


def test_errors() -> None:
    with pytest.raises(ValueError, match="nothing to summarise"):
        summarise([])
    with pytest.raises(ValueError, match="2 values against 1: expected pairs"):
        paired([1.0, 2.0], [1.0])
