"""What is significant and what is not, in words made from the numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pets.study.cells.arms import BRIDGE, VANILLA
from pets.study.report.document import interval, listed, p_value, plural, signed
from pets.study.report.runs import Runs
from pets.study.statistics.arm_differences import LEVEL, ArmDifference, ArmDifferences

_NAMED = 8  # single comparisons told one by one
_ALL = "over all settings together"


def headline(measured: ArmDifferences) -> str:
    """A sentence: which arms differ from vanilla."""
    against = _with_vanilla(measured.pooled)
    if not against:
        return f"There is nothing to compare: no arm has a seed in common with {VANILLA}."
    better, worse = _clear(against)
    if not better and not worse:
        if any(c.significant for c in _with_vanilla(measured.single)):
            return f"No arm differs significantly from {VANILLA} {_ALL}; in single settings some do."
        return f"No arm differs significantly from {VANILLA}, neither {_ALL} nor in any single one."
    parts = []
    if better:
        parts.append(f"significantly better than {VANILLA}: {_arms(better)}")
    if worse:
        parts.append(f"significantly worse{'' if better else f' than {VANILLA}'}: {_arms(worse)}")
    return f"{_ALL[0].upper()}{_ALL[1:]}, {'; '.join(parts)}."


def points(runs: Runs, measured: ArmDifferences) -> list[str]:
    """Sentences on what the headline leaves out: other arms, controls, single settings, resolution."""
    told = [_not_significant(measured)]
    told += _against_controls(runs.arms(BRIDGE), measured)
    told += [_single(measured), _resolution(measured), _signed_ranks(measured)]
    return [text for text in told if text]


def _with_vanilla(comparisons: Mapping[Any, ArmDifference]) -> list[ArmDifference]:
    return [c for c in comparisons.values() if c.baseline == VANILLA]


def _clear(comparisons: Iterable[ArmDifference]) -> tuple[list[ArmDifference], list[ArmDifference]]:
    """The significant ones: better and worse, largest first."""
    clear = sorted((c for c in comparisons if c.significant), key=lambda c: -abs(c.difference.mean))
    return [c for c in clear if c.difference.mean > 0], [c for c in clear if c.difference.mean < 0]


def _arms(comparisons: Sequence[ArmDifference]) -> str:
    return ", ".join(f"{c.arm} {_numbers(c)}" for c in comparisons)


def _baselines(comparisons: Sequence[ArmDifference]) -> str:
    return ", ".join(f"{c.baseline} {_numbers(c)}" for c in comparisons)


def _numbers(c: ArmDifference) -> str:
    d = c.difference
    return f"({signed(d.mean)} {interval(d.low, d.high)}, corrected p {p_value(c.adjusted_p)})"


def _not_significant(measured: ArmDifferences) -> str:
    rest = [c for c in _with_vanilla(measured.pooled) if not c.significant]
    if not rest:
        return ""
    largest = max(rest, key=lambda c: abs(c.difference.mean))
    names = listed([c.arm for c in rest])
    most = f"; the largest of the differences is that of {_arms([largest])}" if len(rest) > 1 else ""
    return f"Not told apart from {VANILLA} {_ALL}: {names}{most}."


def _against_controls(bridges: Iterable[str], measured: ArmDifferences) -> list[str]:
    """Whether bridges beat the controls over all settings; those like all of them share a line."""
    here = {
        arm: [c for c in measured.pooled.values() if c.arm == arm and c.baseline != VANILLA]
        for arm in bridges
    }
    alike = [arm for arm, own in here.items() if own and not any(c.significant for c in own)]
    if len(alike) < 2:
        alike = []
    told = [_of_bridge(arm, own) for arm, own in here.items() if own and arm not in alike]
    if alike:
        every = [c for arm in alike for c in here[arm]]
        controls = listed(list(dict.fromkeys(c.baseline for c in every)))
        tested = [c for c in every if not math.isnan(c.adjusted_p)] or every
        nearest = min(tested, key=lambda c: (c.adjusted_p, -abs(c.difference.mean)))
        told.append(
            f"Against the controls ({controls}), {_ALL}, none of these is told apart from any: "
            f"{listed(alike)}; nearest to it is {nearest.arm} minus {nearest.baseline} "
            f"{_numbers(nearest)}."
        )
    return told


def _of_bridge(arm: str, comparisons: Sequence[ArmDifference]) -> str:
    better, worse = _clear(comparisons)
    same = [c for c in comparisons if not c.significant]
    parts = []
    if better:
        parts.append(f"is significantly better than {_baselines(better)}")
    if worse:
        parts.append(f"is significantly worse than {_baselines(worse)}")
    if same:
        parts.append(f"is not told apart from {_baselines(same)}")
    return f"Against the controls, {_ALL}, {arm} {'; it '.join(parts)}."


def _single(measured: ArmDifferences) -> str:
    single = _with_vanilla(measured.single)
    if not single:
        return ""
    better, worse = _clear(single)
    count = len(better) + len(worse)
    head = (
        f"In single settings (task, shots, PET) there are {plural(len(single), 'comparison')} with "
        f"{VANILLA}; after correction {count or 'none'} of them {'are' if count > 1 else 'is'} "
        "significant"
    )
    if not count:
        return f"{head}."
    named = [f"{c.arm} on {c.setting} {_numbers(c)}" for c in (better + worse)[:_NAMED]]
    more = f"; and {count - len(named)} more" if count > len(named) else ""
    return f"{head}, {len(better)} better and {len(worse)} worse: {'; '.join(named)}{more}."


def _resolution(measured: ArmDifferences) -> str:
    """How small an effect these numbers could have shown."""
    differences = [c.difference for c in _with_vanilla(measured.pooled) if c.difference.count > 1]
    if not differences:
        return ""
    widths = [f"{(d.high - d.low) / 2:.3f}" for d in differences]
    return (
        f"The 95 % intervals of the differences to {VANILLA} {_ALL} reach "
        f"{' to '.join(dict.fromkeys((min(widths), max(widths))))} to either side: an effect much "
        "smaller than that would not be seen here."
    )


def _signed_ranks(measured: ArmDifferences) -> str:
    """That the signed-rank test cannot reject with few pairs."""
    counts = {c.difference.count for c in measured.single.values()}
    least = 2.0 ** (1 - max(counts, default=0))
    if not LEVEL < least <= 1:
        return ""
    return (
        f"With at most {plural(max(counts), 'pair')} in a single setting the signed-rank test cannot "
        f"give a p below {least:.4g} there, so the t test decides. It assumes nearly normal "
        "differences, the interval does not; where only one of them speaks, nothing is called "
        "significant."
    )
