"""Everywhere that the arm of a comparison was tried, in one table: how far what was planned carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.evidence.markdown import code, head, interval, line
from benchmarks.evidence.plan import Comparison, Plan, Study
from benchmarks.evidence.questions import ACCURACY, compared, values_of
from benchmarks.evidence.records import Cell
from pets.study.cells.arms import VANILLA
from pets.study.statistics.intervals import summarise
from pets.study.statistics.setting import Setting


def place_name(study: Study, setting: Setting) -> str:
    """How a setting of a study is called where several studies are told of."""
    schedule = f", {study.options['schedule']} decay" if "schedule" in study.options else ""
    return f"{study.model}: {setting}{schedule}"


def everywhere(plan: Plan, cells: Mapping[str, Sequence[Cell]]) -> str:
    """The primary arm minus vanilla and minus its first control, in each place that it was tried in.

    Args:
        plan: whose first comparison says which arm and which control.
        cells: of each study.
    """
    first = plan.comparisons[0]
    baselines = (VANILLA, *first.controls[:1])
    heads = ("where", "splits", VANILLA, *(f"minus {code(one)}" for one in baselines))
    rows = [row for study in plan.studies for row in _rows(study, cells.get(study.name, ()), first)]
    return "\n".join(
        [
            f"### {code(first.arm)} everywhere that it was tried\n",
            "Accuracy, by study; mean differences with their 95 % intervals, each by itself and not "
            "corrected for the others.\n",
            *(*head(heads), *map(line, rows)),
        ]
    )


def _rows(study: Study, cells: Sequence[Cell], first: Comparison) -> list[list[str]]:
    by = values_of([cell for cell in cells if cell.is_accuracy], ACCURACY.value)
    baselines = (VANILLA, *first.controls[:1])
    found = compared(by, [(first.arm, one) for one in baselines], ACCURACY.span)
    rows = []
    for setting, arms in by.items():
        effects = [found.get((setting, first.arm, one)) for one in baselines]
        if effects[0] is not None:
            told = [one.difference if one else None for one in effects]
            plain = summarise(list(arms[VANILLA].values())).mean
            entries = [interval(one.mean, one.low, one.high) if one else "" for one in told]
            splits = str(effects[0].difference.count)
            rows.append(
                [f"{study.name}; {place_name(study, setting)}", splits, f"{plain:.3f}", *entries]
            )
    return rows
