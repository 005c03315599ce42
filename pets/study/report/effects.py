"""Effects: of each arm against vanilla and the controls, and against what a step with it takes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from pets.inside.images import new_figure
from pets.study.cells.arms import VANILLA
from pets.study.report.document import Picture
from pets.study.report.pictures import arm_styles, legend_below
from pets.study.report.runs import Runs
from pets.study.report.scopes import Scope
from pets.study.statistics.arm_differences import ArmDifferences
from pets.study.statistics.paired import PairedDifference

_READ = (
    "with its 95 % interval. A filled mark is significant (corrected p below 0.05), a hollow one is not."
    " Right of the line is better."
)


def forest(found: Sequence[Scope], measured: ArmDifferences) -> list[Picture]:
    """Differences to vanilla, a panel for each scope; nothing where there are none."""
    found = [scope for scope in found if scope.against]
    if not found:
        return []
    styles = arm_styles(arm for scope in found for arm in scope.kinds)
    heights = [0.7 + 0.29 * len(scope.against) for scope in found]
    figure = new_figure(4.4, 0.2 + sum(heights))  # beside the table on a desk, and as wide as a phone
    axes = figure.subplots(len(found), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, scope in zip(axes, found, strict=True):
        for place, (arm, comparison) in enumerate(scope.against.items()):
            _strokes(axis, scope, measured, arm, place)
            draw_interval(
                axis, comparison.difference, place, styles[arm]["color"], comparison.significant
            )
        _rows(axis, list(scope.against), f"{scope.metric} minus {VANILLA}'s")
        axis.set_title(textwrap.shorten(scope.name, 40, placeholder=" ..."))
    strokes = " Small strokes are single settings." if any(scope.pooled for scope in found) else ""
    caption = f"Score of each arm minus {VANILLA}'s, {_READ}{strokes}"
    return [Picture(f"Difference to {VANILLA}", caption, figure)]


def control_forest(found: Sequence[Scope]) -> list[Picture]:
    """Differences to the controls, a row of panels for each scope; nothing where there are none."""
    found = [scope for scope in found if scope.to_controls]
    if not found:
        return []
    controls = list(dict.fromkeys(control for scope in found for _, control in scope.to_controls))
    kinds = dict.fromkeys(arm for scope in found for arm in scope.kinds)
    arms = [arm for arm in kinds if any((arm, c) in s.to_controls for s in found for c in controls)]
    styles = arm_styles(kinds)
    figure = new_figure(1.5 + max(3.0, 2.3 * len(controls)), (0.8 + 0.3 * len(arms)) * len(found))
    axes = figure.subplots(len(found), len(controls), squeeze=False, sharey=True, sharex="row")
    for line, scope in zip(axes, found, strict=True):
        for axis, control in zip(line, controls, strict=True):
            for place, arm in enumerate(arms):
                if (arm, control) in scope.to_controls:
                    comparison = scope.to_controls[arm, control]
                    draw_interval(
                        axis, comparison.difference, place, styles[arm]["color"], comparison.significant
                    )
            _rows(axis, arms, f"{scope.metric} minus the control's")
            axis.set_title(control)
    caption = f"Score of each arm minus that of a control, {_READ}"
    return [Picture("Difference to the controls", caption, figure)]


def _strokes(axis: Any, scope: Scope, measured: ArmDifferences, arm: str, place: float) -> None:
    """The means of the single settings that are pooled."""
    if scope.pooled:
        keys = [(setting, arm, VANILLA) for setting in scope.settings]
        single = [measured.single[key].difference.mean for key in keys if key in measured.single]
        axis.plot(single, [place + 0.22] * len(single), "|", color="0.55", markersize=4)


def _rows(axis: Any, arms: Sequence[str], label: str) -> None:
    axis.axvline(0, color="0.3", linewidth=0.9)
    axis.set_yticks(range(len(arms)), arms)
    axis.set_ylim(len(arms) - 0.5, -0.5)
    axis.set_xlabel(label)
    axis.tick_params(axis="y", length=0)
    axis.grid(alpha=0.25, axis="x")
    axis.margins(x=0.08)
    axis.locator_params(axis="x", nbins=4)


def draw_interval(
    axis: Any, difference: PairedDifference, place: float, color: str, significant: bool
) -> None:
    """A mean with its 95 % interval on a line of its own; the mark is filled where it is significant."""
    if difference.count > 1:
        ends = [difference.low, difference.high]
        axis.plot(ends, [place, place], color=color, linewidth=1.8, solid_capstyle="butt")
    axis.plot(
        [difference.mean],
        [place],
        "o",
        markersize=6,
        color=color,
        markerfacecolor=color if significant else "white",
        markeredgewidth=1.4,
    )


def cost_picture(runs: Runs, found: Sequence[Scope]) -> list[Picture]:
    """Added time of a step against the difference, a panel a scope; nothing where times are missing."""
    found = [scope for scope in found if scope.prices.keys() & scope.against.keys()]
    if not found:
        return []
    figure = new_figure(0.9 + 3.1 * len(found), 3.3)
    axes = figure.subplots(1, len(found), squeeze=False, sharex=True)[0]
    styles = arm_styles(runs.kinds)
    for axis, scope in zip(axes, found, strict=True):
        _cost_panel(axis, scope, styles)
    axes[0].set_ylabel(f"score minus {VANILLA}'s")
    legend_below(figure, *axes)
    caption = (
        f"Right: slower than {VANILLA}. Up: better, with the 95 % interval. Times are medians over "
        "rounds, means over PETs."
    )
    return [Picture("Time against score", caption, figure)]


def _cost_panel(axis: Any, scope: Scope, styles: Mapping[str, dict[str, Any]]) -> None:
    axis.axhline(0, color="0.3", linewidth=0.9)
    axis.axvline(0, color="0.3", linewidth=0.9)
    for arm in (arm for arm in scope.against if arm in scope.prices):
        d, place = scope.against[arm].difference, 100 * (scope.prices[arm].time - 1)
        look = {**styles[arm], "linestyle": "none"}
        if d.count > 1:
            axis.plot([place, place], [d.low, d.high], color=look["color"], linewidth=1.4)
        axis.plot([place], [d.mean], label=arm, markersize=6.5, **look)
    axis.set_xlabel("added time of a training step, %")
    axis.set_title(f"{scope.metric}, {len(scope.settings)} settings" if scope.pooled else scope.name)
    axis.grid(alpha=0.25)
