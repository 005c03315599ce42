"""What all cells of a comparison share: the model, the data, the fitted costs."""

from __future__ import annotations

import itertools
import json
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path

from bridges import FitSettings, RunningCost
from bridges.errors import BadInput
from pets import tasks
from pets.study.cells.costs import Recipes, made
from pets.study.cells.grid import Cell, Grid
from pets.study.cells.model import Model
from pets.tasks import splits
from pets.tasks.shared_texts import warn_of_shared_texts
from pets.tuning.loop import TuningLoop
from pets.tuning.tune import ask, data_sha256, prepared

COSTS_FOLDER = "costs"


class Context:
    """Loaded once in each process; cells read it and leave it as it is.

    Args:
        grid: what is compared.
        folder: of the comparison.
        model: Hugging Face name or local folder of a masked LM.
        data: folder with the original GLUE files, None for the hub.
        text: lines that costs are fitted on.
        trust_remote_code: see `pets.tuning.models.load_plm`.
        recipes: how the costs of arms are made.

    Attributes:
        examples: by task.
        costs: by arm, those that are fitted.
    """

    def __init__(
        self,
        grid: Grid,
        folder: Path,
        model: str,
        data: Path | None,
        text: tuple[str, ...] = (),
        trust_remote_code: bool = False,
        recipes: type[Recipes] = Recipes,
    ) -> None:
        self.grid, self.folder, self.text = grid, folder, text
        self.model = Model(model, trust_remote_code=trust_remote_code)
        self.examples = {name: tasks.get(name).load(data) for name in grid.tasks}
        self.recipes = recipes(self.model, self.examples, FitSettings(**grid.fit), text)
        self.costs: dict[str, RunningCost] = {}

    def check(self) -> None:
        """Refuse what would fail in some cell, before any cell runs.

        Raises:
            BadInput: for a PET that the model does not take, a regularizer that has no hold on a PET,
                words outside its vocabulary, too few examples for the shots, or arms with a cost to fit
                and no text.
        """
        settings = self.grid.settings
        for data in self.examples.values():
            ask(self.model.plm, self.model.encoder, data.task, settings)
            warn_of_shared_texts(data)
            for shots, seed in itertools.product(self.grid.shots, self.grid.seeds):
                if shots:
                    splits.few_shot(data.train, data.task, shots, seed)
                else:
                    splits.hold_out(data.train, data.task, seed)
        to_fit = [arm.text for arm in self.grid.arms if arm.fits]
        if to_fit and not any(line.strip() for line in self.text):
            raise BadInput(f"no text to fit {', '.join(to_fit)} on: give --text FILE...")
        for cell in self.grid.cells():
            self.grid.tries(cell)
        without_cost = [arm for arm in self.grid.arms if arm.bridge is None]
        for pet, arm in itertools.product(self.grid.pets, without_cost):
            try:
                with self.prepared(self.grid.first(pet, arm)):
                    pass
            except BadInput as error:
                raise BadInput(f"{pet}, {arm}: {error}") from error

    def prepared(self, cell: Cell) -> AbstractContextManager[TuningLoop]:
        """The first try of a cell before its first step, with everything on the model."""
        return prepared(
            self.model.plm,
            self.model.tokenizer,
            self.examples[cell.task].without_reported,
            self.grid.tries(cell)[0],
            cost=self.costs.get(cell.arm.text),
            encoder=self.model.encoder,
        )

    def fit(self, *, progress: bool = True) -> None:
        """Fit the costs of all arms, or read those that are there; an interrupted fit goes on.

        Costs that are fitted alike are fitted together: the model reads the text once for all.

        Raises:
            BadInput: if a cost there does not fit, or was made otherwise than it says.
        """
        arms = {a.text: a for a in self.grid.arms if a.bridge is not None and a.text not in self.costs}
        recipes = {text: self.recipes.recipe(arm) for text, arm in arms.items()}
        costs = made(recipes, self.folder / COSTS_FOLDER, self.model, progress=progress)
        self.costs |= {text: self.recipes.cost(arms[text], cost) for text, cost in costs.items()}

    @cached_property
    def data_sha256(self) -> dict[str, str]:
        """Of every task's texts and classes, train and reported."""
        protocol = self.grid.settings.conventions
        return {
            name: data_sha256(data, json.dumps(data.task.identity), protocol)
            for name, data in self.examples.items()
        }

    @cached_property
    def cost_sha256(self) -> dict[str, str]:
        """Of every arm's cost, once all are fitted."""
        return {arm: cost.digest() for arm, cost in self.costs.items()}
