"""The studies of a plan, run: each a ``bridge-pets compare`` in a folder of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.evidence.made_tasks import made
from benchmarks.evidence.plan import Plan, Study
from benchmarks.evidence.readings import SHIFT, other_domain, read_cell, unread
from bridges.errors import BadInput
from pets.commands.options import read_lines
from pets.study.cells.context import Context
from pets.study.cells.grid import Grid
from pets.study.compare.presets import PRESETS
from pets.study.compare.run import Tally, compare
from pets.study.execution.attempt import Failure
from pets.study.execution.outcomes import outcomes
from pets.tuning.models import HowLoaded

_Sources = tuple[Grid, Path, str, None, tuple[str, ...]]
"""What a comparison is of: its grid, folder, model, no other tokenizer, lines to fit on."""


@dataclass(frozen=True)
class Runner:
    """Where the studies of a plan find what they need, and where they go.

    Attributes:
        plan: what is run.
        data: the shared data.
        models: folders by the plan's names.
        out: a folder for all studies.
        jobs: processes.
    """

    plan: Plan
    data: Path
    models: Mapping[str, Path]
    out: Path
    jobs: int = 1

    def folder(self, study: Study) -> Path:
        """Of its table, its costs and its PETs."""
        return self.out / study.name

    def model(self, study: Study) -> str:
        """The folder of its model.

        Raises:
            BadInput: if there is no model.
        """
        folder = self.models[study.model]
        if not (folder / "config.json").is_file():
            raise BadInput(
                f"study {study.name}: {folder} holds no model: give the folder of {study.model}, "
                f"--model {study.model}=FOLDER, or other --studies"
            )
        return str(folder)

    def grid(self, study: Study) -> Grid:
        """Its grid; the files of its tasks are written where they are not."""
        tasks = [made(name, self.data, self.out / "tasks") for name in study.options["tasks"]]
        return Grid.of_options({**PRESETS["small"], **study.options, "tasks": tasks})

    def text(self, study: Study) -> tuple[str, ...]:
        """Lines that its costs are fitted on."""
        names = study.text or self.plan.text
        return tuple(read_lines(tuple(str(self.data / name) for name in names)))

    def run(self, study: Study) -> Tally:
        """All cells that are not in the study's table yet."""
        return compare(*self._sources(study), jobs=self.jobs, how=HowLoaded(study.dtype))

    def context(self, study: Study) -> Context:
        """Of a study that has run: its model, its tasks, its costs."""
        return _fitted(self._sources(study), study.dtype)

    def read(self, study: Study, context: Context, tell: Callable[[str], None] = print) -> int:
        """Read what the study's tuned PETs say, and keep it; how many could not be read.

        Args:
            study: one that has run.
            context: its own.
            tell: is given a line for each that is read, or cannot be.
        """
        todo = [cell for cell in context.grid.cells() if unread(context, cell, study.readings)]
        shifted_to = other_domain(self.data) if SHIFT in study.readings else ()
        reading = partial(read_cell, kinds=study.readings, shifted_to=shifted_to)
        make = partial(_fitted, self._sources(study), study.dtype) if self.jobs > 1 else lambda: context
        failed = 0
        with contextlib.closing(outcomes(reading, todo, make_context=make, jobs=self.jobs)) as results:
            for number, (cell, result) in enumerate(results, 1):
                said = f": {result}" if isinstance(result, Failure) else ""
                tell(f"{'not ' if said else ''}read, {number} of {len(todo)}: {cell}{said}")
                failed += bool(said)
        return failed

    def _sources(self, study: Study) -> _Sources:
        return self.grid(study), self.folder(study), self.model(study), None, self.text(study)


def _fitted(sources: _Sources, dtype: str) -> Context:
    """With its costs, which are read where they are fitted."""
    found = Context(*sources, how=HowLoaded(dtype))
    found.fit(progress=False)
    return found
