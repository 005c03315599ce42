"""Effects: over all settings, against what an arm costs, by its strength, by the number of shots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pets.study.cells.arms import CONTROL, VANILLA
from pets.study.report.curves import DevDifference, by_strength, means, over_seeds, pairs
from pets.study.report.document import Picture, listed, setting_name
from pets.study.report.pictures import arm_styles, legend_below, new_figure
from pets.study.report.runs import Runs, arm_kinds, panel_kinds
from pets.study.statistics.arm_differences import ArmDifference, ArmDifferences
from pets.study.statistics.intervals import summarise

_COLUMNS = 3
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "0.5")
_MARKERS = "oDv^sPX"


def forests(runs: Runs, measured: ArmDifferences) -> list[Picture]:
    """Differences over all settings, to vanilla and to the controls."""
    pictures = [_forest(runs.kinds, measured, against) for against in ([VANILLA], runs.arms(CONTROL))]
    return list(filter(None, pictures))


def _forest(
    kinds: Mapping[str, str], measured: ArmDifferences, baselines: Sequence[str]
) -> Picture | None:
    baselines = [b for b in baselines if any(baseline == b for _, baseline in measured.pooled)]
    arms = [arm for arm in kinds if any((arm, baseline) in measured.pooled for baseline in baselines)]
    if not arms:
        return None
    styles = arm_styles(kinds)
    width = 2.9 if len(baselines) == 1 else 2.5 * len(baselines)
    figure = new_figure(1.6 + width, 0.9 + 0.3 * len(arms))
    axes = figure.subplots(1, len(baselines), squeeze=False, sharey=True, sharex=True)[0]
    for axis, baseline in zip(axes, baselines, strict=True):
        axis.axvline(0, color="0.3", linewidth=0.9)
        for place, arm in enumerate(arms):
            if (arm, baseline) in measured.pooled:
                single = [
                    c.difference.mean
                    for (_, a, b), c in measured.single.items()
                    if (a, b) == (arm, baseline)
                ]
                axis.plot(single, [place + 0.22] * len(single), "|", color="0.55", markersize=4)
                _interval(axis, measured.pooled[arm, baseline], place, styles[arm]["color"])
        axis.set_yticks(range(len(arms)), arms)
        axis.set_ylim(len(arms) - 0.5, -0.5)
        axis.set_xlabel(f"minus {baseline}")
        axis.tick_params(axis="y", length=0)
        axis.grid(alpha=0.25, axis="x")
        axis.margins(x=0.08)
        axis.locator_params(axis="x", nbins=4)
    caption = (
        f"Score of each arm minus {listed([f'that of {baseline}' for baseline in baselines])}, over all "
        "settings, with its 95 % bootstrap interval. A filled mark is significant (corrected p below "
        "0.05, interval without 0), a hollow one is not. Small strokes are the means of single "
        "settings. Right of the line is better."
    )
    to = VANILLA if VANILLA in baselines else "the controls"
    return Picture(f"Difference to {to}, all settings together", caption, figure)


def _interval(axis: Any, comparison: ArmDifference, place: float, color: str) -> None:
    d = comparison.difference
    if d.count > 1:
        axis.plot([d.low, d.high], [place, place], color=color, linewidth=1.8, solid_capstyle="butt")
    face = color if comparison.significant else "white"
    axis.plot(
        [d.mean], [place], "o", markersize=6, color=color, markerfacecolor=face, markeredgewidth=1.4
    )


def cost_picture(runs: Runs, measured: ArmDifferences) -> list[Picture]:
    """Added time of a training step against the pooled difference; nothing where times are missing."""
    ratios: dict[str, list[Mapping[str, float]]] = {}
    for arms in runs.times.values():
        for arm, entry in arms.items():
            if (arm, VANILLA) in measured.pooled:
                ratios.setdefault(arm, []).append(entry)
    if not ratios:
        return []
    kinds = runs.kinds
    styles = arm_styles(kinds)
    figure = new_figure(4.6, 3.6)
    axis = figure.subplots()
    axis.axhline(0, color="0.3", linewidth=0.9)
    axis.axvline(0, color="0.3", linewidth=0.9)
    for arm in (arm for arm in kinds if arm in ratios):
        d = measured.pooled[arm, VANILLA].difference
        entries = ratios[arm]
        place = 100 * (summarise([entry["ratio"] for entry in entries]).mean - 1)
        low = 100 * (min(entry["low"] for entry in entries) - 1)
        high = 100 * (max(entry["high"] for entry in entries) - 1)
        look = {**styles[arm], "linestyle": "none"}
        axis.plot([low, high], [d.mean, d.mean], color=look["color"], linewidth=0.8, alpha=0.6)
        if d.count > 1:
            axis.plot([place, place], [d.low, d.high], color=look["color"], linewidth=1.4)
        axis.plot([place], [d.mean], label=arm, markersize=6.5, **look)
    axis.set_xlabel("added time of a training step, %")
    axis.set_ylabel(f"score minus {VANILLA}'s")
    axis.grid(alpha=0.25)
    legend_below(figure, axis)
    caption = (
        f"Right: slower than {VANILLA}. Up: better over all settings, with the 95 % bootstrap "
        "interval. Times are means over PETs; the thin horizontal line spans the 20th to the 80th "
        "percentile of the rounds, over PETs."
    )
    return [Picture("Cost against accuracy", caption, figure)]


def sensitivity(runs: Runs) -> list[Picture]:
    """Dev metric against strength, one panel an arm; nothing where no arm has a strength."""
    arms = [arm for arm in runs.kinds if arm != VANILLA]
    by_arm = {arm: [d for pair in pairs(runs, arm) for d in by_strength(pair)] for arm in arms}
    by_arm = {arm: differences for arm, differences in by_arm.items() if differences}
    if not by_arm:
        return []
    columns = min(_COLUMNS, len(by_arm))
    lines = -(-len(by_arm) // columns)
    figure = new_figure(0.7 + 2.5 * columns, 0.4 + 1.9 * lines)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
    panels = list(axes.flat)
    for axis, (arm, differences) in zip(panels, by_arm.items(), strict=False):
        _panel(axis, differences, runs.settings)
        axis.set_title(arm)
    for k, axis in enumerate(panels):
        axis.set_visible(k < len(by_arm))
        if k + columns >= len(by_arm):
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
    axis: Any, differences: Sequence[DevDifference], settings: Sequence[tuple[str, int | None]]
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
    rows = [row for row in runs.done if row.task == task and row.shots is not None]
    kinds, pets = arm_kinds(rows), list(dict.fromkeys(row.pet for row in rows))
    styles = arm_styles(row.arm for row in runs.done)
    lines = panel_kinds(kinds)
    figure = new_figure(0.7 + 2.6 * len(pets), 0.5 + 2.2 * len(lines))
    axes = figure.subplots(len(lines), len(pets), squeeze=False, sharex=True, sharey=True)
    for panels, kind in zip(axes, lines, strict=True):
        arms = [arm for arm, its in kinds.items() if its in (VANILLA, kind)]
        for axis, pet in zip(panels, pets, strict=True):
            for k, arm in enumerate(arms):
                scores = {
                    count: [r.score for r in rows if (r.pet, r.arm, r.shots) == (pet, arm, count)]
                    for count in shots
                }
                summaries = {count: summarise(values) for count, values in scores.items() if values}
                aside = 1.04 ** (k - (len(arms) - 1) / 2)  # so that the bars can be told apart
                axis.errorbar(
                    [count * aside for count in summaries],
                    [s.mean for s in summaries.values()],
                    [_or_none(s.deviation) for s in summaries.values()],
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
        panels[0].set_ylabel(f"{rows[0].metric}, {kind}")
        panels[-1].legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5))
    for axis, pet in zip(axes[0], pets, strict=True):
        axis.set_title(pet)
    for axis in axes[-1]:
        axis.set_xlabel("examples per class")
    caption = "Score on the reported split: mean over seeds, bars one standard deviation up and down."
    return Picture(f"{task}: score by the number of shots", caption, figure)
