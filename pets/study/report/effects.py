"""Effects over all settings: forest plots, and what an arm costs against what it brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pets.study.cells.arms import VANILLA
from pets.study.report.arm_kinds import CONTROL, arm_kinds
from pets.study.report.arm_styles import arm_styles
from pets.study.report.canvas import legend_below, new_figure
from pets.study.report.document import Cell, Group, Table
from pets.study.report.figures import Picture
from pets.study.report.runs import Runs
from pets.study.report.wording import listed
from pets.study.statistics.comparison import Comparison, Comparisons
from pets.study.statistics.intervals import summarise


def forests(runs: Runs, found: Comparisons) -> list[Picture]:
    """Differences over all settings, to vanilla and to the controls."""
    kinds = arm_kinds(runs.done)
    controls = [arm for arm, kind in kinds.items() if kind == CONTROL]
    pictures = []
    if picture := _forest(kinds, found, [VANILLA]):
        pictures.append(picture)
    if picture := _forest(kinds, found, controls):
        pictures.append(picture)
    return pictures


def _forest(kinds: Mapping[str, str], found: Comparisons, baselines: Sequence[str]) -> Picture | None:
    baselines = [b for b in baselines if any(baseline == b for _, baseline in found.pooled)]
    arms = [arm for arm in kinds if any((arm, baseline) in found.pooled for baseline in baselines)]
    if not arms:
        return None
    styles = arm_styles(kinds)
    width = 2.9 if len(baselines) == 1 else 2.5 * len(baselines)
    figure = new_figure(1.6 + width, 0.9 + 0.3 * len(arms))
    axes = figure.subplots(1, len(baselines), squeeze=False, sharey=True, sharex=True)[0]
    for axis, baseline in zip(axes, baselines, strict=True):
        axis.axvline(0, color="0.3", linewidth=0.9)
        for place, arm in enumerate(arms):
            if (arm, baseline) in found.pooled:
                single = [
                    c.difference.mean
                    for (_, a, b), c in found.single.items()
                    if (a, b) == (arm, baseline)
                ]
                axis.plot(single, [place + 0.22] * len(single), "|", color="0.55", markersize=4)
                _interval(axis, found.pooled[arm, baseline], place, styles[arm]["color"])
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


def _interval(axis: Any, comparison: Comparison, place: float, color: str) -> None:
    d = comparison.difference
    if d.count > 1:
        axis.plot([d.low, d.high], [place, place], color=color, linewidth=1.8, solid_capstyle="butt")
    face = color if comparison.significant else "white"
    axis.plot(
        [d.mean], [place], "o", markersize=6, color=color, markerfacecolor=face, markeredgewidth=1.4
    )


def cost_picture(runs: Runs, found: Comparisons) -> list[Picture]:
    """Added time of a training step against the pooled difference; nothing where times are missing."""
    ratios: dict[str, list[Mapping[str, float]]] = {}
    for arms in runs.times.values():
        for arm, entry in arms.items():
            if (arm, VANILLA) in found.pooled:
                ratios.setdefault(arm, []).append(entry)
    if not ratios:
        return []
    kinds = arm_kinds(runs.done)
    styles = arm_styles(kinds)
    figure = new_figure(4.6, 3.6)
    axis = figure.subplots()
    axis.axhline(0, color="0.3", linewidth=0.9)
    axis.axvline(0, color="0.3", linewidth=0.9)
    for arm in (arm for arm in kinds if arm in ratios):
        d = found.pooled[arm, VANILLA].difference
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


def times_table(runs: Runs) -> Table | None:
    """The step times as measured."""
    if not runs.times:
        return None
    groups = [
        Group(
            pet,
            [
                [
                    Cell(arm),
                    Cell(f"{entry['milliseconds']:.1f}" if "milliseconds" in entry else "-"),
                    Cell(f"{entry['ratio']:.3f}"),
                    Cell(f"{entry['low']:.3f} to {entry['high']:.3f}"),
                    Cell(f"{entry['rounds']:.0f}" if "rounds" in entry else "-"),
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
