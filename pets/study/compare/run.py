"""A comparison from beginning to end: checks, fits, cells, table; interrupted, it goes on."""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridges.errors import BadInput, CannotWrite, writing
from bridges.progress import progress_bar
from bridges.storage.files import difference
from bridges.storage.ownership import check_ours, check_replaceable, claimed
from bridges.storage.workplace import clean
from pets.study.cells.cell import CELLS_FOLDER, cell_folder, describe, run_cell, tidy
from pets.study.cells.context import COSTS_FOLDER, Context
from pets.study.cells.costs import Recipes
from pets.study.cells.grid import Cell, Grid
from pets.study.cells.rows import Row
from pets.study.compare.asked import ASKED_FILE, read_asked, write_asked
from pets.study.compare.look import ANALYSIS_FILE, read_analysis, write_analysis
from pets.study.compare.planning import PLAN_FILE, planned, read_plan
from pets.study.compare.step_times import TIMES_FILE, read_times, write_step_times
from pets.study.compare.table import ROW_FILE, TABLE_FILE, read_all, write_row, write_table
from pets.study.execution import ray as cluster
from pets.study.execution.attempt import Failure
from pets.study.execution.outcomes import outcomes
from pets.tuning.models import HowLoaded
from pets.tuning.run_folder import PET_FOLDER

logger = logging.getLogger(__name__)

_FILES = (TABLE_FILE, TIMES_FILE, ANALYSIS_FILE, PLAN_FILE, ASKED_FILE)
_OURS = (*_FILES, COSTS_FOLDER, CELLS_FOLDER)


@dataclass(frozen=True)
class Tally:
    """What a comparison came to.

    Attributes:
        done: cells of this grid that are in the table with a score.
        failed: cells of this grid that are in the table with an error.
        reused: how many of those done were there before.
    """

    done: int
    failed: int
    reused: int


def load_context(*sources: Any) -> Context:
    """The context in a process that runs cells: with the costs that are fitted."""
    context = Context(*sources)
    context.fit(progress=False)
    return context


def compare(
    grid: Grid,
    folder: Path,
    model: str,
    data: Path | None,
    text: tuple[str, ...] = (),
    *,
    jobs: int = 1,
    ray: str | None = None,
    progress: bool = True,
    recipes: type[Recipes] = Recipes,
    trust_remote_code: bool = False,
    how: HowLoaded | None = None,
    budget: float | None = None,
) -> Tally:
    """Run the cells of a grid that are not in the folder's table yet, and write the table.

    Cells of other grids, other versions or other settings stay in the table as they are. A cell that
    failed is tried again.

    Args:
        grid: what is compared.
        folder: new, or one of earlier comparisons.
        model: Hugging Face name or local folder of a language model or a sequence classifier.
        data: folder with the original GLUE tsv files; None for the hub. Tasks of a user's own know where
            their data are.
        text: lines to fit costs on.
        jobs: processes on this machine.
        ray: address of a Ray cluster, or "local"; then ``jobs`` has no part.
        progress: show a plan, which a few measured steps are made for, and progress bars.
        recipes: of costs, where arms have some of another making.
        how, trust_remote_code: see `pets.tuning.models.load_plm`.
        budget: seconds; of seeds and weights as many are taken as fit, by a plan that is kept in the
            folder, see `pets.study.compare.plan`. What is done already takes no time.

    Raises:
        BadInput: for anything wrong that can be seen before a cell runs, such as a budget that is too
            little; and when results can no longer be written. Cells that were finished are intact.
    """
    if ray is not None:
        cluster.check(ray)  # before the minutes that fits may take
    with _alone(folder):
        sources = (folder, model, data, text, trust_remote_code, recipes, how)
        context = Context(grid, *sources)
        context.check()
        rows = read_all(folder)
        read_times(folder), read_analysis(folder), read_asked(folder)  # refused now, not after the cells
        grid = planned(
            context,
            lambda row: _is_kept(folder, rows.get(row.cell)),
            read_plan(folder),
            budget=budget,
            jobs=jobs,
            ray=ray is not None,
            progress=progress,
        )
        table = _Table(folder, rows)
        table.write()
        context.fit(progress=progress)
        described = {cell: describe(context, cell) for cell in grid.cells()}
        write_asked(folder, [row.key for row in described.values()])
        table.last = {row.cell for row in described.values()}
        for row in described.values():
            if row.cell in rows and (cell_folder(folder, row) / ROW_FILE).exists():
                tidy(folder, rows[row.cell])  # a kill can come between the row and this
        todo = [c for c, row in described.items() if not _is_kept(folder, rows.get(row.cell))]
        reused = len(described) - len(todo)
        _tell_of_others(folder, rows.values(), described.values())
        logger.info("%d cells, %d of them done before", len(described), reused)
        make = functools.partial(load_context, grid, *sources)
        alone = jobs == 1 and ray is None
        results = outcomes(
            run_cell, todo, make_context=(lambda: context) if alone else make, jobs=jobs, ray=ray
        )
        bar = progress_bar(
            desc="compare", unit="cell", total=len(described), initial=reused, shown=progress
        )
        try:
            with closing(results), bar:
                for cell, result in results:
                    table.add(_row(described[cell], cell, result))
                    bar.set_postfix_str(str(cell))
                    bar.update()
        finally:
            table.write()
        these = [rows[row.cell] for row in described.values()]
        write_step_times(context, folder)
        write_analysis(context, folder, these, progress=progress)
    done = sum(row.is_done for row in these)
    return Tally(done, len(these) - done, reused)


class _Table:
    """The rows of finished cells and the table made of them, which costs little time in all."""

    def __init__(self, folder: Path, rows: dict[str, Row]) -> None:
        self.folder, self.rows = folder, rows
        self.last: set[str] = set()
        self._next = 0.0

    def add(self, row: Row) -> None:
        before = self.rows.get(row.cell)
        if not row.is_done and before is not None and before.is_done:
            return  # a score that is in the table is not lost for that
        with writing(self.folder):
            write_row(self.folder, row)
            self.rows[row.cell] = row
            if row.is_done:
                tidy(self.folder, row)
        if time.monotonic() >= self._next:
            self.write()

    def write(self) -> None:
        started = time.monotonic()
        write_table(self.folder, self.rows.values(), self.last)
        now = time.monotonic()
        self._next = now + 20 * (now - started)  # long tables are not written after every cell


def _row(described: Row, cell: Cell, result: Row | Failure) -> Row:
    if not isinstance(result, Failure):
        if result.cell != described.cell:
            raise BadInput(
                f"{cell} ran with other code, versions or data than here ({result.code} and "
                f"{described.code}): install the same everywhere"
            )
        return result
    if result.kind == CannotWrite.__name__:
        raise BadInput(result.message)
    logger.warning("%s failed: %s", cell, result)
    return dataclasses.replace(described, status="failed", error=str(result))


def _tell_of_others(folder: Path, rows: Iterable[Row], asked: Collection[Row]) -> None:
    """Say of rows that are in the folder and are not compared with these: no report has both."""
    by_pet = {row.pet: {**row.origin, "settings": row.settings} for row in asked}
    here = next(iter(by_pet.values()))
    cells = {row.key: row.cell for row in asked}
    others: Counter[str] = Counter()
    for row in rows:
        told = difference({**row.origin, "settings": row.settings}, by_pet.get(row.pet, here))
        if not told and cells.get(row.key, row.cell) != row.cell:
            told = "other strengths, text or data"
        others[told] += 1
    for told, count in others.items():
        if told:
            logger.info(
                "%d %s in %s with %s: the report will leave %s out; give another --out to keep both",
                count,
                "row" if count == 1 else "rows",
                folder,
                told,
                "it" if count == 1 else "them",
            )


def _is_kept(folder: Path, row: Row | None) -> bool:
    """Whether a cell is done; a folder of it without its row is there to be worked in."""
    if row is None or not row.is_done:
        return False
    here = cell_folder(folder, row)
    return not here.exists() or (here / ROW_FILE).exists()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The folder for this process only: two at once would take each other's cells."""
    if not (folder / TABLE_FILE).is_file():
        check_ours(folder, _OURS, "no comparison")
    for name in _FILES:
        check_replaceable(folder / name, True, "file")
    with claimed(folder, "another comparison", _OURS, alone=False):
        cells = folder / CELLS_FOLDER
        for place in (folder / COSTS_FOLDER, *(cells.iterdir() if cells.is_dir() else ())):
            clean(place, older=(ROW_FILE, PET_FOLDER))
        yield
