"""What is plugged into a model: terms of its loss, each with a name and a weight."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import bridges
from bridges import BadInput, RunningCost
from bridges.errors import is_number, shown
from pets import regularizers
from pets.plug.placed_cost import PlacedCost
from pets.plug.refusals import check_cost, is_a_bridge
from pets.plug.weights import Weight
from pets.regularizers import Objective

logger = logging.getLogger(__name__)

What = RunningCost | Objective


class Term:
    """One regularizer of a model's loss.

    Args:
        name: by which it is told.
        what: the cost, or the regularizer.
        weight: at every step.

    Attributes:
        placed: a running cost where its targets are; set when it is plugged in.
    """

    placed: PlacedCost

    def __init__(self, name: str, what: What, weight: Weight) -> None:
        self.name, self.what, self.policy = name, what, weight
        self._told = False

    @property
    def is_cost(self) -> bool:
        """Whether it is a running cost."""
        return isinstance(self.what, RunningCost)

    @property
    def objective(self) -> Objective:
        """The regularizer."""
        assert isinstance(self.what, Objective)
        return self.what

    @property
    def has_term(self) -> bool:
        """Whether something is added to the loss."""
        return self.is_cost or self.objective.has_term

    @property
    def needs_loss(self) -> bool:
        """Whether there has to be a loss to add to or to replace."""
        return self.has_term or self.objective.defines("loss")

    @property
    def reads_states(self) -> bool:
        """Whether the hidden states are asked for."""
        return self.is_cost or "states" in self.objective.reads

    @property
    def reads_targets(self) -> bool:
        """Whether it has to be known where a label is predicted."""
        return self.is_cost or bool(self.objective.reads)

    def check(self, number: object, *, counts: bool) -> None:
        """Whether a regularizer's term is one.

        Args:
            number: what `Objective.term` gave.
            counts: whether a gradient of it is wanted; a warning says, once, where it has none.

        Raises:
            BadInput: for anything but a scalar tensor or None.
        """
        if number is None:
            return
        if not isinstance(number, Tensor) or number.dim():
            got = f"shape {tuple(number.shape)}" if isinstance(number, Tensor) else shown(number)
            raise BadInput(
                f"the term of {self.name} is {got}: expected a scalar tensor, seen.mean(costs) of a "
                "number for each target for example"
            )
        if counts and not number.requires_grad and not self._told:
            self._told = True
            logger.warning(
                "the term of %s has no gradient: in the loss it changes nothing (said once)",
                self.name,
            )

    def __repr__(self) -> str:
        return f"{self.name} (weight {self.policy})"


def terms_of(given: Any, weight: Any, schedule: Any) -> list[Term]:
    """The terms that `pets.regularize` was given, each under a name of its own.

    Raises:
        BadInput: for anything that is none, or a weight that one does not take.
    """
    items = given if isinstance(given, Sequence) and not isinstance(given, (str, tuple)) else [given]
    if not items:
        raise BadInput(
            "nothing to regularize with: give a running cost, a regularizer or a list of them"
        )
    terms: list[Term] = []
    weights: list[Any] = []  # that come with them
    for item in items:
        if isinstance(item, tuple):
            if len(item) != 2:
                raise BadInput(f"{shown(item)}: expected a pair of a cost or regularizer and its weight")
            what, own = item
        else:
            what, own = item, None
        term, own = _term(what, own, weight, schedule, [term.name for term in terms])
        terms.append(term)
        weights.append(own)
    if weight is not None and None not in weights and any(own != weight for own in weights):
        raise BadInput(
            f"weight={shown(weight)} plays no part: {', '.join(term.name for term in terms)} "
            f"{'has a weight' if len(terms) == 1 else 'have weights'} already; give one of the two"
        )
    objects = [id(term.what) for term in terms]
    if len(set(objects)) < len(objects):
        raise BadInput("the same object is given twice: make another one, or add the weights")
    return terms


def _term(given: Any, own: Any, weight: Any, schedule: Any, taken: Iterable[str]) -> tuple[Term, Any]:
    """A term, and the weight of its own: given with it, written in its text or that it was made with."""
    what: What
    if isinstance(given, str):
        what, written = _parsed(given)
        if own is not None and written is not None:
            raise BadInput(f"{given!r} and weight {shown(own)}: give one weight")
        own = written if own is None else own
    elif isinstance(given, Objective):
        what, own = given, given.weight if own is None else own
    else:
        check_cost(given)
        what = given
    if isinstance(what, RunningCost):
        name, default, check = (
            str(what.bridge.registered_name or type(what.bridge).__name__),
            1.0,
            _check,
        )
    else:
        name, default, check = what.name, what.strengths(1)[0], what.check
    policy = Weight(weight if own is None else own, default, schedule=schedule, check=check)
    if isinstance(what, Objective) and what.acts_on_losses_alone:
        raise BadInput(
            f"{name} makes a loss of its own of a classifier of `tune`, and says nothing of other "
            f"loops: give {type(what).__name__} a term(self, seen), loss or around"
        )
    if isinstance(what, Objective) and what.does_nothing:
        raise BadInput(
            f"{name} does nothing: give {type(what).__name__} a term(self, seen), a loss(self, seen) or "
            "an around(self, inputs)"
        )
    if isinstance(what, Objective) and not what.has_term and policy.is_ratio:
        raise BadInput(
            f"weight={policy}: {name} adds no term to the loss, so nothing is a ratio of its gradient; "
            f"give its {what.number}"
        )
    count = sum(other.partition("#")[0] == name for other in taken)
    return Term(f"{name}#{count + 1}" if count else name, what, policy), own


def _parsed(text: str) -> tuple[Objective, float | None]:
    """A regularizer as it is written, and its weight where that is written too."""
    if text.partition(":")[0] in bridges.available():
        raise is_a_bridge(repr(text), repr(text))
    if text.partition(":")[0] not in regularizers.available():
        raise BadInput(
            f"cost={text!r}: expected a bridges.RunningCost, as for_model or from_pretrained gives, or "
            f"a regularizer ({', '.join(regularizers.available())})"
        )
    name, parameters = regularizers.split(text)
    written = parameters.pop("weight", None)
    weight = regularizers.strengths(name, 1)[0] if written is None else written
    return regularizers.get(name, weight=weight, **parameters), written


def _check(weight: float) -> None:
    if not is_number(weight) or weight < 0:
        raise BadInput(f"weight={shown(weight)}: expected a finite number, 0 or more")


def attach(terms: Sequence[Term], model: nn.Module) -> None:
    """Every regularizer gets to know the model; none does if one has no hold on it."""
    done: list[Objective] = []
    try:
        for term in terms:
            if not term.is_cost:
                term.objective.attach(model)
                done.append(term.objective)
    except BaseException:
        for objective in done:
            objective.detach()
        raise


def weighed(terms: Sequence[tuple[float, Tensor]], like: Tensor) -> Tensor:
    """The sum of weighed terms, in the loss's dtype: in fp16 a term alone may be out of range."""
    parts = [(weight * term).to(like.device, like.dtype) for weight, term in terms]
    return functools.reduce(torch.add, parts) if parts else like.new_zeros(())
