"""On the selection split: pairs of an arm and vanilla, and learning curves of the selected tries."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pets.study.cells.arms import VANILLA
from pets.study.cells.rows import Look, Row
from pets.study.report.document import Picture, plural, setting_name
from pets.study.report.pictures import arm_styles, new_figure
from pets.study.report.runs import Runs, arm_kinds, panel_kinds
from pets.study.statistics.intervals import Summary, summarise

ABOUT = (
    "The selected try of each seed, scored on the selection split while it was tuned. That is the split "
    "on which the try was selected, so the curves flatter every arm alike."
)

Styles = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Pair:
    """A row, vanilla's row of the same setting, PET and seed, and what both are of.

    Attributes:
        row: the arm's.
        vanilla: its partner.
    """

    row: Row
    vanilla: Row

    @property
    def setting(self) -> tuple[str, int | None]:
        return self.row.task, self.row.shots


@dataclass(frozen=True)
class DevDifference:
    """One difference of a dev metric.

    Attributes:
        setting: task and shots.
        seed: of the pair.
        at: what it is drawn against: a strength, a step.
        value: the arm's dev metric minus vanilla's.
    """

    setting: tuple[str, int | None]
    seed: int
    at: float
    value: float


def pairs(runs: Runs, arm: str) -> list[Pair]:
    """All pairs of an arm; rows whose partner is missing have none."""
    partners = {_without_arm(row): row for row in runs.done if row.arm == VANILLA}
    rows = [row for row in runs.done if row.arm == arm]
    return [Pair(row, partners[_without_arm(row)]) for row in rows if _without_arm(row) in partners]


def by_strength(pair: Pair) -> Iterator[DevDifference]:
    """The difference of each try to vanilla's try with the same restart."""
    metric = pair.row.metric
    theirs = {tried.restart: tried.dev[metric] for tried in pair.vanilla.tries}
    for own in pair.row.tries:
        if own.strength is not None and own.restart in theirs:
            value = own.dev[metric] - theirs[own.restart]
            yield DevDifference(pair.setting, pair.row.seed, own.strength, value)


def by_step(pair: Pair) -> Iterator[DevDifference]:
    """The difference of the selected tries at each step both were looked at."""
    metric = pair.row.metric
    own, theirs = (
        {look.step: look.dev[metric] for look in row.chosen.curves} for row in (pair.row, pair.vanilla)
    )
    for step in own.keys() & theirs.keys():
        yield DevDifference(pair.setting, pair.row.seed, step, own[step] - theirs[step])


def over_seeds(differences: Sequence[DevDifference]) -> list[tuple[float, Summary]]:
    """For every strength or step the summary over seeds, each of which counts with its mean once.

    What one seed did in several settings shares its splits and initial values, so it is not counted as
    several measurements.
    """
    points = []
    for at in sorted({d.at for d in differences}):
        by_seed: dict[int, list[float]] = {}
        for d in differences:
            if d.at == at:
                by_seed.setdefault(d.seed, []).append(d.value)
        points.append((at, summarise([summarise(values).mean for values in by_seed.values()])))
    return points


def means(differences: Sequence[DevDifference]) -> list[tuple[float, float]]:
    """For every strength or step the plain mean."""
    places = sorted({d.at for d in differences})
    return [(at, summarise([d.value for d in differences if d.at == at]).mean) for at in places]


def _without_arm(row: Row) -> tuple[object, ...]:
    return row.task, row.shots, row.pet, row.seed


def learning_curves(runs: Runs) -> list[Picture]:
    """Differences to vanilla over all settings, then a picture for each setting and PET."""
    styles = arm_styles(row.arm for row in runs.done)
    pictures = [_over_all(runs, styles)] if len(styles) > 1 else []
    for task, shots in runs.settings:
        for pet in runs.pets:
            if rows := runs.of(task, shots, pet):
                pictures.append(_picture(f"{setting_name(task, shots)}, {pet}", rows, styles))
    return pictures


def _over_all(runs: Runs, styles: Styles) -> Picture:
    kinds = runs.kinds
    columns = panel_kinds(kinds)
    figure = new_figure(0.7 + 2.6 * len(columns), 3.6)
    axes = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
    for axis, kind in zip(axes, columns, strict=True):
        axis.axhline(0, color="black", linewidth=0.9)
        for arm in (arm for arm, its in kinds.items() if its == kind):
            points = over_seeds([d for pair in pairs(runs, arm) for d in by_step(pair)])
            if points:
                steps, summaries = zip(*points, strict=True)
                middle, width = [s.mean for s in summaries], [s.interval for s in summaries]
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
    kinds, metric = arm_kinds(rows), rows[0].metric
    columns = panel_kinds(kinds)
    figure = new_figure(0.7 + 2.6 * len(columns), 4.9)
    axes = figure.subplots(2, len(columns), squeeze=False, sharex=True, sharey="row")
    for (above, below), kind in zip(axes.T, columns, strict=True):
        for arm in (arm for arm, its in kinds.items() if its in (VANILLA, kind)):
            chosen = [row.chosen.curves for row in rows if row.arm == arm]
            _mean(above, chosen, lambda look: look.dev[metric], arm, styles[arm])
            _mean(below, chosen, lambda look: look.dev_loss, arm, styles[arm])
        above.set_title(kind)
        below.set_xlabel("step")
        above.grid(alpha=0.25)
        below.grid(alpha=0.25)
        _legend(above, below)
    axes[0][0].set_ylabel(f"dev {metric}")
    axes[1][0].set_ylabel("dev loss")
    seeds = plural(len({row.seed for row in rows}), "seed")
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
        values.setdefault(look.step, []).append(read(look))
    steps = sorted(values)
    summaries = [summarise(values[step]) for step in steps]
    _draw(axis, steps, [s.mean for s in summaries], [s.deviation for s in summaries], arm, style)


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
