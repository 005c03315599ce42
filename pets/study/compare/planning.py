"""Before a comparison starts: it is measured and told what to expect, and fitted into a budget."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bridges.errors import BadInput, listed
from bridges.storage.files import difference, write_text
from bridges.storage.shapes import FINITE, LIST, OBJECT, Shape, misfit
from pets.study.cells.cell import describe
from pets.study.cells.context import Context
from pets.study.cells.grid import Cell, Grid
from pets.study.cells.rows import ANEW, Row
from pets.study.compare.budget import said
from pets.study.compare.pace import measured
from pets.study.compare.plan import described, within
from pets.study.compare.table import read_json

PLAN_FILE = "plan.json"
_SHAPE: Shape = {"asked": OBJECT, "seeds": LIST, "weights": LIST, "seconds": FINITE}


def planned(
    context: Context,
    is_done: Callable[[Row], bool],
    record: Mapping[str, Any] | None,
    *,
    budget: float | None,
    jobs: int,
    ray: bool,
    progress: bool,
) -> Grid:
    """The grid that is run, which the context has from now on.

    With a budget it is what fits, and what was decided once is kept: the same command goes on with the
    same grid. Without one it is the grid as it is, measured only to be told of.

    Args:
        context: checked; its costs need not be fitted.
        is_done: whether the cell of a row, as `describe` has it, needs no run.
        record: what `read_plan` found.
        budget: seconds, or None.
        jobs: processes on this machine.
        ray: whether cells run on Ray, with as many at once as it has room for.
        progress: whether to tell of it on stderr.

    Raises:
        BadInput: for a budget that is too little, or a record that cannot be of this command.
    """
    given = context.grid
    if budget is None and not progress:
        return given
    lanes = 1 if ray or context.model.plm.device.type == "cuda" else jobs  # jobs share one GPU
    tell = _tell if progress else _be_silent
    file, pace, asking = context.folder / PLAN_FILE, None, {}
    if budget is not None:
        asking = _asked(context, budget, jobs, ray=ray)
        changed = "" if record is None else difference(record["asked"], asking)
        if record is not None and not changed:
            context.grid = _decided(record, given)
            tell(f"plan: as {file} has it, {_kept(context.grid, given)}")
            return context.grid
        if changed:
            tell(f"{file} is of another command ({changed}): a new plan")
    if not context.missing():
        context.fit(progress=False)  # reads them
    undone = _Undone(context, is_done)
    if budget is not None:
        pace = measured(context, jobs)
        context.grid = within(given, pace, lanes, budget, undone.cells)
    left = undone.cells(context.grid)
    if progress and left:
        pace = pace or measured(context, jobs)
        tell(described(context.grid, pace, lanes, left, ray=ray))
    if budget is not None and pace is not None:
        tell(f"  within {said(budget)}: {_kept(context.grid, given)}{_dropped(context.grid, given)}")
        _write(file, asking, context.grid, pace.whole(context.grid, left, lanes))
    return context.grid


def read_plan(folder: Path) -> dict[str, Any] | None:
    """What `planned` decided in a comparison's folder; None if it did not.

    Raises:
        BadInput: if the file cannot be read, is broken, or holds something else.
    """
    path = folder / PLAN_FILE
    if not path.exists():
        return None
    record = read_json(path)
    if wrong := misfit(record, _SHAPE):
        raise BadInput(f"{path} holds no plan: {ANEW} ({wrong})")
    return dict(record)


def _asked(context: Context, budget: float, jobs: int, *, ray: bool) -> dict[str, Any]:
    """What a budget is divided for: another command has another plan."""
    grid = context.grid
    told = {
        "data": context.data_sha256,
        "shots": grid.shots,
        "pets": grid.pets,
        "arms": [arm.text for arm in grid.arms],
        "seeds": grid.seeds,
        "weights": grid.weights,
        "as_ratios": grid.as_ratios,
        "settings": {**grid.settings.identity, "learning_rate": grid.settings.learning_rate},
        "fit": grid.fit,
        "model": context.model.sha256,
        "budget": budget,
        "jobs": jobs,
        "ray": ray,
        **({"by_depth": True} if grid.by_depth else {}),
    }
    return dict(json.loads(json.dumps(told)))


def _decided(record: Mapping[str, Any], given: Grid) -> Grid:
    kept: dict[str, Any] = {name: tuple(record[name]) for name in ("seeds", "weights")}
    try:
        for name, values in kept.items():
            if not set(values) <= set(getattr(given, name)):
                raise BadInput(f"{name} {listed(values)} are not of those given")
        return dataclasses.replace(given, **kept)
    except (BadInput, TypeError) as error:  # edited by hand
        raise BadInput(f"{PLAN_FILE} holds no plan of this command ({error}): {ANEW}") from error


def _write(file: Path, asking: Mapping[str, Any], chosen: Grid, seconds: float) -> None:
    record = {"asked": asking, "seeds": chosen.seeds, "weights": chosen.weights, "seconds": seconds}
    write_text(file, json.dumps(record, indent=1) + "\n")


class _Undone:
    """What is left of parts of a grid: a row's hash takes a while, so each is asked once.

    Args:
        context: with the whole grid.
        is_done: as `planned`.
    """

    def __init__(self, context: Context, is_done: Callable[[Row], bool]) -> None:
        self._context, self._whole, self._is_done = context, context.grid, is_done
        self._done: dict[tuple[float, ...], set[Cell]] = {}  # by the weights

    def cells(self, part: Grid) -> list[Cell]:
        """The cells of a part of the grid that are not done."""
        if part.weights not in self._done:
            of_all = dataclasses.replace(part, seeds=self._whole.seeds)
            before, self._context.grid = self._context.grid, of_all
            self._done[part.weights] = {cell for cell in of_all.cells() if self._is_known(cell)}
            self._context.grid = before
        return [cell for cell in part.cells() if cell not in self._done[part.weights]]

    def _is_known(self, cell: Cell) -> bool:
        """Whether a cell is done; of one whose cost is still to be fitted that is not known."""
        if cell.arm.bridge is not None and cell.arm.text not in self._context.costs:
            return False
        return self._is_done(describe(self._context, cell))


def _kept(grid: Grid, given: Grid) -> str:
    what = "ratios" if grid.as_ratios else "weights"
    return (
        f"{len(grid.seeds)} of {len(given.seeds)} seeds ({listed(grid.seeds)}), {len(grid.weights)} of "
        f"{len(given.weights)} {what} ({listed([f'{weight:g}' for weight in grid.weights])})"
    )


def _dropped(grid: Grid, given: Grid) -> str:
    """What does not fit, where there is any."""
    seeds = [seed for seed in given.seeds if seed not in grid.seeds]
    return f"; a longer --budget takes {listed(seeds)} too" if seeds else ""


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _be_silent(text: str) -> None:
    pass
