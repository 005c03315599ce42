"""Intervals and tests of paired differences: against scipy, and coverage and size on known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pets.study.statistics.paired import (
    PairedDifference,
    difference,
    holm,
    signed_rank_test,
    t_interval,
    t_test,
)

REPETITIONS = 3000
DIFFERENCES = [0.03, -0.01, 0.02, 0.05, 0.04, -0.02, 0.01]


def normal(n: int, seed: int = 0, repetitions: int = REPETITIONS) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(repetitions, n))


def four_errors(p: float, repetitions: int = REPETITIONS) -> float:
    return 4 * math.sqrt(p * (1 - p) / repetitions)


def coverage(bounds: tuple[np.ndarray, np.ndarray], truth: float = 0) -> float:
    return float(np.mean((bounds[0] <= truth + 1e-12) & (bounds[1] >= truth - 1e-12)))


def accuracies(mean: float, n: int, seed: int, examples: int = 100) -> np.ndarray:
    """Of arms whose splits move their true accuracy: near 1 they are skewed."""
    generator = np.random.default_rng(seed)
    true = generator.beta(60 * mean, 60 * (1 - mean), size=(REPETITIONS, n))
    return generator.binomial(examples, true) / examples


def difference_from(differences: list[float]) -> PairedDifference:
    return difference(differences, [0.0] * len(differences))


def test_plain_case_equals_scipy() -> None:
    found = difference_from(DIFFERENCES)
    expected = stats.ttest_1samp(DIFFERENCES, 0)
    interval = expected.confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(DIFFERENCES))
    assert found.deviation == pytest.approx(np.std(DIFFERENCES, ddof=1))
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.count == 7


@pytest.mark.parametrize("n", [1, 2, 5, 12, 30])
def test_signed_rank_equals_scipys_exact_test(n: int) -> None:
    rows = normal(n, seed=n, repetitions=10) + 0.3
    expected = [stats.wilcoxon(row, method="exact").pvalue for row in rows]
    assert signed_rank_test(rows) == pytest.approx(expected, rel=1e-9)


def test_signed_rank_with_ties_and_zeros_equals_all_sign_flips() -> None:
    """Every choice of signs on the mean ranks of what is not zero, counted one by one."""
    row = np.array([0.0, 0.01, 0.01, -0.01, 0.02, 0.02, 0.03, 0.0])
    d = row[row != 0]
    ranks = stats.rankdata(np.abs(d))
    signs = np.array(np.meshgrid(*[[0, 1]] * len(d))).reshape(len(d), -1)
    sums = ranks @ signs
    observed = ranks[d > 0].sum()
    expected = min(1.0, 2 * min(np.mean(sums >= observed), np.mean(sums <= observed)))
    assert signed_rank_test(row[None])[0] == pytest.approx(expected)


def test_five_pairs_cannot_reach_five_percent_by_ranks_but_can_by_t() -> None:
    found = difference_from([0.05, 0.06, 0.055, 0.045, 0.052])
    assert found.wilcoxon_p == pytest.approx(0.0625)
    assert found.p < 0.001


@pytest.mark.parametrize("n", [2, 5, 30])
def test_interval_covers_the_truth_95_times_in_100(n: int) -> None:
    assert abs(coverage(t_interval(normal(n, seed=n))) - 0.95) < four_errors(0.95)
    assert abs(coverage(t_interval(normal(n, seed=n), error=0.2)) - 0.8) < four_errors(0.8)


def test_interval_covers_rounded_scores_with_ties() -> None:
    assert coverage(t_interval(np.round(1.2 * normal(5)))) > 0.95 - four_errors(0.95)


def test_interval_is_short_where_differences_are_skewed() -> None:
    """As its docstring says: it misses 12 times in 100 at five pairs, which is no 5."""
    rows = np.random.default_rng(5).exponential(size=(REPETITIONS, 5)) - 1
    assert abs(coverage(t_interval(rows)) - 0.883) < four_errors(0.883)


@pytest.mark.parametrize(("theirs", "ours", "n"), [(0.97, 0.99, 5), (0.98, 0.999, 5), (0.95, 0.95, 3)])
def test_the_cut_keeps_the_coverage(theirs: float, ours: float, n: int) -> None:
    """What a metric cannot be is cut off; the truth is not, though the baseline's mean is a sample's."""
    baseline = accuracies(theirs, n, seed=1)
    rows = (accuracies(ours, n, seed=2) - baseline).round(12)
    plain, cut = t_interval(rows), t_interval(rows, baseline=baseline, span=(0, 1))
    assert coverage(cut, ours - theirs) > coverage(plain, ours - theirs) - 0.02
    by_sample = (plain[0], np.minimum(plain[1], 1 - baseline.mean(axis=1)))
    if ours > 0.95:
        assert np.mean(cut[1] < plain[1]) > 0.2
        assert coverage(by_sample, ours - theirs) < 0.85  # and why it is not cut there


def test_the_cut_by_hand() -> None:
    found = difference([1.0, 0.9, 1.0], [0.9, 1.0, 0.98], span=(0.0, 1.0))
    baseline = stats.t.interval(0.95, 2, loc=0.96, scale=stats.sem([0.9, 1.0, 0.98]))
    assert found.high == pytest.approx(1 - baseline[0])
    assert found.low == pytest.approx(
        stats.ttest_1samp([0.1, -0.1, 0.02], 0).confidence_interval(0.95).low
    )
    assert difference([1.0, 0.0], [0.0, 1.0], span=(0.0, 1.0)).interval() == (-1, 1)
    assert difference([1.0, -1.0], [-1.0, 1.0], span=(-1.0, 1.0)).interval() == (-2, 2)
    low, high = difference([1.0, 0.9, 1.0], [0.9, 1.0, 0.98]).interval()
    assert (low, high) == pytest.approx((found.low, 2 * found.mean - found.low))


def test_intervals_of_half_the_error_hold_together() -> None:
    """Bonferroni's: of ten true nulls at once none is left out, 95 times in 100 at least."""
    rows = normal(5, seed=3, repetitions=10 * REPETITIONS)
    low, high = (bound.reshape(REPETITIONS, 10) for bound in t_interval(rows, error=0.005))
    together = np.mean(((low <= 0) & (high >= 0)).all(axis=1))
    assert abs(together - 0.995**10) < four_errors(0.95)
    assert difference_from(DIFFERENCES).interval(0.05) == pytest.approx(
        (difference_from(DIFFERENCES).low, difference_from(DIFFERENCES).high)
    )


@pytest.mark.parametrize("n", [2, 5, 15])
def test_t_test_has_its_size(n: int) -> None:
    assert abs(np.mean(t_test(normal(n, seed=n)) < 0.05) - 0.05) < four_errors(0.05)


@pytest.mark.parametrize("n", [5, 6, 12])
def test_signed_rank_test_has_at_most_its_size(n: int) -> None:
    size = np.mean(signed_rank_test(normal(n, seed=n, repetitions=1000)) < 0.05)
    assert size < 0.05 + four_errors(0.05, 1000)
    assert (size == 0) == (n == 5)


def test_a_true_difference_is_found_with_many_pairs() -> None:
    """At mean 0.5 deviations and 60 pairs, Student's power is 0.97."""
    rows = normal(60, repetitions=100) + 0.5
    assert np.mean(t_test(rows) < 0.05) > 0.9
    assert np.mean(signed_rank_test(rows) < 0.05) > 0.9


def test_interval_and_test_agree() -> None:
    rows = normal(5, seed=9) + 0.8
    low, high = t_interval(rows)
    assert ((t_test(rows) < 0.05) == ((low > 0) | (high < 0))).all()


def test_no_difference_at_all() -> None:
    found = difference([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert (found.low, found.high) == (0, 0)
    assert (found.p, found.wilcoxon_p) == (1, 1)


def test_equal_differences_have_the_sign_tests_p() -> None:
    """No deviation is no proof: 0.65 - 0.64 and 0.66 - 0.65 are equal but for rounding."""
    found = difference([0.65, 0.66, 0.67], [0.64, 0.65, 0.66])
    assert found.p == found.wilcoxon_p == 0.25
    assert found.low == found.high == pytest.approx(0.01)


def test_a_single_pair_says_its_difference_only() -> None:
    found = difference([0.6], [0.5])
    numbers = (
        found.deviation,
        found.low,
        found.high,
        found.p,
        found.wilcoxon_p,
    )
    assert all(math.isnan(x) for x in numbers)
    assert str(found) == "+0.100 (n 1)"


def test_exchange_of_the_arms_mirrors_everything() -> None:
    values, baseline = [0.61, 0.64, 0.58, 0.70, 0.66], [0.60, 0.60, 0.61, 0.63, 0.66]
    there, back = difference(values, baseline), difference(baseline, values)
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))
    assert (there.p, there.wilcoxon_p) == pytest.approx((back.p, back.wilcoxon_p))


def test_same_input_same_bits() -> None:
    assert difference_from(DIFFERENCES) == difference_from(list(DIFFERENCES))


def test_text() -> None:
    assert str(difference_from([0.0, 0.0])) == "+0.000 [0.000, 0.000] (n 2)"


def test_holm_by_hand() -> None:
    """Sorted 0.005 * 4, 0.01 * 3, 0.03 * 2, 0.04 * 1 -> 0.02, 0.03, 0.06, then the running maximum."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_holm_passes_over_what_has_no_test() -> None:
    adjusted = holm([math.nan, 0.02, 0.03])
    assert math.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx([0.04, 0.04])


def test_holm_keeps_the_familywise_error() -> None:
    """Ten true nulls a family: without correction one in two families has a false find, 1 - 0.95^10."""
    p = t_test(normal(5, repetitions=10 * REPETITIONS)).reshape(REPETITIONS, 10)
    assert np.mean(p.min(axis=1) < 0.05) > 0.35
    wrong = np.mean([min(holm(list(family))) < 0.05 for family in p])
    assert abs(wrong - (1 - 0.995**10)) < four_errors(0.05)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_never_lowers_p_nor_changes_its_order(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(p_i <= a_i <= 1 for p_i, a_i in zip(p, adjusted, strict=True))
    by_p = [adjusted[i] for i in sorted(range(len(p)), key=p.__getitem__)]
    assert by_p == sorted(by_p)
    assert holm(p[::-1]) == adjusted[::-1]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-40, 40), min_size=2, max_size=12))
def test_any_scores_give_ordered_bounds_and_a_p(counts: list[int]) -> None:
    found = difference_from([count / 277 for count in counts])
    assert found.low - 1e-12 <= found.mean <= found.high + 1e-12
    assert 0 <= found.p <= 1
    assert 2.0 ** (1 - len(counts)) * (1 - 1e-12) <= found.wilcoxon_p <= 1


def test_errors() -> None:
    with pytest.raises(ValueError, match="2 values against 1: expected pairs"):
        difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="no pairs to compare"):
        difference([], [])
    with pytest.raises(ValueError, match="expected finite numbers"):
        difference([0.1, math.nan], [0.0, 0.0])
