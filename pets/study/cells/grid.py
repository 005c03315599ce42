"""The grid of a comparison: which cells there are, checked before any of them runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bridges.errors import BadInput
from pets import methods, tasks
from pets.plug.schedule import CONSTANT
from pets.study.cells.arms import ADAPTED, VANILLA, Arm
from pets.tasks.base import Task
from pets.tasks.protocol import OURS
from pets.tuning.settings import LOSSES, TuneSettings

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Cell:
    """One comparison point: everything but the strength, which is selected inside of it.

    Attributes:
        task: name of a task of the grid.
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
        tasks, shots, pets, arms, seeds: the axes. Tasks and arms may be given as they are written, see
            `pets.tasks.parse` and `Arm.parse`; the arm "vanilla" is always there, as the first.
        weights: of running costs; each arm has as many tries.
        as_ratios: whether the weights are ratios of gradients, see `pets.tuning.ratio`.
        settings: of every try, but for what a cell and its tries set.
        fit: fields of `bridges.FitSettings` for the costs; a lens takes what it shares with them.
        by_depth: whether the selected PET is also scored at each layer, see `pets.anytime.by_layer`.

    Raises:
        BadInput: for an empty axis, something twice or unknown, or a number out of range.
    """

    tasks: tuple[Task, ...]
    shots: tuple[int, ...]
    pets: tuple[str, ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    weights: tuple[float, ...]
    settings: TuneSettings = field(default_factory=TuneSettings)
    fit: dict[str, Any] = field(default_factory=dict)
    as_ratios: bool = False
    by_depth: bool = False

    def __post_init__(self) -> None:
        given = tuple(task if isinstance(task, Task) else tasks.parse(task) for task in self.tasks)
        object.__setattr__(self, "tasks", given)
        names = [task.name for task in given]
        if twice := [name for name in names if names.count(name) > 1]:
            raise BadInput(
                f"tasks: two are called {twice[0]!r}, which is how rows tell them apart: give one of "
                "them another name, in a task file"
            )
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
                what = "ratio" if self.as_ratios else "weight"
                raise BadInput(f"{what} {weight}: expected a finite number above 0")

    @classmethod
    def of_options(cls, options: Mapping[str, Any]) -> Grid:
        """The grid of a preset, or of one with some options changed; see `presets`.

        "ratios", where there are any, take the place of "weights".
        """
        axes = {name: tuple(options[name]) for name in ("tasks", "shots", "pets", "arms", "seeds")}
        ratios = tuple(options.get("ratios", ()))
        settings = TuneSettings(
            max_steps=options["steps"],
            batch_size=options["batch_size"],
            learning_rate=options.get("lr"),
            eval_every=options["eval_every"],
            max_length=options["max_length"],
            protocol=options.get("protocol", OURS.name),
            schedule=options.get("schedule", CONSTANT),
            loss=options.get("loss", LOSSES[0]),
        )
        fit = {
            "max_steps": options["fit_steps"],
            "batch_size": options["fit_batch_size"],
            "max_length": options["fit_length"],
        }
        if settings.conventions.whole_words:
            fit |= {"masking": "words", "updates": 1, "dtype": "model"}
        weights = ratios or tuple(options["weights"])
        return cls(
            **axes,
            weights=weights,
            settings=settings,
            fit=fit,
            as_ratios=bool(ratios),
            by_depth=bool(options.get("by_depth")),
        )

    def cells(self) -> Iterator[Cell]:
        """All cells; a seed's before the next seed's, so that a part of a grid is a balanced one."""
        for seed in self.seeds:
            for task in (task.name for task in self.tasks):
                for shots in self.shots:
                    for pet in self.pets:
                        for arm in self.arms:
                            yield Cell(task, shots, pet, arm, seed)

    def first(self, pet: str, arm: Arm) -> Cell:
        """The first cell of a PET and an arm."""
        return Cell(self.tasks[0].name, self.shots[0], pet, arm, self.seeds[0])

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
                **self._strength(cell.arm, strength),
                adapt="once" if cell.arm.reader == ADAPTED else self.settings.adapt,
            )
            for k, strength in enumerate(cell.arm.strengths(self.weights))
        ]

    def _strength(self, arm: Arm, strength: float | None) -> dict[str, Any]:
        if strength is None:
            return {}
        return {"ratio" if self.has_ratios(arm) else "weight": strength}

    def has_ratios(self, arm: Arm) -> bool:
        """Whether the strengths of an arm's tries are ratios; a regularizer has numbers of its own."""
        return self.as_ratios and arm.bridge is not None


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
