"""Learning curves: the dev metric and the dev loss of the selected tries against steps."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from pets.study.cells.arms import VANILLA
from pets.study.cells.rows import Row
from pets.study.report.arm_kinds import arm_kinds, panel_kinds
from pets.study.report.arm_styles import arm_styles
from pets.study.report.canvas import new_figure
from pets.study.report.figures import Picture
from pets.study.report.pairs import by_step, over_seeds, pairs
from pets.study.report.runs import Runs
from pets.study.report.wording import plural, setting_name
from pets.study.statistics.intervals import summarise

ABOUT = (
    "The selected try of each seed, scored on the selection split while it was tuned. That is the split "
    "on which the try was selected, so the curves flatter every arm alike."
)

Look = dict[str, Any]
Styles = dict[str, dict[str, Any]]


def learning_curves(runs: Runs) -> list[Picture]:
    """Differences to vanilla over all settings, then a picture for each setting and PET."""
    styles = arm_styles(row["arm"] for row in runs.done)
    pictures = [_over_all(runs, styles)] if len(styles) > 1 else []
    for task, shots in runs.settings:
        for pet in runs.pets:
            if rows := runs.of(task, shots, pet):
                pictures.append(_picture(f"{setting_name(task, shots)}, {pet}", rows, styles))
    return pictures


def _over_all(runs: Runs, styles: Styles) -> Picture:
    kinds = arm_kinds(runs.done)
    columns = panel_kinds(kinds)
    figure = new_figure(0.7 + 2.6 * len(columns), 3.6)
    axes = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
    for axis, kind in zip(axes, columns, strict=True):
        axis.axhline(0, color="black", linewidth=0.9)
        for arm in (arm for arm, its in kinds.items() if its == kind):
            points = over_seeds([d for pair in pairs(runs, arm) for d in by_step(pair)])
            if points:
                steps, found = zip(*points, strict=True)
                middle, width = [s.mean for s in found], [s.interval for s in found]
                _draw(axis, steps, middle, width, arm, styles[arm])
        axis.set_title(kind)
        axis.set_xlabel("step")
        axis.grid(alpha=0.25)
        _legend(axis, axis)
    axes[0].set_ylabel(f"dev metric minus {VANILLA}'s")
    caption = (
        f"The dev metric minus {VANILLA}'s at the same step, mean over all tasks, shots, PETs and "
        "seeds; areas are 95 % intervals over seeds, each of which counts once with its mean. Where an "
        "area lies on the line at zero, the arm is not told apart from the PET alone."
    )
    return Picture("All settings together, as differences", caption, figure)


def _picture(name: str, rows: Sequence[Row], styles: Styles) -> Picture:
    kinds, metric = arm_kinds(rows), rows[0]["metric"]
    columns = panel_kinds(kinds)
    figure = new_figure(0.7 + 2.6 * len(columns), 4.9)
    axes = figure.subplots(2, len(columns), squeeze=False, sharex=True, sharey="row")
    for (above, below), kind in zip(axes.T, columns, strict=True):
        for arm in (arm for arm, its in kinds.items() if its in (VANILLA, kind)):
            chosen = [row["tries"][row["restart"]]["curves"] for row in rows if row["arm"] == arm]
            _mean(above, chosen, lambda look: look["dev"][metric], arm, styles[arm])
            _mean(below, chosen, lambda look: look["dev_loss"], arm, styles[arm])
        above.set_title(kind)
        below.set_xlabel("step")
        above.grid(alpha=0.25)
        below.grid(alpha=0.25)
        _legend(above, below)
    axes[0][0].set_ylabel(f"dev {metric}")
    axes[1][0].set_ylabel("dev loss")
    seeds = plural(len({row["seed"] for row in rows}), "seed")
    return Picture(name, f"Mean over {seeds}; areas are one standard deviation up and down.", figure)


def _mean(
    axis: Any,
    curves: Sequence[Sequence[Look]],
    read: Callable[[Look], float],
    arm: str,
    style: dict[str, Any],
) -> None:
    values: dict[int, list[float]] = {}
    for look in (look for curve in curves for look in curve):
        values.setdefault(look["step"], []).append(read(look))
    steps = sorted(values)
    found = [summarise(values[step]) for step in steps]
    _draw(axis, steps, [s.mean for s in found], [s.deviation for s in found], arm, style)


def _draw(
    axis: Any,
    steps: Sequence[float],
    middle: Sequence[float],
    width: Sequence[float],
    arm: str,
    style: dict[str, Any],
) -> None:
    """A line and its area; where there is a single seed the width is nan, and no area is seen."""
    every = max(1, len(steps) // 6)
    axis.plot(steps, middle, label=arm, linewidth=1.5, markersize=3.5, markevery=every, **style)
    low = [m - w for m, w in zip(middle, width, strict=True)]
    high = [m + w for m, w in zip(middle, width, strict=True)]
    axis.fill_between(steps, low, high, color=style["color"], alpha=0.1, linewidth=0)


def _legend(axis: Any, under: Any) -> None:
    """The legend of one panel, under another."""
    handles, names = axis.get_legend_handles_labels()
    names = [textwrap.shorten(name, 34, placeholder=" ...") for name in names]
    under.legend(handles, names, fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.24))
