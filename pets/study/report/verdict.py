"""What is significant and what is not, in words made from the numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pets.study.cells.arms import VANILLA
from pets.study.report.document import interval, listed, p_value, plural, signed
from pets.study.report.scopes import Scope
from pets.study.statistics.arm_differences import ArmDifference, ArmDifferences
from pets.study.statistics.paired import ERROR, ROUNDING

_NAMED = 8  # single comparisons told one by one


def points(found: Sequence[Scope], measured: ArmDifferences) -> list[str]:
    """Sentences on what the first lines leave out: controls, single settings, resolution."""
    told = [text for scope in found for text in _of_scope(scope)]
    if any(scope.pooled for scope in found):
        told.append(_single(measured))
    told.append(_signed_ranks(measured))
    return [text for text in told if text]


def _of_scope(scope: Scope) -> list[str]:
    return [_not_significant(scope), *_against_controls(scope), _resolution(scope)]


def _with_vanilla(comparisons: Mapping[Any, ArmDifference]) -> list[ArmDifference]:
    return [c for c in comparisons.values() if c.baseline == VANILLA]


def _clear(comparisons: Iterable[ArmDifference]) -> tuple[list[ArmDifference], list[ArmDifference]]:
    """The significant ones: better and worse, largest first."""
    clear = sorted((c for c in comparisons if c.significant), key=lambda c: -abs(c.difference.mean))
    return [c for c in clear if c.difference.mean > 0], [c for c in clear if c.difference.mean < 0]


def _baselines(comparisons: Sequence[ArmDifference]) -> str:
    return ", ".join(f"{c.baseline} {_numbers(c)}" for c in comparisons)


def _numbers(c: ArmDifference) -> str:
    d = c.difference
    return f"({signed(d.mean)} {interval(d.low, d.high)}, corrected p {p_value(c.adjusted_p)})"


def _not_significant(scope: Scope) -> str:
    rest = [c for c in scope.against.values() if not c.significant]
    alike = [c.arm for c in rest if c.difference.count > 1]
    untested = [c.arm for c in rest if c.difference.count == 1]
    told = []
    if alike:
        told.append(f"Not told apart from {VANILLA} on {scope.name}: {listed(alike)}.")
    if untested:
        told.append(f"One pair with {VANILLA} alone, so no test, on {scope.name}: {listed(untested)}.")
    return " ".join(told)


def _against_controls(scope: Scope) -> list[str]:
    """Whether bridges beat the controls; those like all of them share a line."""
    several = {key: c for key, c in scope.to_controls.items() if c.difference.count > 1}
    here = {arm: [c for (its, _), c in several.items() if its == arm] for arm in scope.bridges}
    alike = [arm for arm, own in here.items() if own and not any(c.significant for c in own)]
    if len(alike) < 2:
        alike = []
    told = [_of_bridge(scope, arm, own) for arm, own in here.items() if own and arm not in alike]
    if alike:
        every = [c for arm in alike for c in here[arm]]
        controls = listed(list(dict.fromkeys(c.baseline for c in every)))
        tested = [c for c in every if not math.isnan(c.adjusted_p)] or every
        nearest = min(tested, key=lambda c: (c.adjusted_p, -abs(c.difference.mean)))
        told.append(
            f"Against the controls ({controls}), on {scope.name}, none of these is told apart from any: "
            f"{listed(alike)}; nearest to it is {nearest.arm} minus {nearest.baseline} "
            f"{_numbers(nearest)}."
        )
    return told


def _of_bridge(scope: Scope, arm: str, comparisons: Sequence[ArmDifference]) -> str:
    better, worse = _clear(comparisons)
    same = [c for c in comparisons if not c.significant]
    parts = []
    if better:
        parts.append(f"is significantly better than {_baselines(better)}")
    if worse:
        parts.append(f"is significantly worse than {_baselines(worse)}")
    if same:
        parts.append(f"is not told apart from {_baselines(same)}")
    return f"Against the controls, on {scope.name}, {arm} {'; it '.join(parts)}."


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
    named = [f"{c.arm} on {c.where} {_numbers(c)}" for c in (better + worse)[:_NAMED]]
    more = f"; and {count - len(named)} more" if count > len(named) else ""
    return f"{head}, {len(better)} better and {len(worse)} worse: {'; '.join(named)}{more}."


def _resolution(scope: Scope) -> str:
    """How wide the intervals are, where pairs differ at all."""
    differences = [
        c.difference
        for c in scope.against.values()
        if c.difference.count > 1 and c.difference.deviation > ROUNDING
    ]
    if not differences:
        return ""
    widths = [f"{(d.high - d.low) / 2:.3f}" for d in differences]
    return (
        f"The 95 % intervals of the differences to {VANILLA} on {scope.name} reach "
        f"{' to '.join(dict.fromkeys((min(widths), max(widths))))} to either side."
    )


def _signed_ranks(measured: ArmDifferences) -> str:
    """That the signed-rank test cannot reject with few pairs."""
    counts = {c.difference.count for c in measured.single.values() if c.difference.count > 1}
    least = 2.0 ** (1 - max(counts, default=0))
    if not ERROR < least <= 1:
        return ""
    return (
        f"With at most {plural(max(counts), 'pair')} in a single setting the signed-rank test cannot "
        f"give a p below {least:.4g} there, so the t test decides. It and its interval assume nearly "
        "normal differences: from few skewed ones, as near the end of a metric's range, they say too "
        "much."
    )
