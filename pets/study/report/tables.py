"""The main tables: scores, and differences to vanilla and to every control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pets.study.cells.arms import VANILLA
from pets.study.report.arm_kinds import CONTROL, arm_kinds
from pets.study.report.document import Cell, Group, Table
from pets.study.report.runs import Runs
from pets.study.report.wording import interval, number, p_value, plural, setting_name, signed
from pets.study.statistics.comparison import Comparison, Comparisons, Setting

HOW_TO_READ = (
    "Differences are paired by seed, with their 95 % bootstrap interval; below them the p of the "
    "paired t test (t), of Wilcoxon's signed-rank test (W), and that of the t test corrected "
    "by Holm for all comparisons with the same baseline. Bold: the corrected p is below 0.05 and the "
    "interval leaves out 0."
)


def main_table(runs: Runs, found: Comparisons, task: str, shots: int | None) -> Table:
    """One task and number of shots: PETs x arms."""
    kinds = arm_kinds(runs.done)
    baselines = _baselines(kinds)
    groups = []
    for pet in runs.pets:
        setting = Setting(task, shots, pet)
        rows = []
        for arm in kinds:
            if (setting, arm) not in found.scores:
                continue
            score = found.scores[setting, arm]
            cells = [
                Cell(arm),
                Cell(number(score.mean)),
                Cell(number(score.deviation)),
                Cell(str(score.count)),
            ]
            cells += [
                difference_cell(found.single.get((setting, arm, baseline)), score.count)
                for baseline in baselines
            ]
            rows.append(cells)
        if rows:
            groups.append(Group(pet, rows))
    metric = runs.of(task, shots)[0]["metric"]
    caption = f"{setting_name(task, shots)}: {metric} on the reported split, over seeds."
    columns = ("arm", "mean", "deviation", "n", *(f"minus {baseline}" for baseline in baselines))
    return Table(caption, columns, groups)


def pooled_table(runs: Runs, found: Comparisons) -> Table:
    """Every arm over all settings at once."""
    kinds = arm_kinds(runs.done)
    baselines = _baselines(kinds)
    groups: dict[str, list[list[Cell]]] = {}
    for arm, kind in kinds.items():
        here = [found.pooled.get((arm, baseline)) for baseline in baselines]
        pairs = max((c.difference.count for c in here if c), default=0)
        if pairs:
            cells = [Cell(arm), Cell(str(pairs)), *(difference_cell(c, pairs) for c in here)]
            groups.setdefault(kind, []).append(cells)
    tasks = len({task for task, _ in runs.settings})
    caption = (
        f"All settings together. A pair is one seed of one task ({plural(tasks, 'task')}), with its "
        f"mean over PETs and shots; the tasks' metrics are averaged as they are."
    )
    columns = ("arm", "pairs", *(f"minus {baseline}" for baseline in baselines))
    return Table(caption, columns, [Group(kind, rows) for kind, rows in groups.items()])


def difference_cell(comparison: Comparison | None, expected: int) -> Cell:
    """A difference with its interval and tests; empty where the arms are not compared.

    Args:
        comparison: of two arms.
        expected: how many pairs there are where none is missing; another number is told.
    """
    if comparison is None:
        return Cell("")
    d = comparison.difference
    if d.count == 1:
        return Cell(signed(d.mean), note="one pair: no test")
    tests = [f"t {p_value(d.p)}", f"W {p_value(d.wilcoxon_p)}", f"Holm {p_value(comparison.adjusted_p)}"]
    if d.count != expected:
        tests.append(plural(d.count, "pair"))
    return Cell(f"{signed(d.mean)} {interval(d.low, d.high)}", comparison.significant, " · ".join(tests))


def _baselines(kinds: Mapping[str, str]) -> Sequence[str]:
    return [VANILLA, *(arm for arm, kind in kinds.items() if kind == CONTROL)]
