"""What all cells of a comparison share: the model, the tokenised data, the fitted costs."""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import bridges
from bridges import FitSettings, RunningCost
from bridges.errors import BadInput
from bridges.model.identity import model_identity
from pets import tasks
from pets.study.compare.arms import Arm
from pets.study.compare.costs import Recipe, made
from pets.study.compare.grid import Cell, Grid
from pets.tasks import prompts, splits
from pets.tasks.shared_texts import warn_of_shared_texts
from pets.tasks.verbalizer import Verbalizer
from pets.tuning.loop import TuningLoop
from pets.tuning.models import load_plm
from pets.tuning.tune import prepared

COSTS_FOLDER = "costs"


@dataclass
class Context:
    """Loaded once in each process; cells read it and leave it as it is.

    Attributes:
        grid: what is compared.
        folder: of the comparison.
        model: Hugging Face name or local folder of a masked LM.
        data: folder with the original GLUE files, None for the hub.
        text: lines that costs are fitted on.
        trust_remote_code: see `pets.tuning.models.load_plm`.
    """

    grid: Grid
    folder: Path
    model: str
    data: Path | None
    text: tuple[str, ...] = ()
    trust_remote_code: bool = False
    costs: dict[str, RunningCost] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plm, self.tokenizer = load_plm(self.model, trust_remote_code=self.trust_remote_code)
        self.encoder = prompts.Encoder(self.tokenizer)
        self.examples = {name: tasks.get(name).load(self.data) for name in self.grid.tasks}

    def __getstate__(self) -> dict[str, Any]:
        """For a trip to another machine: with the model as files, where its path means nothing.

        A pickled model does not do: transformers keeps in the process that made it what states it can
        return.
        """
        _ = self.model_identity  # travels along: files may say the same in other words
        state = dict(self.__dict__)
        plm = state.pop("plm")
        with tempfile.TemporaryDirectory() as folder:
            plm.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        return {**state, "model_files": files, "model_name": plm.config.name_or_path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in state.pop("model_files").items():
                Path(folder, name).write_bytes(content)
            self.plm, _ = load_plm(folder, trust_remote_code=state["trust_remote_code"])
        self.plm.config.name_or_path = state.pop("model_name")
        self.__dict__.update(state)

    def check(self) -> None:
        """Refuse what would fail in some cell, before any cell runs.

        Raises:
            BadInput: for a PET that the model does not take, a regularizer that has no hold on a PET,
                words outside its vocabulary, too few examples for the shots, or arms with a cost to fit
                and no text.
        """
        for data in self.examples.values():
            Verbalizer.of_words(self.tokenizer, data.task.verbalizer)
            warn_of_shared_texts(data)
            for shots in self.grid.shots:
                for seed in self.grid.seeds:
                    if shots:
                        splits.few_shot(data.train, data.task, shots, seed)
                    else:
                        splits.hold_out(data.train, data.task, seed)
        to_fit = [arm for arm in self.grid.arms if Arm.parse(arm).fits]
        if to_fit and not any(line.strip() for line in self.text):
            raise BadInput(f"no text to fit {', '.join(to_fit)} on: give --text FILE...")
        for cell in self.grid.cells():
            self.grid.tries(cell)
        without_cost = [arm for arm in self.grid.arms if Arm.parse(arm).bridge is None]
        for pet, arm in itertools.product(self.grid.pets, without_cost):
            try:
                with self.prepared(self.grid.first(pet, arm)):
                    pass
            except BadInput as error:
                raise BadInput(f"{pet}, {arm}: {error}") from error

    def prepared(self, cell: Cell) -> AbstractContextManager[TuningLoop]:
        """The first try of a cell before its first step, with everything on the model."""
        return prepared(
            self.plm,
            self.tokenizer,
            self.examples[cell.task].without_reported,
            self.grid.tries(cell)[0],
            cost=self.costs.get(cell.arm),
            encoder=self.encoder,
        )

    def fit(self, *, progress: bool = True) -> None:
        """Fit the costs of all arms, or read those that are there; an interrupted fit goes on.

        Costs that are fitted alike are fitted together: the model reads the text once for all.

        Raises:
            BadInput: if a cost there does not fit, or was made otherwise than it says.
        """
        arms = [arm for text in self.grid.arms if (arm := Arm.parse(text)).bridge is not None]
        recipes = {arm.text: self.recipe(arm) for arm in arms if arm.text not in self.costs}
        found = made(recipes, self.folder / COSTS_FOLDER, self, progress=progress)
        for arm in arms:
            if arm.text in found:
                self.costs[arm.text] = self.cost(arm, found[arm.text])

    def recipe(self, arm: Arm) -> Recipe:
        """How the cost of an arm is made."""
        cost = RunningCost.for_model(
            self.plm,
            bridges.parse(arm.bridge or ""),
            seed=self.fit_settings.seed,
            shuffle_ends=arm.control == "shuffled-ends",
            fit=arm.control != "random-map",
        )
        return Recipe(arm.text, cost, self.fit_settings, self.text if arm.fits else None)

    def cost(self, arm: Arm, found: RunningCost) -> RunningCost:
        """What an arm pays, given the cost that was made by its recipe: here that cost itself."""
        return found

    @cached_property
    def fit_settings(self) -> FitSettings:
        """Of every cost: the same budget for each."""
        return FitSettings(**self.grid.fit)

    @cached_property
    def model_identity(self) -> dict[str, str | None]:
        """Of everything of the model and its tokenizer that numbers depend on."""
        return model_identity(self.plm, self.tokenizer)

    @property
    def model_sha256(self) -> str:
        """Of all that `model_identity` has."""
        return hashlib.sha256(json.dumps(self.model_identity, sort_keys=True).encode()).hexdigest()

    @cached_property
    def data_sha256(self) -> dict[str, str]:
        """Of every task's texts and classes, train and reported."""
        found = {}
        for name, data in self.examples.items():
            digest = hashlib.sha256(repr(data.task).encode())
            for part in (data.train, data.reported):
                for example in part:
                    digest.update(f"{example.label}\t{example.text}\n".encode())
                digest.update(b"\0")
            found[name] = digest.hexdigest()
        return found

    @cached_property
    def cost_sha256(self) -> dict[str, str]:
        """Of every arm's cost, once all are fitted."""
        return {arm: cost.digest() for arm, cost in self.costs.items()}

    @property
    def device(self) -> str:
        """What cells run on: "cpu", or the name of the GPU."""
        where = self.plm.device
        return torch.cuda.get_device_name(where) if where.type == "cuda" else str(where.type)
