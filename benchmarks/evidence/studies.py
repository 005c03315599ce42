"""The studies of a plan, run: each a ``bridge-pets compare`` in a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.evidence.made_tasks import made
from benchmarks.evidence.plan import Plan, Study
from bridges.errors import BadInput
from pets.commands.options import read_lines
from pets.study.cells.context import Context
from pets.study.cells.grid import Grid
from pets.study.compare.presets import PRESETS
from pets.study.compare.run import Tally, compare
from pets.tuning.models import HowLoaded


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

    def text(self) -> tuple[str, ...]:
        """Lines that costs are fitted on."""
        return tuple(read_lines(tuple(str(self.data / name) for name in self.plan.text)))

    def run(self, study: Study) -> Tally:
        """All cells that are not in the study's table yet."""
        return compare(*self._sources(study), jobs=self.jobs, how=HowLoaded(study.dtype))

    def context(self, study: Study) -> Context:
        """Of a study that has run: its model, its tasks, its costs."""
        found = Context(*self._sources(study), how=HowLoaded(study.dtype))
        found.fit(progress=False)
        return found

    def _sources(self, study: Study) -> tuple[Grid, Path, str, None, tuple[str, ...]]:
        return self.grid(study), self.folder(study), self.model(study), None, self.text()
