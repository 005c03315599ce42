"""The verdict on a planned comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.evidence.markdown import code, head, interval, line
from benchmarks.evidence.plan import Comparison
from benchmarks.evidence.questions import ACCURACY, T, pairs, values_of
from benchmarks.evidence.records import Cell
from pets.study.cells.arms import VANILLA
from pets.study.statistics.crossed import crossed_interval
from pets.study.statistics.paired import ERROR, difference, holm
from pets.study.statistics.power import detectable


def verdict(compared: Comparison, studies: Sequence[Sequence[Cell]]) -> str:
    """A comparison that counts: the arm against vanilla and every control.

    A pair is a study, a task and a split. Intervals hold together (Bonferroni), p are Holm's, for as
    many tests as there are baselines.
    """
    tests = len(compared.baselines)
    title = f"### The {compared.name} comparison: `{compared.arm}`\n"
    scores = {name: _pairs(studies, ACCURACY.value, compared.arm, name) for name in compared.baselines}
    if not all(len(ours) > 1 for ours, _ in scores.values()):
        return f"{title}\nNot run to its end: no verdict."
    error = ERROR / tests
    found = {name: difference(ours, theirs, (0.0, 1.0)) for name, (ours, theirs) in scores.items()}
    adjusted = holm([one.p for one in found.values()])
    wider = {name: _with_examples(studies, compared.arm, name, error) for name in found}
    columns = {
        "against": [code(name) for name in found],
        "pairs": [str(one.count) for one in found.values()],
        "mean difference in accuracy [95 % for all at once]": [
            interval(one.mean, *one.interval(error)) for one in found.values()
        ],
        "the same over other examples too": list(wider.values()),
        f"p (Holm, {tests} tests)": [f"{p:.2g}" for p in adjusted],
        "true difference seen four times in five": [
            f"{detectable(one.deviation, one.count, error):.3f}" for one in found.values()
        ],
    }
    told = {name: entries for name, entries in columns.items() if any(entries)}
    lines = [title, *head(tuple(told)), *map(line, zip(*told.values(), strict=True))]
    clear = [name for name, one in found.items() if one.interval(error)[0] > 0]
    missed = ", ".join(code(name) for name in compared.controls if name not in clear)
    if len(clear) == len(found):
        above = ", ".join(map(code, compared.controls))
        said = f"Above vanilla and above {above}, with every corrected interval clear of 0."
    elif VANILLA in clear:
        said = f"Above vanilla with the corrected interval clear of 0, but not above {missed}."
    else:
        said = "Not above vanilla with the corrected interval clear of 0: the goal is not reached."
    return "\n".join([*lines, "", said])


def _pairs(
    studies: Sequence[Sequence[Cell]], value: Callable[[Cell], T | None], arm: str, baseline: str
) -> tuple[list[T], list[T]]:
    ours: list[T] = []
    theirs: list[T] = []
    for cells in studies:
        for arms in values_of(cells, value).values():
            own, other = pairs(arms, arm, baseline)
            ours += own
            theirs += other
    return ours, theirs


def _with_examples(studies: Sequence[Sequence[Cell]], arm: str, baseline: str, error: float) -> str:
    """The mean with its `crossed_interval`; empty where not all pairs say what they were right on."""
    settings = {cell.setting for cells in studies for cell in cells}
    count = len(_pairs(studies, ACCURACY.value, arm, baseline)[0])
    right = _pairs(studies, lambda cell: cell.right, arm, baseline)
    if len(settings) > 1 or len(right[0]) < count:  # the examples of two tasks are not the same
        return ""
    ours, theirs = (np.array(part, dtype=np.float64) for part in right)
    return interval(float((ours - theirs).mean()), *crossed_interval(ours - theirs, error))
