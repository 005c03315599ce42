"""The tables: scores, differences to vanilla and to every control, times of a step."""

from __future__ import annotations

from pets.study.cells.arms import CONTROL, VANILLA
from pets.study.report.document import (
    Entry,
    RowGroup,
    Table,
    interval,
    number,
    p_value,
    plural,
    setting_name,
    signed,
)
from pets.study.report.runs import Runs
from pets.study.statistics.arm_differences import ArmDifference, ArmDifferences, Setting

HOW_TO_READ = (
    "Differences are paired by seed, with their 95 % bootstrap interval; below them the p of the "
    "paired t test (t), of Wilcoxon's signed-rank test (W), and that of the t test corrected "
    "by Holm for all comparisons with the same baseline. Bold: the corrected p is below 0.05 and the "
    "interval leaves out 0."
)


def main_table(runs: Runs, measured: ArmDifferences, task: str, shots: int | None) -> Table:
    """One task and number of shots: PETs x arms."""
    kinds = runs.kinds
    baselines = [VANILLA, *runs.arms(CONTROL)]
    groups = []
    for pet in runs.pets:
        setting = Setting(task, shots, pet)
        rows = []
        for arm in kinds:
            if (setting, arm) not in measured.scores:
                continue
            score = measured.scores[setting, arm]
            cells = [
                Entry(arm),
                Entry(number(score.mean)),
                Entry(number(score.deviation)),
                Entry(str(score.count)),
            ]
            cells += [
                difference_cell(measured.single.get((setting, arm, baseline)), score.count)
                for baseline in baselines
            ]
            rows.append(cells)
        if rows:
            groups.append(RowGroup(pet, rows))
    metric = runs.of(task, shots)[0].metric
    caption = f"{setting_name(task, shots)}: {metric} on the reported split, over seeds."
    columns = ("arm", "mean", "deviation", "n", *(f"minus {baseline}" for baseline in baselines))
    return Table(caption, columns, groups)


def pooled_table(runs: Runs, measured: ArmDifferences) -> Table:
    """Every arm over all settings at once."""
    kinds = runs.kinds
    baselines = [VANILLA, *runs.arms(CONTROL)]
    groups: dict[str, list[list[Entry]]] = {}
    for arm, kind in kinds.items():
        here = [measured.pooled.get((arm, baseline)) for baseline in baselines]
        pairs = max((c.difference.count for c in here if c), default=0)
        if pairs:
            cells = [Entry(arm), Entry(str(pairs)), *(difference_cell(c, pairs) for c in here)]
            groups.setdefault(kind, []).append(cells)
    tasks = len({task for task, _ in runs.settings})
    caption = (
        f"All settings together. A pair is one seed of one task ({plural(tasks, 'task')}), with its "
        f"mean over PETs and shots; the tasks' metrics are averaged as they are."
    )
    columns = ("arm", "pairs", *(f"minus {baseline}" for baseline in baselines))
    return Table(caption, columns, [RowGroup(kind, rows) for kind, rows in groups.items()])


def difference_cell(comparison: ArmDifference | None, expected: int) -> Entry:
    """A difference with its interval and tests; empty where the arms are not compared.

    Args:
        comparison: of two arms.
        expected: how many pairs there are where none is missing; another number is told.
    """
    if comparison is None:
        return Entry("")
    d = comparison.difference
    if d.count == 1:
        return Entry(signed(d.mean), note="one pair: no test")
    tests = [f"t {p_value(d.p)}", f"W {p_value(d.wilcoxon_p)}", f"Holm {p_value(comparison.adjusted_p)}"]
    if d.count != expected:
        tests.append(plural(d.count, "pair"))
    return Entry(
        f"{signed(d.mean)} {interval(d.low, d.high)}", comparison.significant, " · ".join(tests)
    )


def times_table(runs: Runs) -> Table | None:
    """The step times as measured."""
    if not runs.times:
        return None
    groups = [
        RowGroup(
            pet,
            [
                [
                    Entry(arm),
                    Entry(f"{entry['milliseconds']:.1f}" if "milliseconds" in entry else "-"),
                    Entry(f"{entry['ratio']:.3f}"),
                    Entry(f"{entry['low']:.3f} to {entry['high']:.3f}"),
                    Entry(f"{entry['rounds']:.0f}" if "rounds" in entry else "-"),
                ]
                for arm, entry in arms.items()
            ],
        )
        for pet, arms in runs.times.items()
    ]
    where = ", ".join(f"{name} {value}" for name, value in runs.environment.items())
    caption = (
        f"Time of a training step, median over rounds, and as a multiple of {VANILLA}'s in the same "
        f"round (median, 20th to 80th percentile). Measured on: {where or 'not recorded'}."
    )
    columns = ("arm", "milliseconds", f"times {VANILLA}", "20 to 80 %", "rounds")
    return Table(caption, columns, groups)
