"""A training forward as a regularizer sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

from bridges import BadInput, ModelSpec, Trajectory
from pets.tasks.verbalizer import Verbalizer

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Read:
    """The states of a forward's N targets.

    Attributes:
        trajectory: through all L+1 layers, [L+1, N, H], with gradient.
        answers: int64 [N], each target's token, or its class where ``classes`` is not None.
        classes: how many there are.
        words: that say the classes, where they have any; a language model's classes always do.
        spec: of the model.
    """

    trajectory: Trajectory
    answers: Tensor
    classes: int | None
    words: Verbalizer | None
    spec: ModelSpec


class Pass:
    """One forward in training.

    Args:
        loss: what the model returned: the task's, a scalar.
        scores: log-probabilities [N, C] of its N targets; asked for where they are read.
        mean: of [N]: the mean, or the sum over the ``num_items_in_batch`` that the model divides its own
            loss by.
        again: runs the same forward once more, with gradient, and with noise of its own.
        read: the states of the targets, see `Pass.read`.
        head: log-probabilities of states in the place of the model's last, see `Pass.head`.
        frozen: the states without the PET, see `Pass.frozen`.
    """

    def __init__(
        self,
        loss: Tensor,
        scores: Callable[[], Tensor],
        *,
        mean: Callable[[Tensor], Tensor],
        again: Callable[[], Pass],
        read: Callable[[], Read] | None = None,
        head: Callable[[Tensor], Tensor] | None = None,
        frozen: Callable[[], Read] | None = None,
    ) -> None:
        self.loss = loss
        self._scores, self._mean, self.again = scores, mean, again
        self._read, self._head, self._frozen = read, head, frozen

    def mean(self, costs: Tensor) -> Tensor:
        """One number of the N targets' costs: their mean, or their part of the mean that the model's own
        loss is.

        Args:
            costs: [N].

        Raises:
            BadInput: for anything else, whose mean would be that of something else.
        """
        shape = tuple(costs.shape) if isinstance(costs, Tensor) else type(costs).__name__
        known = self.__dict__.get("read")  # how many there are, where it was looked at
        count = None if known is None else len(known.answers)
        if not isinstance(shape, tuple) or len(shape) != 1 or shape[0] != (count or shape[0]):
            raise BadInput(
                f"seen.mean takes a number for each target, [N]{f' = [{count}]' if count else ''}, and "
                f"got {shape}: sum or average over what else there is first, over layers for example"
            )
        return self._mean(costs)

    @cached_property
    def scores(self) -> Tensor:
        """Log-probabilities [N, C] of C classes, or of the whole vocabulary, at the N targets.

        Of a prompt-based classifier they are the label words' in the vocabulary, and sum to less than 1.
        """
        return self._scores().float()

    @cached_property
    def second(self) -> Pass:
        """The same forward once more; see ``again``."""
        return self.again()

    @cached_property
    def read(self) -> Read:
        """The states of the N targets, in the order of `scores`."""
        return _asked(self._read)()

    @cached_property
    def frozen(self) -> Read:
        """The same of the model with its PET switched off: a second forward, without gradient."""
        return _asked(self._frozen)()

    def head(self, states: Tensor) -> Tensor:
        """What the model's own head says of states [K, N, H] in the place of the last, as `scores`.

        Returns:
            [K, N, C] log-probabilities.
        """
        return _asked(self._head)(states)


def _asked(given: Callable[P, T] | None) -> Callable[P, T]:
    if given is None:
        raise BadInput(
            "this regularizer does not say that it reads states: reads = frozenset({'states'})"
        )
    return given


def of_answering(output: Any, again: Callable[[], Any]) -> Pass:
    """A forward of `pets.tasks.answering.Answering`, whose scores are of its targets alone."""
    return Pass(
        output.loss,
        lambda: output.logits,
        mean=lambda costs: costs.mean(),
        again=lambda: of_answering(again(), again),
    )
