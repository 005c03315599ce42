"""What all cells of a comparison share: the model, the data, the fitted costs."""

from __future__ import annotations

import dataclasses
import itertools
import json
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path

import bridges
from bridges import FitSettings, RunningCost
from bridges.errors import BadInput
from pets.study.cells.arms import ADAPTED, VANILLA, Arm
from pets.study.cells.costs import Recipe, Recipes, made
from pets.study.cells.depth import check_states, check_task
from pets.study.cells.grid import Cell, Grid
from pets.study.cells.model import Model
from pets.tasks import splits
from pets.tasks.base import CLASSES, TaskData
from pets.tasks.shared_texts import warn_of_shared_texts
from pets.tuning.loop import TuningLoop
from pets.tuning.models import HowLoaded
from pets.tuning.preparing import ask, prepared
from pets.tuning.tune import data_sha256

COSTS_FOLDER = "costs"
_SLIGHT = 1e-6  # a weight


class Context:
    """Loaded once in each process; cells read it and leave it as it is.

    Args:
        grid: what is compared.
        folder: of the comparison.
        model: Hugging Face name or local folder of a language model or a sequence classifier.
        data: folder with the original GLUE files, None for the hub; other tasks know where theirs are.
        text: lines that costs are fitted on.
        trust_remote_code: see `pets.tuning.models.load_plm`.
        recipes: how the costs of arms are made.
        how: the model's weights are kept.

    Attributes:
        examples: by task.
        costs: by arm, those that are fitted.
        cost_sha256: their digests.
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
        how: HowLoaded | None = None,
    ) -> None:
        self.grid, self.folder, self.text = grid, folder, text
        self.model = Model(model, how, trust_remote_code=trust_remote_code)
        self.examples = {task.name: task.load(data) for task in grid.tasks}
        self.recipes = recipes(self.model, self.examples, FitSettings(**grid.fit), text)
        self.costs: dict[str, RunningCost] = {}
        self.cost_sha256: dict[str, str] = {}
        self._recipes: dict[str, Recipe] = {}

    def check(self) -> None:
        """Refuse what would fail in some cell, before any cell runs.

        Raises:
            BadInput: for a PET that the model does not take, a regularizer that has no hold on a PET,
                words outside its vocabulary, a task without classes for what needs some, a model that
                cannot be read at its layers, too few examples for the shots, or arms with a cost to fit
                and no text.
        """
        settings = self.grid.settings
        for data in self.examples.values():
            ask(self.model.plm, self.model.encoder, data.task, settings)
            if self.grid.by_depth:
                check_task(data.task)
            for arm in self.grid.arms:
                self._check_arm(arm, data)
            warn_of_shared_texts(data)
            for shots, seed in itertools.product(self.grid.shots, self.grid.seeds):
                if shots:
                    splits.few_shot(data.train, data.task, shots, seed)
                else:
                    splits.hold_out(data.train, data.task, seed)
        to_fit = [arm.text for arm in self.grid.arms if arm.fits]
        if to_fit and not any(line.strip() for line in self.text):
            raise BadInput(
                f"no text to fit {', '.join(to_fit)} on: give --text FILE..., or other --bridges than "
                "the preset's; `--bridges vanilla` is none"
            )
        for cell in self.grid.cells():
            self.grid.tries(cell)
        without_cost = [arm for arm in self.grid.arms if arm.bridge is None]
        for pet, arm in itertools.product(self.grid.pets, without_cost):
            try:
                with self.prepared(self.grid.first(pet, arm)) as loop:
                    if self.grid.by_depth and arm.text == VANILLA:
                        check_states(loop.classifier, loop.rows["train"])
            except BadInput as error:
                raise BadInput(f"{pet}, {arm}: {error}") from error

    def _check_arm(self, arm: Arm, data: TaskData) -> None:
        """Whether an arm can be of use on a task.

        Raises:
            BadInput: if not.
        """
        if arm.bridge is None:
            return
        bridge, task = bridges.parse(arm.bridge), data.task
        if task.kind != CLASSES and (arm.reader == ADAPTED or bridge.contrasts):
            why = "its lens learns from classes" if arm.reader == ADAPTED else "it is about classes"
            raise BadInput(
                f"arm {arm}: {why}, and task {task.name} of kind {task.kind!r} has none: leave out the "
                "arm or the task"
            )
        if self.grid.as_ratios and not bridge.fits:
            raise BadInput(
                f"arm {arm}: its cost has no gradient, so nothing is a ratio of it: leave it out, or "
                "give weights"
            )

    def prepared(
        self, cell: Cell, unfitted: RunningCost | None = None
    ) -> AbstractContextManager[TuningLoop]:
        """The first try of a cell before its first step, with everything on the model.

        Args:
            unfitted: instead of the arm's cost, which is not fitted yet, one that takes as long.
        """
        settings = self.grid.tries(cell)[0]
        if unfitted is not None:  # a random map's gradients may be large
            settings = dataclasses.replace(settings, weight=_SLIGHT, ratio=None)
        return prepared(
            self.model.plm,
            self.model.tokenizer,
            self.examples[cell.task].without_reported,
            settings,
            cost=self.costs.get(cell.arm.text) if unfitted is None else unfitted,
            encoder=self.model.encoder,
        )

    def missing(self) -> dict[str, Recipe]:
        """The recipes of the costs that are not in the folder yet, by arm."""
        return {
            text: recipe
            for text, recipe in self._made_by().items()
            if not (self.folder / COSTS_FOLDER / recipe.folder_name(self.model.sha256)).exists()
        }

    def _made_by(self) -> dict[str, Recipe]:
        """The recipes of the costs that were not made or read yet; end points take a while."""
        for arm in self.grid.arms:
            if arm.bridge is not None and arm.text not in self.costs and arm.text not in self._recipes:
                self._recipes[arm.text] = self.recipes.recipe(arm)
        return self._recipes

    def fit(self, *, progress: bool = True) -> None:
        """Fit the costs of all arms, or read those that are there; an interrupted fit goes on.

        Costs that are fitted alike are fitted together: the model reads the text once for all.

        Raises:
            BadInput: if a cost there does not fit, or was made otherwise than it says.
        """
        arms = {arm.text: arm for arm in self.grid.arms}
        costs = made(self._made_by(), self.folder / COSTS_FOLDER, self.model, progress=progress)
        self.costs |= {text: self.recipes.cost(arms[text], cost) for text, cost in costs.items()}
        self.cost_sha256 |= {text: self.costs[text].digest() for text in costs}
        self._recipes = {}  # what they hold is fitted now

    @cached_property
    def data_sha256(self) -> dict[str, str]:
        """Of every task's texts and classes, train and reported."""
        protocol = self.grid.settings.conventions
        return {
            name: data_sha256(data, json.dumps(data.task.identity), protocol)
            for name, data in self.examples.items()
        }
