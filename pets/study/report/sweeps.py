"""Scores by an arm's strength, which strengths were selected, and scores by the number of shots."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pets.study.cells.arms import VANILLA
from pets.study.cells.rows import Row
from pets.study.report.curves import DevDifference, by_strength, means, over_seeds, pairs
from pets.study.report.document import Entry, Picture, RowGroup, Table, setting_name
from pets.study.report.pictures import arm_styles, legend_below, panels, same_scale
from pets.study.report.runs import Runs, arm_kinds
from pets.study.statistics.intervals import summarise

_COLUMNS = 4
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "0.5")
_MARKERS = "oDv^sPX"
_BARRED = 5  # arms whose bars can be told apart in one panel


def sensitivity(runs: Runs) -> list[Picture]:
    """Dev metric against strength, a panel for each arm and metric; nothing without strengths."""
    arms = [arm for arm in runs.kinds if arm != VANILLA]
    found = {
        (metric, arm): [d for pair in pairs(runs, arm, metric) for d in by_strength(pair)]
        for metric in runs.metrics
        for arm in arms
    }
    found = {key: differences for key, differences in found.items() if _vary(differences)}
    if not found:
        return []
    figure, axes = panels(len(found), _COLUMNS, 2.5, 1.95)
    for axis, ((metric, arm), differences) in zip(axes, found.items(), strict=True):
        _panel(axis, differences, runs.settings)
        axis.set_title(arm if len(runs.metrics) == 1 else f"{arm}, {metric}")
    for metric in runs.metrics:
        same_scale([axis for axis, (its, _) in zip(axes, found, strict=True) if its == metric])
    for axis in axes[::_COLUMNS]:
        axis.set_ylabel(f"minus {VANILLA}'s")
    for axis in axes[-_COLUMNS:]:
        axis.set_xlabel("strength")
    legend_below(figure, *axes)
    caption = (
        f"The dev metric of each try minus that of {VANILLA}'s try with the same restart, on the same "
        "split. Coloured lines are means over PETs and seeds for one task and number of shots. The "
        "black line is the mean over all of them with this metric, its bars the 95 % interval over "
        "seeds, each of which counts once with its mean. Zero is no effect."
    )
    return [Picture("Dev metric by strength", caption, figure)]


def selected_strengths(runs: Runs) -> Table | None:
    """How often each strength was the best on dev, by setting, arm and PET; None without strengths."""
    groups = []
    for task, shots in runs.settings:
        rows = [row for row in runs.of(task, shots) if row.strength is not None]
        if len({row.strength for row in rows}) < 2:
            continue
        here = {row.arm for row in rows}
        entries = [
            [Entry(arm), *(Entry(_counted(rows, arm, pet)) for pet in runs.pets)]
            for arm in runs.kinds
            if arm in here
        ]
        groups.append(RowGroup(setting_name(task, shots), entries))
    if not groups:
        return None
    what = "A strength is the weight of the arm's term in the loss"
    if any(row.by_ratio for row in runs.done):
        what += ", of a cost the ratio of its gradient to that of the task"
    caption = (
        "The strength selected on the selection split, and in brackets by how many seeds. Where "
        f"it is the smallest or the largest that was tried, a better one may lie beyond. {what}."
    )
    return Table(caption, ("arm", *runs.pets), groups, frozenset(range(1 + len(runs.pets))))


def _counted(rows: Sequence[Row], arm: str, pet: str) -> str:
    """``0.1 (3), 1 (2)``."""
    chosen = [row.strength for row in rows if (row.arm, row.pet) == (arm, pet)]
    counts = Counter(strength for strength in chosen if strength is not None)
    return ", ".join(f"{strength:.3g} ({count})" for strength, count in sorted(counts.items()))


def _vary(differences: Sequence[DevDifference]) -> bool:
    """Whether there are several strengths: a single one has no sensitivity."""
    return len({difference.at for difference in differences}) > 1


def _panel(
    axis: Any, differences: Sequence[DevDifference], settings: Sequence[tuple[str, int | None]]
) -> None:
    axis.axhline(0, color="0.4", linewidth=0.8, linestyle=":")
    for k, setting in enumerate(settings):
        points = means([d for d in differences if d.setting == setting])
        look = {"color": _COLOURS[k % len(_COLOURS)], "marker": _MARKERS[k % len(_MARKERS)]}
        look["linestyle"] = ("-", "--", ":")[k // len(_COLOURS) % 3]
        if points:
            name = setting_name(*setting)
            axis.plot(*zip(*points, strict=True), linewidth=1, markersize=4, label=name, **look)
    strengths, summaries = zip(*over_seeds(differences), strict=True)
    bars = [_or_none(s.interval) for s in summaries]
    middle = [s.mean for s in summaries]
    axis.errorbar(strengths, middle, bars, color="black", linewidth=1.8, capsize=3, label="all")
    axis.set_xscale("log")
    axis.set_xticks(strengths, [f"{strength:.3g}" for strength in strengths])
    axis.minorticks_off()


def _or_none(length: float) -> float:
    """The length of a bar; no bar where a single value has no spread."""
    return 0.0 if math.isnan(length) else length


def score_by_shots(runs: Runs) -> list[Picture]:
    """Score against shots, a panel for each task that has several numbers of them."""
    by_task: dict[str, list[int]] = {}
    for task, shots in runs.settings:
        if shots is not None:
            by_task.setdefault(task, []).append(shots)
    by_task = {task: sorted(shots) for task, shots in by_task.items() if len(shots) > 1}
    if not by_task:
        return []
    figure, axes = panels(len(by_task), _COLUMNS, 2.6, 2.3)
    styles = arm_styles(runs.kinds)
    barred = len(runs.kinds) <= _BARRED
    for axis, (task, counts) in zip(axes, by_task.items(), strict=True):
        _by_shots(axis, runs, task, counts, styles, barred)
        axis.set_xlabel("examples per class")
    legend_below(figure, *axes)
    bars = ", bars one standard deviation up and down" if barred else ""
    caption = f"Score on the reported split: mean over PETs and seeds{bars}."
    return [Picture("Score by the number of shots", caption, figure)]


def _by_shots(
    axis: Any,
    runs: Runs,
    task: str,
    shots: Sequence[int],
    styles: dict[str, dict[str, Any]],
    barred: bool,
) -> None:
    rows = [row for row in runs.done if row.task == task and row.shots is not None]
    arms = list(arm_kinds(rows))
    for k, arm in enumerate(arms):
        scores = {n: [r.score for r in rows if (r.arm, r.shots) == (arm, n)] for n in shots}
        found = {n: summarise(values) for n, values in scores.items() if values}
        aside = 1.04 ** (k - (len(arms) - 1) / 2)  # so that the bars can be told apart
        axis.errorbar(
            [n * aside for n in found],
            [s.mean for s in found.values()],
            [_or_none(s.deviation) for s in found.values()] if barred else None,
            label=arm,
            linewidth=1.2,
            elinewidth=0.8,
            markersize=4,
            **styles[arm],
        )
    axis.set_xscale("log", base=2)
    axis.set_xticks(shots, [str(count) for count in shots])
    axis.minorticks_off()
    axis.set_title(task)
    axis.set_ylabel(rows[0].metric)
