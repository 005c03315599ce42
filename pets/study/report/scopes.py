"""Where a report's first lines and its first table speak: settings, or all settings of a metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from pets.study.cells.arms import BRIDGE, CONTROL, KINDS, VANILLA
from pets.study.report.runs import Runs
from pets.study.statistics.arm_differences import ArmDifference, ArmDifferences
from pets.study.statistics.setting import Setting, together

MOST_SETTINGS = 3  # told one by one; more of them are pooled, metric by metric


@dataclass(frozen=True)
class Price:
    """What a step with an arm takes, over the PETs of a scope.

    Attributes:
        time: as a multiple of vanilla's, the median of the rounds.
        memory: kept for the backward pass, as a multiple of vanilla's; None where not measured.
        kept: the bytes themselves, of a single PET; None of several, and where not measured.
    """

    time: float
    memory: float | None = None
    kept: float | None = None


@dataclass(frozen=True)
class Scope:
    """A setting, or the settings of one metric.

    Attributes:
        metric: what is scored.
        settings: at least one.
        kinds: of the arms that have a score here, vanilla first.
        means: of each arm; of several settings as in the pooled comparison.
        counts: scores that each arm has.
        against: each arm's difference to vanilla; in one setting only, where an arm has no more.
        to_controls: differences to controls, by (arm, control).
        prices: of the arms whose steps were timed.
    """

    metric: str
    settings: tuple[Setting, ...]
    kinds: Mapping[str, str]
    means: Mapping[str, float]
    counts: Mapping[str, int]
    against: Mapping[str, ArmDifference]
    to_controls: Mapping[tuple[str, str], ArmDifference]
    prices: Mapping[str, Price]

    @property
    def name(self) -> str:
        """For a sentence: ``sst2, 16 shots, lora``, ``rte and sst2, 8 settings together``."""
        return together(self.settings)

    @property
    def pooled(self) -> bool:
        return len(self.settings) > 1

    def of_kind(self, *kinds: str) -> list[ArmDifference]:
        """The differences to vanilla of these kinds of arm."""
        return [c for arm, c in self.against.items() if self.kinds[arm] in kinds]

    @property
    def candidates(self) -> list[ArmDifference]:
        """Those of the arms that are no controls."""
        return self.of_kind(*(kind for kind in KINDS if kind != CONTROL))

    @property
    def bridges(self) -> list[str]:
        return [arm for arm in self.against if self.kinds[arm] == BRIDGE]


def scopes(runs: Runs, measured: ArmDifferences) -> list[Scope]:
    """Every setting if there are few, else every metric with all its settings, most first."""
    settings = list(measured.metrics)
    if len(settings) <= MOST_SETTINGS:
        return [_scope(runs, measured, (setting,)) for setting in settings]
    by_metric = [
        tuple(s for s in settings if measured.metrics[s] == metric)
        for metric in dict.fromkeys(measured.metrics.values())
    ]
    return [_scope(runs, measured, own) for own in sorted(by_metric, key=len, reverse=True)]


def _scope(runs: Runs, measured: ArmDifferences, settings: tuple[Setting, ...]) -> Scope:
    metric = measured.metrics[settings[0]]
    kinds = {
        arm: kind
        for arm, kind in runs.kinds.items()
        if any((setting, arm) in measured.scores for setting in settings)
    }
    pairs: dict[tuple[str, str], ArmDifference] = {
        (arm, baseline): c
        for (setting, arm, baseline), c in measured.single.items()
        if setting in settings
    }
    if len(settings) > 1:  # what has no pooled comparison met in one setting only
        pairs |= {(arm, b): c for (m, arm, b), c in measured.pooled.items() if m == metric}
    against = {arm: pairs[arm, VANILLA] for arm in kinds if (arm, VANILLA) in pairs}
    return Scope(
        metric,
        settings,
        kinds,
        _means(measured, settings, kinds, against),
        {
            arm: sum(measured.scores[s, arm].count for s in settings if (s, arm) in measured.scores)
            for arm in kinds
        },
        against,
        {key: c for key, c in pairs.items() if key[1] != VANILLA},
        _prices(runs, list(dict.fromkeys(setting.pet for setting in settings)), kinds),
    )


def _means(
    measured: ArmDifferences,
    settings: Sequence[Setting],
    arms: Mapping[str, str],
    against: Mapping[str, ArmDifference],
) -> dict[str, float]:
    """An arm's own; of several settings vanilla's mean in the pairs, and the mean difference to it."""
    widest = max(against.values(), key=lambda c: len(c.settings), default=None)
    means = {}
    for arm in arms:
        c = widest if arm == VANILLA else against.get(arm)
        if len(settings) == 1 or c is None:
            own = [measured.scores[s, arm].mean for s in settings if (s, arm) in measured.scores]
            means[arm] = fmean(own)
        else:
            means[arm] = fmean(c.difference.baseline) + (c.difference.mean if arm != VANILLA else 0)
    return means


def _prices(runs: Runs, pets: Sequence[str], arms: Mapping[str, str]) -> dict[str, Price]:
    prices = {}
    for arm in arms:
        entries = [
            (runs.times[pet], runs.times[pet][arm]) for pet in pets if arm in runs.times.get(pet, {})
        ]
        if not entries:
            continue
        ratios = [
            entry["memory"] / times[VANILLA]["memory"]
            for times, entry in entries
            if "memory" in entry and times.get(VANILLA, {}).get("memory")
        ]
        prices[arm] = Price(
            fmean(entry["ratio"] for _, entry in entries),
            fmean(ratios) if len(ratios) == len(entries) else None,
            entries[0][1].get("memory") if len(pets) == 1 else None,
        )
    return prices
