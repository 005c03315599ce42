"""From a table of runs: every arm against vanilla and against the controls, and how sure that is."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bridges.errors import BadInput, is_number
from pets.study.cells.arms import VANILLA, Arm
from pets.study.cells.rows import Row
from pets.study.statistics.intervals import Summary, summarise
from pets.study.statistics.paired import PairedDifference, difference_from, holm

LEVEL = 0.05


@dataclass(frozen=True)
class Setting:
    """Where arms are compared: a task, its shots (None: the full train set), a PET."""

    task: str
    shots: int | None
    pet: str

    def __str__(self) -> str:
        shots = "full set" if self.shots is None else f"{self.shots} shots"
        return f"{self.task}, {shots}, {self.pet}"


@dataclass(frozen=True)
class ArmDifference:
    """An arm against a baseline on the seeds that both have.

    Attributes:
        setting: where; None for the pooled comparison over all settings.
        arm, baseline: the two arms; positive differences speak for `arm`.
        difference: of the pairs, a pair being a seed; if pooled, a pair is a split, see `compare_arms`.
        adjusted_p: Holm-adjusted p of the paired t test within the family; nan for a single pair.
    """

    setting: Setting | None
    arm: str
    baseline: str
    difference: PairedDifference
    adjusted_p: float

    @property
    def significant(self) -> bool:
        """Whether the arms differ, in either direction: by the corrected test, and by the interval too.

        With few pairs the two can disagree, as the test assumes normal differences and the interval
        does not: then nothing is claimed.
        """
        return self.adjusted_p < LEVEL and not self.difference.low <= 0 <= self.difference.high

    def __str__(self) -> str:
        if math.isnan(self.adjusted_p):
            return str(self.difference)
        return f"{self.difference}, p {self.adjusted_p:.2g}"


@dataclass(frozen=True)
class ArmDifferences:
    """What a table says.

    Attributes:
        scores: summary of the scores of every arm in every setting that has one.
        single: the comparisons within a setting, by (setting, arm, baseline).
        pooled: the comparisons over all settings, by (arm, baseline).
    """

    scores: Mapping[tuple[Setting, str], Summary]
    single: Mapping[tuple[Setting, str, str], ArmDifference]
    pooled: Mapping[tuple[str, str], ArmDifference]


def compare_arms(rows: Iterable[Row], controls: Collection[str] = ()) -> ArmDifferences:
    """Compare every arm to vanilla, and every arm that is no control to every control of it.

    Pairs are seeds that both arms have in a setting; where there is none, there is no comparison. Only
    rows with a score count. The result does not depend on the order of the rows.

    **Families.** For each baseline (vanilla, and each control) its comparisons within settings, all arms
    and all settings, are one family, and its pooled comparisons another; Holm's correction is within a
    family. The p that is corrected is the paired t test's.

    **Pooling.** Differences under one seed are not independent: on a task, the seed fixes the split
    for every arm and PET, and a split of few shots shares examples with that of more. So a cluster is
    (task, seed), and its number is the mean difference of the arm over all its PETs and shots. The
    pooled comparison takes these numbers as its pairs: its interval resamples whole clusters, its test
    is a t test on cluster means. With equal seeds everywhere a task weighs as much as any other, and
    for one number of shots this is the mean over settings of their mean differences. Spread between
    tasks widens the interval. What a seed shares across tasks (the PET's initial weights) is not
    accounted for, and tasks' metrics are averaged as they are.

    Args:
        rows: of a table, those without a score too.
        controls: the arms that are controls; names that are not in the table are passed over.

    Raises:
        BadInput: if a cell (task, shots, pet, arm, seed) is there twice, or the score of a row that is
            done is not a finite number.
    """
    table = _scores(rows)
    scores = {
        (setting, arm): summarise([by_seed[seed] for seed in sorted(by_seed)])
        for setting, arms in table.items()
        for arm, by_seed in arms.items()
    }
    names = sorted({arm for arms in table.values() for arm in arms})
    single: dict[tuple[Setting, str, str], ArmDifference] = {}
    pooled: dict[tuple[str, str], ArmDifference] = {}
    for baseline in [VANILLA, *sorted(set(controls) - {VANILLA})]:
        skipped = {VANILLA} if baseline == VANILLA else {VANILLA, *controls}
        inside: dict[tuple[Setting, str], PairedDifference] = {}
        over: dict[tuple[None, str], PairedDifference] = {}
        for arm in names:
            if arm in skipped or not _controls(baseline, arm):
                continue
            pairs = _pairs(table, arm, baseline)
            for setting, by_seed in pairs.items():
                inside[setting, arm] = difference_from([by_seed[seed] for seed in sorted(by_seed)])
            if pairs:
                over[None, arm] = difference_from(_cluster_means(pairs))
        single |= {(c.setting, c.arm, baseline): c for c in _corrected(inside, baseline) if c.setting}
        pooled |= {(c.arm, baseline): c for c in _corrected(over, baseline)}
    return ArmDifferences(scores, single, pooled)


def _controls(baseline: str, arm: str) -> bool:
    """Whether a difference to this baseline says anything of an arm; see `Arm.controls`."""
    try:
        return Arm.parse(baseline).controls(Arm.parse(arm))
    except BadInput:  # of a bridge that is not registered here
        return True


def _scores(rows: Iterable[Row]) -> dict[Setting, dict[str, dict[int, float]]]:
    """Score by setting, arm and seed, settings and arms sorted."""
    scores: dict[Setting, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if not row.is_done:
            continue
        setting = Setting(row.task, row.shots, row.pet)
        where = f"{setting}, {row.arm}, seed {row.seed}"
        if not is_number(row.score):
            raise BadInput(f"{where}: score {row.score!r}, expected a finite number; rerun this cell")
        if row.seed in scores[setting][row.arm]:
            raise BadInput(f"{where} is in the table twice: expected one row a cell; keep one of them")
        scores[setting][row.arm][row.seed] = float(row.score)
    return {
        setting: {arm: scores[setting][arm] for arm in sorted(scores[setting])}
        for setting in sorted(scores, key=lambda s: (s.task, s.shots is None, s.shots or 0, s.pet))
    }


def _pairs(
    table: Mapping[Setting, Mapping[str, Mapping[int, float]]], arm: str, baseline: str
) -> dict[Setting, dict[int, float]]:
    """PairedDifference by setting and seed, where both arms have a score."""
    by_setting = {}
    for setting, arms in table.items():
        ours, theirs = arms.get(arm, {}), arms.get(baseline, {})
        if shared := ours.keys() & theirs.keys():
            by_setting[setting] = {seed: ours[seed] - theirs[seed] for seed in shared}
    return by_setting


def _cluster_means(pairs: Mapping[Setting, Mapping[int, float]]) -> list[float]:
    clusters: dict[tuple[str, int], list[float]] = defaultdict(list)
    for setting, by_seed in pairs.items():
        for seed, value in by_seed.items():
            clusters[setting.task, seed].append(value)
    return [math.fsum(clusters[key]) / len(clusters[key]) for key in sorted(clusters)]


def _corrected(family: Mapping[tuple[Any, str], PairedDifference], baseline: str) -> list[ArmDifference]:
    adjusted = holm([difference.p for difference in family.values()])
    return [
        ArmDifference(setting, arm, baseline, difference, p)
        for ((setting, arm), difference), p in zip(family.items(), adjusted, strict=True)
    ]
