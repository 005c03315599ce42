"""A regularizer: one number, its strength, and what it makes of a training step's loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from bridges.errors import BadInput, check_counts, is_number, shown
from bridges.registry import Registry
from pets.tasks.answering import Answering

Loss = Callable[..., Tensor]
"""Of a batch as `pets.tasks.answering.Answering` takes it: the loss to be trained."""


class Objective(ABC):
    """A regularised loss, in training in the place of a classifier's own.

    A subclass that names itself, ``class RDrop(Objective, name="r-drop")``, is registered. Evaluation
    knows nothing of it. Noise comes from torch's global generator, which the tuning loop seeds at every
    step.

    Args:
        weight: its strength.

    Attributes:
        number: what the strength is, in the words of its paper.
        tried: from where to where `strengths` goes.
        limit: the strength is below it, and not below 0.
        may_fall: the loss reads ``weight`` at every step, so a schedule may let it fall over a run.

    Raises:
        BadInput: for a strength out of range.
    """

    name: ClassVar[str] = ""
    number: ClassVar[str]
    tried: ClassVar[tuple[float, float]]
    limit: ClassVar[float] = math.inf
    may_fall: ClassVar[bool] = False

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = name or cls.__name__
        if name is not None:
            catalogue.register(name, cls)

    def __init__(self, weight: float) -> None:
        if not is_number(weight) or not 0 <= weight < self.limit:
            numbers = (
                "a finite number, 0 or more"
                if self.limit == math.inf
                else f"a number in [0, {self.limit:g})"
            )
            raise BadInput(
                f"weight={shown(weight)}: expected the {self.number} of {self.name}, {numbers}"
            )
        self.weight = weight

    @property
    def weight_decay(self) -> float | None:
        """The optimiser's, where the regularizer is that; None leaves it as it is."""
        return None

    @abstractmethod
    def on(self, classifier: Answering) -> Loss:
        """The regularised loss of this classifier.

        Raises:
            BadInput: for a model that the regularizer has no hold on.
        """

    @classmethod
    def strengths(cls, count: int) -> list[float]:
        """Strengths to choose from: geometrically spaced over what is sensible, both ends included.

        One strength is the geometric mean.

        Raises:
            BadInput: for a count below 1.
        """
        low, high = cls.tried
        check_counts(count=count)
        if count == 1:
            return [math.sqrt(low * high)]
        between = [low * (high / low) ** (k / (count - 1)) for k in range(1, count - 1)]
        return [low, *between, high]


catalogue: Registry[Objective] = Registry(
    "regularizer", group="pets.regularizers", home="pets.regularizers", example="r-drop:weight=1"
)
"""Every regularizer that is known by a name."""


def symmetric_kl(one: Tensor, two: Tensor) -> Tensor:
    """KL(p || q) + KL(q || p), mean over N, of the distributions that scores [N, C] stand for.

    It is the sum of (p - q)(log p - log q), in which no term is negative, however close p and q are.
    """
    log_p, log_q = one.log_softmax(1), two.log_softmax(1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1).mean()
