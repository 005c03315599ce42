"""The costs of a comparison: each made once, by its recipe, and kept in a folder."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bridges
from bridges import FitSettings, LensSettings, RunningCost, fit_together
from bridges.fitting.state import discard_state, partial_folder
from bridges.model.identity import own_code
from bridges.storage.files import versions
from bridges.storage.source import FIT, source_digest
from pets.study.cells.arms import NORMALISED, Arm
from pets.study.cells.model import Model
from pets.tasks.base import TaskData

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How a cost is made.

    Attributes:
        name: that its folder begins with.
        cost: as it is before it is fitted.
        settings: of the fit; without one, of the random map.
        text: what it is fitted on; None if there is nothing to fit.
    """

    name: str
    cost: RunningCost
    settings: FitSettings | LensSettings
    text: tuple[str, ...] | None

    def folder_name(self, model_sha256: str) -> str:
        """The name, and a hash of all that the cost is made of.

        That is not its weights: the last digits of the end points depend on the number of threads. The
        code and the versions count: what an older version fitted is not what this one would.
        """
        fit = None if self.text is None else [vars(self.settings), _text_sha256(self.text)]
        config = self.cost.config()
        made_of = [model_sha256, *(config[part] for part in ("bridge", "map", "widths", "options")), fit]
        made_of += [self.settings.seed, own_code(self.cost), source_digest(*FIT), versions()]
        digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]
        name = "".join(c if c.isalnum() or c in "-.@" else "-" for c in self.name)
        return f"{name}-{digest}"


class Recipes:
    """How the costs of arms are made; a subclass has arms with costs of another making.

    Args:
        model: what they are made for.
        examples: of the comparison's tasks.
        settings: of every fit: the same budget for each.
        text: what they are fitted on.
    """

    def __init__(
        self,
        model: Model,
        examples: Mapping[str, TaskData],
        settings: FitSettings,
        text: tuple[str, ...],
    ) -> None:
        self.model, self.examples, self.settings, self.text = model, examples, settings, text

    def recipe(self, arm: Arm) -> Recipe:
        """How the cost of an arm is made."""
        cost = RunningCost.for_model(
            self.model.plm,
            bridges.parse(arm.bridge or ""),
            map=arm.map,
            seed=self.settings.seed,
            shuffle_ends=arm.control == "shuffled-ends",
            fit=arm.control != "random-map",
            normalise=True if arm.reader == NORMALISED else None,
        )
        settings = self.settings if arm.map == "mlp" else self.settings.of_lens()
        return Recipe(arm.text, cost, settings, self.text if arm.fits else None)

    def cost(self, arm: Arm, made: RunningCost) -> RunningCost:
        """What an arm pays, given the cost that was made by its recipe: here that cost itself."""
        return made


def made(
    recipes: Mapping[str, Recipe], folder: Path, model: Model, *, progress: bool
) -> dict[str, RunningCost]:
    """The costs from the folder, put there first if need be; an interrupted fit goes on.

    Those with the same settings and text are fitted together.

    Args:
        recipes: by any key; equal ones are made once, and read once for each key.

    Raises:
        BadInput: if a cost there is broken or another model's.
    """
    folders = {key: folder / recipe.folder_name(model.sha256) for key, recipe in recipes.items()}
    missing = {folders[key]: recipe for key, recipe in recipes.items() if not folders[key].exists()}
    groups: dict[Any, dict[Path, Recipe]] = {}
    for where, recipe in missing.items():
        groups.setdefault((recipe.settings, recipe.text), {})[where] = recipe
    for (settings, text), group in groups.items():
        partial = list(map(partial_folder, group))
        if text is not None:
            logger.info("fitting the cost of %s", ", ".join(recipe.name for recipe in group.values()))
            costs = [recipe.cost for recipe in group.values()]
            options = {**vars(settings), "folders": partial, "progress": progress}
            fit_together(costs, model.plm, model.tokenizer, text, **options)
        for where, recipe in group.items():
            recipe.cost.save_pretrained(where)
    for where in folders.values():
        discard_state(partial_folder(where))  # of an earlier process too, killed right here
    return {key: _read(where, model) for key, where in folders.items()}


def _read(folder: Path, model: Model) -> RunningCost:
    cost = RunningCost.from_pretrained(folder)
    cost.check_model(model.plm)
    return cost.to(model.plm.device)


def _text_sha256(lines: tuple[str, ...]) -> str:
    """Of lines that costs are fitted on."""
    return hashlib.sha256("\0".join(lines).encode()).hexdigest()
