"""From a table of runs: every arm against vanilla and against the controls, and how sure that is."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from bridges.errors import BadInput, is_number
from pets.study.cells.arms import VANILLA, Arm
from pets.study.cells.rows import Row
from pets.study.statistics.by_example import Right
from pets.study.statistics.crossed import crossed_interval
from pets.study.statistics.intervals import Summary, summarise
from pets.study.statistics.paired import ERROR, Array, PairedDifference, difference, holm
from pets.study.statistics.setting import Setting, together
from pets.tasks.metrics import RANGES


@dataclass(frozen=True)
class ArmDifference:
    """An arm against a baseline on the seeds that both have.

    Attributes:
        settings: where; several for a pooled comparison, all of one metric.
        metric: what was scored there.
        arm, baseline: the two arms; positive differences speak for `arm`.
        difference: of the pairs, a pair being a seed; if pooled, a pair is a split, see `compare_arms`.
        adjusted_p: Holm-adjusted p of the paired t test within the family; nan for a single pair.
        family: how many tests it was corrected for; 0 for a single pair.
        by_example: [pairs, examples], the arm minus its baseline on each reported example, where all
            rows say which they are right on; None if pooled, or of a metric that is no share of them.
    """

    settings: tuple[Setting, ...]
    metric: str
    arm: str
    baseline: str
    difference: PairedDifference
    adjusted_p: float
    family: int
    by_example: Array | None = field(default=None, repr=False, compare=False)

    @property
    def where(self) -> str:
        """Its setting, or how many are pooled."""
        return together(self.settings)

    @property
    def significant(self) -> bool:
        """Whether the arms differ, in either direction, by the corrected t test."""
        return self.adjusted_p < ERROR

    @property
    def simultaneous(self) -> tuple[float, float]:
        """Bounds that hold for the whole family at once, 95 % (Bonferroni); nan for a single pair."""
        return self.difference.interval(ERROR / max(1, self.family))

    @cached_property
    def over_examples(self) -> tuple[float, float] | None:
        """The 95 % interval were the reported examples others too, see `crossed_interval`."""
        known = self.by_example
        return None if known is None or min(known.shape) < 2 else crossed_interval(known, ERROR)

    def __str__(self) -> str:
        if math.isnan(self.adjusted_p):
            return str(self.difference)
        return f"{self.difference}, p {self.adjusted_p:.2g}"


@dataclass(frozen=True)
class ArmDifferences:
    """What a table says.

    Attributes:
        scores: summary of the scores of every arm in every setting that has one.
        metrics: of every setting.
        single: the comparisons within a setting, by (setting, arm, baseline).
        pooled: the comparisons over several settings of a metric, by (metric, arm, baseline).
    """

    scores: Mapping[tuple[Setting, str], Summary]
    metrics: Mapping[Setting, str]
    single: Mapping[tuple[Setting, str, str], ArmDifference]
    pooled: Mapping[tuple[str, str, str], ArmDifference]


def compare_arms(rows: Iterable[Row], controls: Collection[str] = ()) -> ArmDifferences:
    """Compare every arm to vanilla, and every arm that is no control to every control of it.

    Pairs are seeds that both arms have in a setting; where there is none, there is no comparison. Only
    rows with a score count. The result does not depend on the order of the rows. Intervals are cut to
    what the metric can be, see `pets.tasks.metrics.RANGES`.

    **Families.** For each baseline (vanilla, and each control) its comparisons within settings, all arms
    and all settings, are one family, and its pooled comparisons another; Holm's correction is within a
    family. The p that is corrected is the paired t test's.

    **Pooling.** Only settings of one metric are pooled, where two arms meet in more than one of them.
    Differences under one seed are not independent: on a task, the seed fixes the split for every arm and
    PET, and a split of few shots shares examples with that of more. So a cluster is (task, seed), and
    its number is the mean difference of the arm over all its PETs and shots. The pooled comparison takes
    these numbers as its pairs. With equal seeds everywhere a task weighs as much as any other, and for
    one number of shots this is the mean over settings of their mean differences. Spread between tasks
    widens the interval. What a seed shares across tasks (the PET's initial weights) is not accounted
    for.

    Args:
        rows: of a table, those without a score too.
        controls: the arms that are controls; names that are not in the table are passed over.

    Raises:
        BadInput: if a cell (task, shots, pet, arm, seed) is there twice, the score of a row that is
            done is not a finite number, or a setting has two metrics.
    """
    rows = list(rows)
    metrics = _metrics(rows)
    table, right = _scores(rows), Right.of(rows)
    scores = {
        (setting, arm): summarise([by_seed[seed] for seed in sorted(by_seed)])
        for setting, arms in table.items()
        for arm, by_seed in arms.items()
    }
    names = sorted({arm for arms in table.values() for arm in arms})
    single: dict[tuple[Setting, str, str], ArmDifference] = {}
    pooled: dict[tuple[str, str, str], ArmDifference] = {}
    for baseline in [VANILLA, *sorted(set(controls) - {VANILLA})]:
        skipped = {VANILLA} if baseline == VANILLA else {VANILLA, *controls}
        inside: list[_Met] = []
        over: list[_Met] = []
        for arm in names:
            if arm in skipped or not _controls(baseline, arm):
                continue
            by_metric: dict[str, list[_Met]] = defaultdict(list)
            for setting, arms in table.items():
                if pairs := _pairs(setting, arms, arm, baseline):
                    apart = right.apart(setting, arm, baseline, [seed for _, seed in sorted(pairs)])
                    by_metric[metrics[setting]].append(_Met((setting,), arm, pairs, apart))
            for met in by_metric.values():
                inside += met
                if len(met) > 1:
                    over.append(_together(met))
        found = _corrected(inside, metrics, baseline)
        single |= {(c.settings[0], c.arm, baseline): c for c in found}
        pooled |= {(c.metric, c.arm, baseline): c for c in _corrected(over, metrics, baseline)}
    return ArmDifferences(scores, {setting: metrics[setting] for setting in table}, single, pooled)


_Pairs = dict[tuple[str, int], tuple[float, float]]
"""By task and seed the two scores."""


@dataclass(frozen=True)
class _Met:
    """An arm and a baseline where they met: settings, their scores, differences on each example."""

    settings: tuple[Setting, ...]
    arm: str
    pairs: _Pairs
    by_example: Array | None = None


def _metrics(rows: Iterable[Row]) -> dict[Setting, str]:
    metrics: dict[Setting, str] = {}
    for row in rows:
        if row.is_done:
            setting = Setting(row.task, row.shots, row.pet)
            if metrics.setdefault(setting, row.metric) != row.metric:
                raise BadInput(
                    f"{setting} is scored by {metrics[setting]} and by {row.metric}: expected one "
                    "metric; report the two in folders of their own"
                )
    return metrics


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


def _pairs(setting: Setting, arms: Mapping[str, Mapping[int, float]], arm: str, baseline: str) -> _Pairs:
    """The scores of both, where both have one."""
    ours, theirs = arms.get(arm, {}), arms.get(baseline, {})
    return {(setting.task, seed): (ours[seed], theirs[seed]) for seed in ours.keys() & theirs.keys()}


def _together(met: Sequence[_Met]) -> _Met:
    """The means of both arms in every cluster, over the settings where they met."""
    clusters: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for one in met:
        for key, scores in one.pairs.items():
            clusters[key].append(scores)
    means = {
        key: (_mean(s[0] for s in all_), _mean(s[1] for s in all_)) for key, all_ in clusters.items()
    }
    return _Met(tuple(one.settings[0] for one in met), met[0].arm, means)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)


def _corrected(
    family: Sequence[_Met], metrics: Mapping[Setting, str], baseline: str
) -> list[ArmDifference]:
    found = []
    for met in family:
        values, theirs = zip(*(met.pairs[key] for key in sorted(met.pairs)), strict=True)
        metric = metrics[met.settings[0]]
        found.append((met, metric, difference(values, theirs, RANGES.get(metric))))
    adjusted = holm([d.p for _, _, d in found])
    tests = sum(not math.isnan(p) for p in adjusted)
    return [
        ArmDifference(
            met.settings, metric, met.arm, baseline, d, p, 0 if math.isnan(p) else tests, met.by_example
        )
        for (met, metric, d), p in zip(found, adjusted, strict=True)
    ]
