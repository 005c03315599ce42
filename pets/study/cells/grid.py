"""The grid of a comparison: which cells there are, checked before any of them runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bridges.errors import BadInput
from pets import methods, tasks
from pets.study.cells.arms import ADAPTED, VANILLA, Arm
from pets.tasks.protocol import OURS
from pets.tuning.schedule import CONSTANT
from pets.tuning.settings import TuneSettings

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Cell:
    """One comparison point: everything but the strength, which is selected inside of it.

    Attributes:
        task: name of a task.
        shots: examples per class to train on, and as many to select on; 0 for the full train set.
        pet: what `pets.parse` takes.
        arm: what it is tuned with.
        seed: of the split, and of initialisation and order together with the restart.
    """

    task: str
    shots: int
    pet: str
    arm: Arm
    seed: int

    def __str__(self) -> str:
        return f"{self.task} {self.shots or 'all'} {self.pet} {self.arm} seed {self.seed}"


@dataclass(frozen=True)
class Grid:
    """Tasks x shots x PETs x arms x seeds, and how each cell is tuned.

    Attributes:
        tasks, shots, pets, arms, seeds: the axes. Arms may be given as they are written; the arm
            "vanilla" is always there, as the first.
        weights: of running costs; each arm has as many tries.
        settings: of every try, but for what a cell and its tries set.
        fit: fields of `bridges.FitSettings` for the costs; a lens takes what it shares with them.

    Raises:
        BadInput: for an empty axis, something twice or unknown, or a number out of range.
    """

    tasks: tuple[str, ...]
    shots: tuple[int, ...]
    pets: tuple[str, ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    weights: tuple[float, ...]
    settings: TuneSettings = field(default_factory=TuneSettings)
    fit: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(tasks.get(name).name for name in self.tasks))
        arms = (Arm.parse(VANILLA), *map(Arm.parse, self.arms))
        _check_axis("arms", (VANILLA, *(arm.text for arm in arms if arm.text != VANILLA)))
        object.__setattr__(self, "arms", tuple(dict.fromkeys(arms)))
        for name in ("tasks", "shots", "pets", "seeds", "weights"):
            _check_axis(name, getattr(self, name))
        for pet in self.pets:
            _options(pet)
        for shots in self.shots:
            if shots < 0:
                raise BadInput(f"shots {shots}: expected 1 or more examples per class, or 0 for all")
        for weight in self.weights:
            if not (math.isfinite(weight) and weight > 0):
                raise BadInput(f"weight {weight}: expected a finite number above 0")

    @classmethod
    def of_options(cls, options: Mapping[str, Any]) -> Grid:
        """The grid of a preset, or of one with some options changed; see `presets`."""
        axes = ("tasks", "shots", "pets", "arms", "seeds", "weights")
        settings = TuneSettings(
            max_steps=options["steps"],
            batch_size=options["batch_size"],
            learning_rate=options.get("lr"),
            eval_every=options["eval_every"],
            max_length=options["max_length"],
            protocol=options.get("protocol", OURS.name),
            schedule=options.get("schedule", CONSTANT),
        )
        fit = {
            "max_steps": options["fit_steps"],
            "batch_size": options["fit_batch_size"],
            "max_length": options["fit_length"],
        }
        if settings.conventions.whole_words:
            fit["masking"] = "words"
        return cls(**{name: tuple(options[name]) for name in axes}, settings=settings, fit=fit)

    def cells(self) -> Iterator[Cell]:
        """All cells; a seed's before the next seed's, so that a part of a grid is a balanced one."""
        for seed in self.seeds:
            for task in self.tasks:
                for shots in self.shots:
                    for pet in self.pets:
                        for arm in self.arms:
                            yield Cell(task, shots, pet, arm, seed)

    def first(self, pet: str, arm: Arm) -> Cell:
        """The first cell of a PET and an arm."""
        return Cell(self.tasks[0], self.shots[0], pet, arm, self.seeds[0])

    def tries(self, cell: Cell) -> list[TuneSettings]:
        """How the tries of a cell are tuned: strength and restart differ, split and steps do not."""
        return [
            dataclasses.replace(
                self.settings,
                **_options(cell.pet),
                shots=cell.shots or None,
                seed=cell.seed,
                restart=k,
                regularizer=cell.arm.regularizer,
                weight=self.settings.weight if strength is None else strength,
                adapt="once" if cell.arm.reader == ADAPTED else self.settings.adapt,
            )
            for k, strength in enumerate(cell.arm.strengths(self.weights))
        ]


def _options(pet: str) -> dict[str, Any]:
    """What a PET's text says, as settings have it.

    Raises:
        BadInput: for an unknown name, or a text that is not ``name:key=value,...``.
    """
    name, options = methods.split(pet)
    return {"pet": name, "pet_options": options}


def _check_axis(name: str, values: Iterable[_Item]) -> None:
    seen: set[_Item] = set()
    for value in values:
        if value in seen:
            raise BadInput(f"{name}: {value!r} is given twice")
        seen.add(value)
    if not seen:
        raise BadInput(f"{name}: nothing given, expected at least one")
