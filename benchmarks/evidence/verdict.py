"""The verdict on a planned comparison."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.evidence.markdown import code, interval
from benchmarks.evidence.plan import Comparison
from benchmarks.evidence.questions import ACCURACY, pairs, values_of
from benchmarks.evidence.records import Cell
from pets.study.cells.arms import VANILLA
from pets.study.statistics.paired import ERROR, difference, holm
from pets.study.statistics.power import detectable


def verdict(compared: Comparison, studies: Sequence[Sequence[Cell]]) -> str:
    """A comparison that counts: the arm against vanilla and every control.

    A pair is a study, a task and a split. Intervals hold together (Bonferroni), p are Holm's, for as
    many tests as there are baselines.
    """
    tests = len(compared.baselines)
    lines = [
        f"### The {compared.name} comparison: `{compared.arm}`\n",
        "| against | pairs | mean difference in accuracy [95 % for all at once] | p (Holm, "
        f"{tests} tests) | true difference seen four times in five |",
        "| --- | --- | --- | --- | --- |",
    ]
    scores = {name: _pairs(studies, compared.arm, name) for name in compared.baselines}
    if not all(len(ours) > 1 for ours, _ in scores.values()):
        return f"{lines[0]}\nNot run to its end: no verdict."
    error = ERROR / tests
    found = {name: difference(ours, theirs, (0.0, 1.0)) for name, (ours, theirs) in scores.items()}
    adjusted = holm([d.p for d in found.values()])
    for (name, one), p in zip(found.items(), adjusted, strict=True):
        low, high = one.interval(error)
        least = detectable(one.deviation, one.count, error)
        lines.append(
            f"| {code(name)} | {one.count} | {interval(one.mean, low, high)} | {p:.2g} | {least:.3f} |"
        )
    clear = [name for name, one in found.items() if one.interval(error)[0] > 0]
    if len(clear) == len(found):
        said = "Above vanilla and above every control, with every corrected interval clear of 0."
    elif VANILLA in clear:
        said = "Above vanilla with the corrected interval clear of 0, but not above every control."
    else:
        said = "Not above vanilla with the corrected interval clear of 0: the goal is not reached."
    return "\n".join([*lines, "", said])


def _pairs(
    studies: Sequence[Sequence[Cell]], arm: str, baseline: str
) -> tuple[list[float], list[float]]:
    ours, theirs = [], []
    for cells in studies:
        for arms in values_of(cells, ACCURACY.value).values():
            own, other = pairs(arms, arm, baseline)
            ours += own
            theirs += other
    return ours, theirs
