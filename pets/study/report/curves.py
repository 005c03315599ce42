"""On the selection split: pairs of an arm and vanilla, and learning curves of the selected tries."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pets.inside.images import new_figure
from pets.study.cells.arms import VANILLA
from pets.study.cells.rows import Row
from pets.study.cells.tries import Look
from pets.study.report.document import Entry, Picture, RowGroup, Table, number, setting_name
from pets.study.report.pictures import arm_styles, legend_below, panels
from pets.study.report.runs import Runs, arm_kinds, panel_kinds
from pets.study.statistics.intervals import Summary, summarise

ABOUT = (
    "The selected try of each seed, scored on the selection split while it was tuned. That is the split "
    "on which the try was selected, so the curves flatter every arm alike."
)

_COLUMNS = 4
_MOST_PANELS = 16  # of settings; of more the PETs are averaged
_MOST_POINTS = 40  # of a line
_SHADED = 5  # arms whose areas can be told apart in one panel

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


def pairs(runs: Runs, arm: str, metric: str) -> list[Pair]:
    """All pairs of an arm where this metric is scored; rows whose partner is missing have none."""
    done = [row for row in runs.done if row.metric == metric]
    partners = {_without_arm(row): row for row in done if row.arm == VANILLA}
    rows = [row for row in done if row.arm == arm]
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
    """Differences to vanilla, metric by metric; then the metric itself in small panels."""
    styles = arm_styles(row.arm for row in runs.done)
    differences = [_differences(runs, styles)] if len(styles) > 1 else []
    return [*differences, _small_panels(runs, styles)]


def _differences(runs: Runs, styles: Styles) -> Picture:
    """A row of panels for each metric, a column for each kind of arm."""
    kinds = runs.kinds
    columns, metrics = panel_kinds(kinds), runs.metrics
    figure = new_figure(0.7 + 2.9 * len(columns), 0.4 + 2.3 * len(metrics))
    axes = figure.subplots(len(metrics), len(columns), squeeze=False, sharey="row", sharex=True)
    for line, metric in zip(axes, metrics, strict=True):
        for axis, kind in zip(line, columns, strict=True):
            axis.axhline(0, color="black", linewidth=0.9)
            for arm in (arm for arm, its in kinds.items() if its == kind):
                differences = [d for pair in pairs(runs, arm, metric) for d in by_step(pair)]
                if points := _thinned(over_seeds(differences)):
                    steps, summaries = zip(*points, strict=True)
                    middle, width = [s.mean for s in summaries], [s.interval for s in summaries]
                    _draw(axis, steps, middle, width, arm, styles[arm])
            axis.grid(alpha=0.25)
        line[0].set_ylabel(f"dev {metric} minus {VANILLA}'s")
    for axis, kind in zip(axes[0], columns, strict=True):
        axis.set_title(kind)
    for axis in axes[-1]:
        axis.set_xlabel("step")
    legend_below(figure, *axes.flat)
    caption = (
        f"The dev metric minus {VANILLA}'s at the same step, mean over the tasks of a metric, shots, "
        "PETs and seeds; areas are 95 % intervals over seeds, each of which counts once with its mean. "
        "Where an area lies on the line at zero, the arm is not told apart from the PET alone."
    )
    return Picture(f"Learning curves minus {VANILLA}'s", caption, figure)


def _small_panels(runs: Runs, styles: Styles) -> Picture:
    """A panel for each task, number of shots and PET; where those are many, PETs are averaged."""
    each = [(*setting, pet) for setting in runs.settings for pet in runs.pets if runs.of(*setting, pet)]
    whole = len(each) <= _MOST_PANELS
    shown = each if whole else [(*setting, None) for setting in runs.settings]
    figure, axes = panels(len(shown), _COLUMNS, 2.7, 2.0)
    areas = len(styles) <= _SHADED
    for axis, (task, shots, pet) in zip(axes, shown, strict=True):
        rows = runs.of(task, shots, pet)
        for arm in arm_kinds(rows):
            chosen = [row.chosen.curves for row in rows if row.arm == arm]
            _mean(axis, chosen, rows[0].metric, arm, styles[arm], areas)
        axis.set_title(", ".join(filter(None, (setting_name(task, shots), pet))))
        axis.set_ylabel(rows[0].metric)
    for axis in axes[-_COLUMNS:]:
        axis.set_xlabel("step")
    legend_below(figure, *axes)
    over = "seeds" if whole else "PETs and seeds"
    area = "; areas are one standard deviation up and down" if areas else ""
    return Picture("Learning curves by task", f"Dev metric, mean over {over}{area}.", figure)


def losses(runs: Runs) -> Table:
    """The dev loss of the selected checkpoints, which no picture shows."""
    arms = list(runs.kinds)
    lines = []
    for task, shots in runs.settings:
        rows = [row for row in runs.of(task, shots) if row.chosen.dev_loss is not None]
        own = {arm: [float(r.chosen.dev_loss or 0) for r in rows if r.arm == arm] for arm in arms}
        means = [number(summarise(values).mean) if values else "-" for values in own.values()]
        lines.append([Entry(setting_name(task, shots)), *map(Entry, means)])
    caption = "Dev loss of the selected checkpoints, mean over PETs and seeds."
    return Table(caption, ("task", *arms), [RowGroup("", lines)])


def _mean(
    axis: Any,
    curves: Sequence[Sequence[Look]],
    metric: str,
    arm: str,
    style: dict[str, Any],
    area: bool,
) -> None:
    values: dict[int, list[float]] = {}
    for look in (look for curve in curves for look in curve):
        values.setdefault(look.step, []).append(look.dev[metric])
    points = _thinned([(step, summarise(values[step])) for step in sorted(values)])
    width = [s.deviation if area else math.nan for _, s in points]
    _draw(axis, [step for step, _ in points], [s.mean for _, s in points], width, arm, style)


def _thinned(points: Sequence[tuple[Any, Summary]]) -> Sequence[tuple[Any, Summary]]:
    """Every so many of them, and the last."""
    every = -(-len(points) // _MOST_POINTS)
    return points if every < 2 else [*points[:-1:every], points[-1]]


def _draw(
    axis: Any,
    steps: Sequence[float],
    middle: Sequence[float],
    width: Sequence[float],
    arm: str,
    style: dict[str, Any],
) -> None:
    """A line, and its area where there is a width."""
    every = max(1, len(steps) // 6)
    axis.plot(steps, middle, label=arm, linewidth=1.5, markersize=3.5, markevery=every, **style)
    if not all(map(math.isnan, width)):
        low = [m - w for m, w in zip(middle, width, strict=True)]
        high = [m + w for m, w in zip(middle, width, strict=True)]
        axis.fill_between(steps, low, high, color=style["color"], alpha=0.1, linewidth=0)
