"""The plan of a comparison: how long its cells take, and what of it fits into a budget."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from bridges.errors import listed
from pets.study.cells.arms import VANILLA
from pets.study.cells.depth import MOST
from pets.study.cells.grid import Cell, Grid
from pets.study.compare.budget import fitting, middle, said

_LISTED = 6  # arms with a time of their own


@dataclass(frozen=True)
class TaskPace:
    """How fast one task goes, and how much there is of it.

    Attributes:
        step: seconds of vanilla's step, with the first PET.
        example: seconds to answer one example.
        dev: how many examples select, by the shots.
        reported: how many are scored.
    """

    step: float
    example: float
    dev: Mapping[int, int]
    reported: int


@dataclass(frozen=True)
class Pace:
    """How fast a comparison goes, as it was measured here.

    Attributes:
        setup: seconds of a try before its first step.
        steps: seconds of a step on the first task, by PET and arm.
        tasks: by name.
        fits: seconds of all fits that are still to be made.
        after: seconds of what follows the cells, the step times that the report shows.
    """

    setup: float
    steps: Mapping[tuple[str, str], float]
    tasks: Mapping[str, TaskPace]
    fits: float = 0.0
    after: float = 0.0

    def cell(self, grid: Grid, cell: Cell) -> float:
        """Seconds of a cell: its tries, each with its steps and looks, and the score of one.

        By depth there is another reading of what is scored, and of the labelled examples.
        """
        of, settings = self.tasks[cell.task], grid.settings
        slower = of.step / self.tasks[grid.tasks[0].name].step
        looks = 1 + math.ceil(settings.max_steps / settings.eval_every)
        tuned = settings.max_steps * self.steps[cell.pet, cell.arm.text] * slower
        looked = looks * of.dev[cell.shots] * of.example
        scored = of.reported
        if grid.by_depth:
            scored += of.reported + min(2 * of.dev[cell.shots], MOST)
        return len(grid.weights) * (self.setup + tuned + looked) + scored * of.example

    def cells(self, grid: Grid, cells: Iterable[Cell], lanes: int) -> float:
        """Seconds of cells of which so many run at once, each as fast as one alone."""
        each = [self.cell(grid, cell) for cell in cells]
        return max(sum(each) / lanes, max(each, default=0.0))

    def whole(self, grid: Grid, left: Iterable[Cell], lanes: int) -> float:
        """Seconds of what is left of a grid, from the first fit on."""
        return self.fits + self.cells(grid, left, lanes) + self.after


def within(
    grid: Grid, pace: Pace, lanes: int, budget: float, left: Callable[[Grid], Iterable[Cell]]
) -> Grid:
    """The grid with as many of its seeds and weights as fit; see `pets.study.compare.budget.fitting`.

    Args:
        grid: as it was given.
        pace: as measured.
        lanes: cells that run at once.
        budget: in seconds.
        left: of a part of the grid, the cells that are not done yet; what is done takes no time.

    Raises:
        BadInput: if too few fit.
    """

    def cut(seeds: int, weights: int) -> Grid:
        kept = middle(grid.weights, weights)
        return dataclasses.replace(grid, seeds=grid.seeds[:seeds], weights=kept)

    def seconds(seeds: int, weights: int) -> float:
        part = cut(seeds, weights)
        return pace.whole(part, left(part), lanes)

    return cut(*fitting(seconds, len(grid.seeds), len(grid.weights), budget))


def described(grid: Grid, pace: Pace, lanes: int, left: Iterable[Cell], *, ray: bool = False) -> str:
    """A plan in a few lines.

    Args:
        grid: what is run.
        pace: as measured.
        lanes: cells that run at once.
        left: cells that are not done yet.
        ray: whether they run on Ray, whose room is not known here.
    """
    left, every = list(left), sum(1 for _ in grid.cells())
    sizes = [
        (len(grid.tasks), "tasks"),
        (len(grid.shots), "numbers of shots"),
        (len(grid.pets), "PETs"),
        (len(grid.arms), "arms"),
        (len(grid.seeds), "seeds"),
    ]
    axes = " x ".join(f"{size} {name}" for size, name in sizes if size > 1)
    what = "ratio" if grid.as_ratios else "weight"
    tries = f"{len(grid.weights)} {'try' if len(grid.weights) == 1 else 'tries'} each"
    first = f"plan: {every} {'cell' if every == 1 else 'cells'}{f' = {axes}' if axes else ''}, {tries} "
    first += f"({what} {listed([f'{weight:g}' for weight in grid.weights])})"
    done = every - len(left)
    lines = [first + (f"; {done} of them done before" if done else "")]
    task = grid.tasks[0].name
    for pet in grid.pets:
        times = {
            arm.text: pace.cell(grid, Cell(task, grid.shots[0], pet, arm, grid.seeds[0]))
            for arm in grid.arms
        }
        lines.append(f"  a cell of {pet}: {_times(times)}" + (f" ({task})" if grid.tasks[1:] else ""))
    cells = pace.cells(grid, left, lanes)
    at_once = "one at a time, which Ray's nodes share" if ray else f"{lanes} at once"
    parts = [f"fits {said(pace.fits)}"] if pace.fits else []
    parts.append(f"cells {said(cells)}" + (f", {at_once}" if ray or lanes > 1 else ""))
    parts.append(f"step times {said(pace.after)}")
    whole = said(pace.fits + cells + pace.after)
    lines.append(f"  in all about {whole}, by steps and answers measured here: {'; '.join(parts)}")
    return "\n".join(lines)


def _times(times: Mapping[str, float]) -> str:
    if len(times) <= _LISTED:
        return ", ".join(f"{arm} {said(seconds)}" for arm, seconds in times.items())
    slowest = max(times, key=lambda arm: times[arm])
    return f"{VANILLA} {said(times[VANILLA])}, up to {said(times[slowest])} ({slowest})"
