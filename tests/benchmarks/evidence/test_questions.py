"""What is asked of cells: effects, a share of the layers, steps."""

from __future__ import annotations

import numpy as np
import pytest
from evidence_cases import FILMS, cell
from scipy import stats

from benchmarks.evidence.questions import ACCURACY, Question, answer, at_depth, family, steps_to


def test_effects_are_paired_t_tests_with_holms_correction() -> None:
    rng = np.random.default_rng(1)
    base, scores = rng.normal(0.7, 0.05, 8), {}
    for k, arm in enumerate(("a", "b", "c")):
        scores[arm] = base + rng.normal(0.01 * k, 0.02, 8)
    cells = [cell("vanilla", s, float(v)) for s, v in enumerate(base)]
    cells += [cell(arm, s, float(v)) for arm, own in scores.items() for s, v in enumerate(own)]
    found = answer(cells, ACCURACY)
    assert found is not None
    assert (family(found.effects.values()), found.settings) == (3, (FILMS,))
    p = {arm: float(stats.ttest_rel(own, base).pvalue) for arm, own in scores.items()}
    order = sorted(p, key=lambda arm: p[arm])
    largest = 0.0
    for place, arm in enumerate(order):
        largest = max(largest, min(1.0, (3 - place) * p[arm]))
        effect = found.effects[FILMS, arm]
        assert effect.adjusted_p == pytest.approx(largest, rel=1e-6)
        assert effect.difference.mean == pytest.approx(float((scores[arm] - base).mean()))
    assert answer(cells, Question("?", at_depth("probe", "1/2"))) is None


def test_depth_is_read_at_a_share_of_the_layers() -> None:
    layers = [{"accuracy": k / 10} for k in range(7)]
    one = cell("vanilla", 1, 0.6, depth={"probe": layers, "exit": None})
    assert at_depth("probe", "1/2")(one) == 0.3
    assert at_depth("probe", "3/4")(one) == 0.4
    assert at_depth("exit", "1/2")(one) is None
    assert at_depth("head", "1/2")(one) is None


def test_steps_are_those_to_vanillas_last_dev_score() -> None:
    cells = [
        cell("vanilla", 1, 0.7, curve=[[0, 0.5], [20, 0.9], [40, 0.7], [60, 0.8]]),
        cell("a", 1, 0.7, curve=[[0, 0.5], [20, 0.6], [40, 0.8], [60, 0.8]]),
        cell("b", 1, 0.7, curve=[[0, 0.5], [20, 0.6], [40, 0.7], [60, 0.7]]),
        cell("a", 2, 0.7),  # without a vanilla to compare it with
    ]
    assert steps_to(cells) == {(FILMS, "vanilla"): [20], (FILMS, "a"): [40], (FILMS, "b"): [None]}
