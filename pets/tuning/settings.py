"""How a PET is tuned."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from bridges.errors import BadInput, check_counts, check_name, check_seeds, is_number, is_whole, shown
from bridges.seeds import generator
from pets import methods, regularizers
from pets.methods import PET
from pets.plug.schedule import CONSTANT, SCHEDULES
from pets.regularizers import Objective
from pets.tasks.protocol import OURS, Protocol
from pets.tasks.protocol import protocol as protocol_named

ADAPT = ("never", "once", "looks")
AMONG_LABELS = "labels"
LOSSES = ("vocabulary", AMONG_LABELS)
CAME_LATER: dict[str, Any] = {
    "protocol": OURS.name,
    "schedule": CONSTANT,
    "adapt": ADAPT[0],
    "loss": LOSSES[0],
    "ratio": None,
}
"""Settings that earlier versions did not have, with what those did."""


@dataclass(frozen=True)
class TuneSettings:
    """How a PET is tuned; the defaults are the published few-shot protocol.

    Attributes:
        pet: method name, see `pets.get`.
        pet_options: options of the method.
        regularizer: what is used instead of a running cost, see `pets.regularizers`; None for nothing.
            A text where it has parameters beside its weight.
        weight: factor of the running cost, or the number of the regularizer, see `Objective.number`.
        shots: K examples per class for training and K for selection; None for the full train set, of
            which a tenth selects.
        seed: of split, initialisation and order.
        restart: 1, 2, ... are other initialisations and orders on the same split.
        max_steps: optimiser steps.
        batch_size: examples a step.
        learning_rate: of AdamW, constant; None for that of the PET, see `pets.methods.learning_rate`.
        weight_decay: not on biases and layer norms; "weight-decay" has its own.
        eval_every: steps between looks at the selection split.
        max_length: tokens a prompt.
        protocol: "ours", or "published" to put the task to the model as the published code does, see
            `pets.tasks.protocol` and docs/published.md.
        schedule: how the weight falls over the run, see `pets.plug.schedule.share`.
        adapt: when the running cost's lens learns from the training examples, see `pets.adapt`: "never",
            "once" before the first step, or then and after each of the "looks".
        loss: of the right answer in the whole "vocabulary", or among the "labels" alone.
        ratio: instead of a running cost's weight, how long its weighed gradient is beside the task's
            before the first step, with its lens as it is then, see `pets.tuning.ratio`.
    """

    pet: str = "lora"
    pet_options: dict[str, Any] = field(default_factory=dict)
    regularizer: str | None = None
    weight: float = 0.5
    shots: int | None = 16
    seed: int = 42
    restart: int = 0
    max_steps: int = 1000
    batch_size: int = 2
    learning_rate: float | None = None
    weight_decay: float = 0.01
    eval_every: int = 50
    max_length: int = 128
    protocol: str = OURS.name
    schedule: str = CONSTANT
    adapt: str = ADAPT[0]
    loss: str = LOSSES[0]
    ratio: float | None = None

    def __post_init__(self) -> None:
        counts = ("max_steps", "batch_size", "eval_every", "max_length")
        check_counts(**{name: getattr(self, name) for name in counts})
        check_seeds(seed=self.seed)
        if not is_whole(self.restart, 0, 2**31):
            raise BadInput(f"restart={shown(self.restart)}: expected a whole number, 0 or more")
        rate, decay = self.learning_rate, self.weight_decay
        if rate is not None and not (is_number(rate) and 0 < rate < 1):
            raise BadInput(f"learning_rate={shown(rate)}: expected a number in (0, 1)")
        if not is_number(decay) or not 0 <= decay < 1:
            raise BadInput(f"weight_decay={shown(decay)}: expected a number in [0, 1)")
        methods.learning_rate(self.pet)
        protocol_named(self.protocol)
        check_name("schedule", self.schedule, SCHEDULES)
        check_name("adapt", self.adapt, ADAPT)
        check_name("loss", self.loss, LOSSES)
        if not isinstance(self.pet_options, dict):
            raise BadInput(f"pet_options={shown(self.pet_options)}: expected a dict of options")
        if self.shots is not None and not is_whole(self.shots, 1, 2**31):
            raise BadInput(
                f"shots {shown(self.shots)} is too small; expected at least 1 example per class"
            )
        if self.schedule != CONSTANT and self.objective is not None and not self.objective.may_fall:
            raise BadInput(
                f"schedule={self.schedule!r}: regularizer {self.objective.name!r} does not say that its "
                "strength may fall over a run (may_fall); take schedule='constant'"
            )
        if self.objective is None and (not is_number(self.weight) or self.weight < 0):
            raise BadInput(f"weight={shown(self.weight)}: expected a finite number, 0 or more")
        if self.ratio is not None:
            if not is_number(self.ratio) or self.ratio <= 0:
                raise BadInput(f"ratio={shown(self.ratio)}: expected a finite number above 0")
            if self.regularizer is not None:
                raise BadInput(
                    f"ratio={self.ratio} with regularizer {self.regularizer!r}: a ratio is of a running "
                    "cost's gradient; give the regularizer its own weight"
                )

    @property
    def conventions(self) -> Protocol:
        """What the protocol says."""
        return protocol_named(self.protocol)

    @property
    def identity(self) -> dict[str, Any]:
        """The settings with the learning rate used, as they identify a run.

        What earlier versions did not have is left out where it is what they did: their runs are still
        known by it.
        """
        used = dataclasses.asdict(self) | {"learning_rate": self.rate}
        if self.ratio is not None:
            del used["weight"]  # it is measured
        return {k: v for k, v in used.items() if k not in CAME_LATER or v != CAME_LATER[k]}

    @property
    def objective(self) -> Objective | None:
        """The regularizer of this weight.

        Raises:
            BadInput: for an unknown one, or a weight that it does not take.
        """
        if self.regularizer is None:
            return None
        name, parameters = regularizers.split(self.regularizer)
        if "weight" in parameters:
            raise BadInput(f"regularizer={shown(self.regularizer)}: its weight is a setting of its own")
        return regularizers.get(name, weight=self.weight, **parameters)

    @property
    def parts(self) -> tuple[PET, Objective | None]:
        """The PET and the regularizer, whose code may be another package's."""
        return methods.info(self.pet).cls(), self.objective

    @property
    def decay(self) -> float:
        """The weight decay used."""
        objective = self.objective
        own = None if objective is None else objective.weight_decay
        return self.weight_decay if own is None else own

    @property
    def run_seed(self) -> int:
        """Of initialisation, order and noise: the seed, unless it is a restart."""
        if not self.restart:
            return self.seed
        return generator(self.seed, -3, self.restart).initial_seed()

    @property
    def rate(self) -> float:
        """The learning rate used: the one given, else the PET's."""
        return methods.learning_rate(self.pet) if self.learning_rate is None else self.learning_rate
