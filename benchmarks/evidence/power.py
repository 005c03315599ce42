"""What a plan's primary comparison can see: its test, run on made-up splits before there are any."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pets.study.statistics.paired import ERROR, t_test

ROUNDS = 20_000


def simulated_power(
    effect: float,
    *,
    tasks: Sequence[tuple[float, float]],
    splits: int,
    tests: int,
    correlation: float,
    examples: int,
    seed: int = 0,
    rounds: int = ROUNDS,
) -> float:
    """How often an arm that is better by so much is told from all its baselines, corrected.

    A split's accuracy is a normal number about the task's mean with vanilla's spread, cut to what an
    accuracy can be; two arms on the same split are correlated; each is then counted on so many examples.
    All baselines are as good as vanilla, and drawn on the same splits.

    Args:
        effect: the arm's true mean accuracy minus vanilla's.
        tasks: of each vanilla's mean accuracy and its deviation over splits.
        splits: of each task; a pair is a task and a split.
        tests: baselines; each p is corrected by the number of them (Bonferroni, which Holm is at least
            as strong as), and all of them have to be seen.
        correlation: of the true accuracies of two arms on a split.
        examples: that are reported.
        seed, rounds: of the simulation; the result's standard error is at most 0.5 / sqrt(rounds).
    """
    rng = np.random.default_rng(seed)
    means = np.repeat([mean for mean, _ in tasks], splits)
    deviations = np.repeat([deviation for _, deviation in tasks], splits)
    common = rng.standard_normal((rounds, 1, len(means)))
    own = rng.standard_normal((rounds, 1 + tests, len(means)))
    spread = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
    true = means + deviations * spread
    true[:, 0] += effect
    counted = rng.binomial(examples, true.clip(0, 1)) / examples
    seen = np.ones(rounds, dtype=bool)
    for baseline in range(1, 1 + tests):
        differences = counted[:, 0] - counted[:, baseline]
        seen &= (t_test(differences) < ERROR / tests) & (differences.mean(1) > 0)
    return float(seen.mean())
