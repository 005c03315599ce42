"""A regularizer: one number, its strength, and what it makes of a training step's loss."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from bridges.errors import BadInput, check_counts, is_number, shown
from bridges.registry import Registry
from pets.regularizers.passes import Pass, of_answering
from pets.tasks.answering import Answering

READS = frozenset({"scores", "states"})
"""What of a forward a regularizer may ask for."""
Loss = Callable[..., Tensor]
"""Of a batch as `pets.tasks.answering.Answering` takes it: the loss to be trained."""


class Objective:
    """A regularizer, in any training loop by `pets.regularize` and in `bridge-pets tune`.

    A subclass that names itself, ``class RDrop(Objective, name="r-drop")``, is registered. It says what
    it does by one or more of `around`, `loss` and `term`: a training forward runs in `around`, its loss
    becomes `loss` and what is added to that is ``weight`` times `term`; `before_step` has the optimiser.
    Evaluation knows nothing of it.
    Noise comes from torch's global generator. `pets.testing` has the battery that each passes.

    Args:
        weight: its strength.

    Attributes:
        formula: in plain text.
        purpose: what it is for, in a sentence or two, for the gallery.
        number: what the strength is, in the words of its paper.
        tried: from where to where `strengths` goes.
        limit: the strength is below it, and not below 0.
        may_fall: ``weight`` is read at every step, so a schedule of `tune` may let it fall.
        reads: what of a forward is asked for: "scores", "states" or neither.
        twice: whether `term` runs a second forward.

    Raises:
        BadInput: for a strength out of range.
    """

    name: ClassVar[str] = ""
    formula: ClassVar[str] = ""
    purpose: ClassVar[str] = ""
    number: ClassVar[str] = "weight"
    tried: ClassVar[tuple[float, float]] = (0.01, 1.0)
    limit: ClassVar[float] = math.inf
    may_fall: ClassVar[bool] = False
    reads: ClassVar[frozenset[str]] = frozenset()
    twice: ClassVar[bool] = False

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = name or cls.__name__
        if not isinstance(cls.reads, (set, frozenset)) or not cls.reads <= READS:
            raise BadInput(
                f"{cls.name}: reads = {shown(cls.reads)}; expected a set of 'scores' and 'states', such "
                "as frozenset({'states'})"
            )
        if name is not None:
            catalogue.register(name, cls)

    def __init__(self, weight: float) -> None:
        self.weight = weight

    @property
    def weight(self) -> float:
        """The strength; may be changed between steps.

        Raises:
            BadInput: when it is set to one out of range.
        """
        return self._weight

    @weight.setter
    def weight(self, weight: float) -> None:
        self.check(weight)
        self._weight = weight

    @classmethod
    def check(cls, weight: object) -> None:
        """Whether it is a strength.

        Raises:
            BadInput: if it is out of range.
        """
        if not is_number(weight) or not 0 <= weight < cls.limit:  # type: ignore[operator]
            numbers = (
                "a finite number, 0 or more"
                if cls.limit == math.inf
                else f"a number in [0, {cls.limit:g})"
            )
            raise BadInput(f"weight={shown(weight)}: expected the {cls.number} of {cls.name}, {numbers}")

    @property
    def weight_decay(self) -> float | None:
        """The optimiser's, where the regularizer is that; None leaves it as it is."""
        return None

    def attach(self, model: nn.Module) -> None:
        """Called once, with the model that is trained, before its first forward.

        Raises:
            BadInput: for a model that the regularizer has no hold on.
        """

    def detach(self) -> None:
        """The model is as it was before `attach`."""

    def before_step(self, optimizer: Optimizer) -> None:
        """Called before each step of an optimiser that holds parameters of the model."""

    def around(self, inputs: Mapping[str, Any]) -> AbstractContextManager[None]:
        """In here a training forward runs, and one that is run again for it runs in another.

        Args:
            inputs: what the model is called with, by name.
        """
        return contextlib.nullcontext()

    def loss(self, seen: Pass) -> Tensor:
        """The task's loss, a scalar, in the place of the forward's own."""
        return seen.loss

    def term(self, seen: Pass) -> Tensor | None:
        """A scalar, of which ``weight`` times is added to the loss: None for nothing."""
        return None

    def defines(self, *names: str) -> bool:
        """Whether its class has any of these methods of its own."""
        return any(getattr(type(self), name) is not getattr(Objective, name) for name in names)

    @property
    def does_nothing(self) -> bool:
        """Whether its class has none of the methods by which one does anything."""
        return not self.defines("around", "loss", "term", "before_step", "attach", "weight_decay", "on")

    @property
    def is_additive(self) -> bool:
        """Whether all that it does is to add a term."""
        return not self.defines("around", "loss")

    @property
    def acts_on_losses_alone(self) -> bool:
        """Whether it says what it does by a loss of its own alone, `on`, which only `tune` can train."""
        return self.defines("on") and not self.defines("around", "loss", "term", "before_step")

    @property
    def has_term(self) -> bool:
        """Whether it adds one."""
        return self.defines("term")

    def on(self, classifier: Answering) -> Loss:
        """The regularised loss of this classifier, without `pets.regularize`.

        Raises:
            BadInput: for a model that the regularizer has no hold on.
        """
        if "states" in self.reads:
            raise BadInput(
                f"{self.name} reads hidden states, which a loss alone does not see: use pets.regularize"
            )
        self.attach(classifier)

        def loss(**batch: Tensor) -> Tensor:
            def forward() -> Any:
                with self.around(batch):
                    return classifier(**batch)

            seen = of_answering(forward(), forward)
            term = self.term(seen)
            task = self.loss(seen)
            return task if term is None else task + self.weight * term

        return loss

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
    return symmetric_kls(one, two).mean()


def symmetric_kls(one: Tensor, two: Tensor) -> Tensor:
    """The same of each, [N]."""
    log_p, log_q = one.log_softmax(1), two.log_softmax(1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1)
