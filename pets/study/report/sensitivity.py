"""Sensitivity to the strength, and the score by the number of shots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pets.study.cells.arms import VANILLA
from pets.study.report.arm_kinds import arm_kinds, panel_kinds
from pets.study.report.arm_styles import arm_styles
from pets.study.report.canvas import legend_below, new_figure
from pets.study.report.figures import Picture
from pets.study.report.pairs import Difference, by_strength, means, over_seeds, pairs
from pets.study.report.runs import Runs
from pets.study.report.wording import setting_name
from pets.study.statistics.intervals import summarise

_COLUMNS = 3
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "0.5")
_MARKERS = "oDv^sPX"


def sensitivity(runs: Runs) -> list[Picture]:
    """Dev metric against strength, one panel an arm; nothing where no arm has a strength."""
    arms = [arm for arm in arm_kinds(runs.done) if arm != VANILLA]
    found = {arm: [d for pair in pairs(runs, arm) for d in by_strength(pair)] for arm in arms}
    found = {arm: differences for arm, differences in found.items() if differences}
    if not found:
        return []
    columns = min(_COLUMNS, len(found))
    lines = -(-len(found) // columns)
    figure = new_figure(0.7 + 2.5 * columns, 0.4 + 1.9 * lines)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
    panels = list(axes.flat)
    for axis, (arm, differences) in zip(panels, found.items(), strict=False):
        _panel(axis, differences, runs.settings)
        axis.set_title(arm)
    for k, axis in enumerate(panels):
        axis.set_visible(k < len(found))
        if k + columns >= len(found):
            axis.set_xlabel("strength")
    for axis in axes[:, 0]:
        axis.set_ylabel(f"minus {VANILLA}'s")
    legend_below(figure, panels[0])
    caption = (
        f"The dev metric of each try minus that of {VANILLA}'s try with the same restart, on the same "
        "split. Coloured lines are means over PETs and seeds for one task and number of shots. The "
        "black line is the mean over all of them, its bars the 95 % interval over seeds, each of which "
        "counts once with its mean. Zero is no effect."
    )
    return [Picture("Dev metric by strength", caption, figure)]


def _panel(
    axis: Any, differences: Sequence[Difference], settings: Sequence[tuple[str, int | None]]
) -> None:
    axis.axhline(0, color="0.4", linewidth=0.8, linestyle=":")
    for k, setting in enumerate(settings):
        points = means([d for d in differences if d.setting == setting])
        look = {"color": _COLOURS[k % len(_COLOURS)], "marker": _MARKERS[k % len(_MARKERS)]}
        if points:
            axis.plot(
                *zip(*points, strict=True),
                linewidth=1,
                markersize=4,
                label=setting_name(*setting),
                **look,
            )
    strengths, summaries = zip(*over_seeds(differences), strict=True)
    bars = [_or_none(s.interval) for s in summaries]
    middle = [s.mean for s in summaries]
    axis.errorbar(strengths, middle, bars, color="black", linewidth=1.8, capsize=3, label="all")
    axis.set_xscale("log")
    axis.set_xticks(strengths, [f"{strength:.3g}" for strength in strengths])
    axis.minorticks_off()
    axis.grid(alpha=0.25)


def _or_none(length: float) -> float:
    """The length of a bar; no bar where a single value has no spread."""
    return 0.0 if math.isnan(length) else length


def score_by_shots(runs: Runs) -> list[Picture]:
    """Score against shots, one picture for each task that has several numbers of them."""
    by_task: dict[str, list[int]] = {}
    for task, shots in runs.settings:
        if shots is not None:
            by_task.setdefault(task, []).append(shots)
    return [_by_shots(runs, task, sorted(shots)) for task, shots in by_task.items() if len(shots) > 1]


def _by_shots(runs: Runs, task: str, shots: Sequence[int]) -> Picture:
    rows = [row for row in runs.done if row["task"] == task and row["shots"] is not None]
    kinds, pets = arm_kinds(rows), list(dict.fromkeys(row["pet"] for row in rows))
    styles = arm_styles(row["arm"] for row in runs.done)
    lines = panel_kinds(kinds)
    figure = new_figure(0.7 + 2.6 * len(pets), 0.5 + 2.2 * len(lines))
    axes = figure.subplots(len(lines), len(pets), squeeze=False, sharex=True, sharey=True)
    for panels, kind in zip(axes, lines, strict=True):
        arms = [arm for arm, its in kinds.items() if its in (VANILLA, kind)]
        for axis, pet in zip(panels, pets, strict=True):
            for k, arm in enumerate(arms):
                scores = {
                    count: [
                        r["score"] for r in rows if (r["pet"], r["arm"], r["shots"]) == (pet, arm, count)
                    ]
                    for count in shots
                }
                found = {count: summarise(values) for count, values in scores.items() if values}
                aside = 1.04 ** (k - (len(arms) - 1) / 2)  # so that the bars can be told apart
                axis.errorbar(
                    [count * aside for count in found],
                    [s.mean for s in found.values()],
                    [_or_none(s.deviation) for s in found.values()],
                    label=arm,
                    linewidth=1.2,
                    elinewidth=0.8,
                    markersize=4,
                    **styles[arm],
                )
            axis.set_xscale("log", base=2)
            axis.set_xticks(shots, [str(count) for count in shots])
            axis.minorticks_off()
            axis.grid(alpha=0.25)
        panels[0].set_ylabel(f"{rows[0]['metric']}, {kind}")
        panels[-1].legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5))
    for axis, pet in zip(axes[0], pets, strict=True):
        axis.set_title(pet)
    for axis in axes[-1]:
        axis.set_xlabel("examples per class")
    caption = "Score on the reported split: mean over seeds, bars one standard deviation up and down."
    return Picture(f"{task}: score by the number of shots", caption, figure)
