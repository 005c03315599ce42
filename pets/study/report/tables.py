"""The tables: the arms at a glance, differences to vanilla and to every control, times of a step."""

from __future__ import annotations

from collections.abc import Sequence

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
    size,
)
from pets.study.report.runs import Runs
from pets.study.report.scopes import Scope
from pets.study.statistics.arm_differences import ArmDifference, ArmDifferences
from pets.study.statistics.setting import Setting

HOW_TO_READ = (
    "Differences are paired by seed, with their 95 % interval (Student's t, cut to what the metric can "
    "be); below them the p of the paired t test (t), of Wilcoxon's signed-rank test (W), and that of "
    "the t test corrected by Holm for all comparisons with the same baseline. Bold: the corrected p is "
    "below 0.05. Tests and intervals are over splits, on the same scored examples; of an accuracy the "
    "interval is told too that other examples are in."
)
_MEMORY = {"memory": "kept", "device_memory": "peak of the device"}
"""Of a step, where it was measured."""


def arms_table(found: Sequence[Scope]) -> Table:
    """The table that is seen first: every arm, what it gains, how sure that is, at what price."""
    prices = [price for scope in found for price in scope.prices.values()]
    timed, kept = bool(prices), any(price.memory is not None for price in prices)
    told = "; time of a training step" if timed else ""
    told += " and memory kept for its backward pass" if kept else ""
    told += f", as multiples of {VANILLA}'s" if timed else ""
    caption = (
        f"Score of each arm and its difference to {VANILLA}, paired by seed, with the 95 % interval and "
        f"the p corrected for all arms{told}. Bold: corrected p below 0.05."
    )
    if any(c.over_examples for scope in found for c in scope.against.values()):
        caption += " In small: the interval that other scored examples are in too."
    columns = (
        *("arm", "mean", f"minus {VANILLA}", "95 % interval", "corrected p", "pairs"),
        *(["step time"] if timed else []),
        *(["memory"] if kept else []),
    )
    groups = [
        RowGroup(
            f"{scope.name}: {scope.metric}",
            [_arm_row(scope, arm)[: len(columns)] for arm in scope.kinds],
        )
        for scope in found
    ]
    return Table(caption, columns, groups)


def _arm_row(scope: Scope, arm: str) -> list[Entry]:
    c, price = scope.against.get(arm), scope.prices.get(arm)
    notes = ["control"] if scope.kinds[arm] == CONTROL else []
    if c is not None and len(c.settings) < len(scope.settings):
        only = c.where if len(c.settings) == 1 else f"{len(c.settings)} of the settings"
        notes.append(f"only {only}")
    count, most = scope.counts[arm], max(scope.counts.values())
    runs = "" if count == most else f"{count} of {most} runs"
    cells = [Entry(arm, note="; ".join(notes)), Entry(number(scope.means[arm]), note=runs)]
    if c is None:
        cells += [Entry("")] * 4
    else:
        d = c.difference
        cells += [
            Entry(signed(d.mean), c.significant),
            Entry(interval(d.low, d.high), note=_over_examples(c)),
            Entry(p_value(c.adjusted_p)),
            Entry(str(d.count)),
        ]
    if price is None:
        return [*cells, Entry("-"), Entry("-")]
    memory = "-" if price.memory is None else f"{price.memory:.2f}"
    note = size(price.kept) if price.kept else ""
    return [*cells, Entry(f"{price.time:.2f}"), Entry(memory, note=note)]


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


def pooled_table(runs: Runs, measured: ArmDifferences, scope: Scope) -> Table:
    """Every arm over all settings of a metric at once, against vanilla and the controls."""
    baselines = [VANILLA, *runs.arms(CONTROL)]
    groups: dict[str, list[list[Entry]]] = {}
    for arm, kind in scope.kinds.items():
        here = [measured.pooled.get((scope.metric, arm, baseline)) for baseline in baselines]
        pairs = max((c.difference.count for c in here if c), default=0)
        if pairs:
            cells = [Entry(arm), Entry(str(pairs)), *(difference_cell(c, pairs) for c in here)]
            groups.setdefault(kind, []).append(cells)
    caption = (
        f"{scope.name}: {scope.metric}. A pair is one seed of one task, with its mean over PETs and "
        "shots. Arms that ran in one of them only are not here."
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
    if over := _over_examples(comparison):
        tests.append(f"other examples too {over}")
    return Entry(
        f"{signed(d.mean)} {interval(d.low, d.high)}", comparison.significant, " · ".join(tests)
    )


def _over_examples(c: ArmDifference) -> str:
    """The interval that other examples are in too, where it is known."""
    return "" if c.over_examples is None else interval(*c.over_examples)


def times_table(runs: Runs) -> Table | None:
    """The step times as measured."""
    if not runs.times:
        return None
    entries = [entry for arms in runs.times.values() for entry in arms.values()]
    memory = [key for key in _MEMORY if any(key in entry for entry in entries)]
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
                    *(Entry(size(entry[key]) if key in entry else "-") for key in memory),
                ]
                for arm, entry in arms.items()
            ],
        )
        for pet, arms in runs.times.items()
    ]
    about = "Kept: what autograd saves for the backward pass, weights aside. " if memory else ""
    where = ", ".join(f"{name} {value}" for name, value in runs.environment.items())
    caption = (
        f"Time of a training step, median over rounds, and as a multiple of {VANILLA}'s in the same "
        f"round (median, 20th to 80th percentile). {about}Measured on: {where or 'not recorded'}."
    )
    columns = (
        *("arm", "milliseconds", f"times {VANILLA}", "20 to 80 %", "rounds"),
        *(_MEMORY[key] for key in memory),
    )
    return Table(caption, columns, groups)
