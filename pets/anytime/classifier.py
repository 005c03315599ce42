"""A classifier that answers as soon as a layer is sure."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch._dynamo import OptimizedModule

from bridges import BadInput, RunningCost
from bridges.errors import check_flags, is_number, is_whole, shown
from bridges.model.spec import pretrained_model
from pets.anytime.exits import Exits
from pets.anytime.leaving import AnytimeOutput, Leaving
from pets.anytime.places import Places
from pets.anytime.reading import evaluating, own_scores, read
from pets.anytime.stack import AllLeft, Stack
from pets.plug.refusals import check_cost
from pets.tasks.verbalizer import Verbalizer

logger = logging.getLogger(__name__)


class AnytimeClassifier(nn.Module):
    """A model of which each row leaves at the first layer that is sure of its label.

    The layers behind are really not run, and the rows that left are no longer in the batch. A row that
    no layer is sure of goes through all of them, and has the full model's answer, up to rounding. At
    layer k the answer is the label's posterior under the cost's bridge, given the states up to k, read
    by its lens and calibrated. For predictions: without gradient, in eval mode. Generation and caches
    are not for it.

    Args:
        model: a masked or causal language model or a classifier of sequences, plain or with any PET.
        cost: made for this model, with a lens (``map="lens"``).
        verbalizer: words of the labels, of one token each in a language model.
        threshold: the probability of the likeliest label from which on a row leaves, in (0, 1). May be
            set at any time.
        layers: that rows may leave at, of 1 to L - 1; by default all of them.
        together: the whole batch leaves at the first layer that is sure of every row.
        same_weights: as `pets.regularize`.

    Raises:
        BadInput: for a cost of another model or without a lens, labels without words, a layer or a
            threshold out of range, or a model whose layers cannot be told apart, see
            `pets.anytime.stack.Stack`.

    Examples:
        >>> anytime = pets.AnytimeClassifier(model, cost, words).fit(labelled_batches)  # doctest: +SKIP
        >>> anytime(**tokenizer(texts, return_tensors="pt", padding=True)).labels  # doctest: +SKIP
    """

    def __init__(
        self,
        model: nn.Module,
        cost: RunningCost,
        verbalizer: Verbalizer | None = None,
        threshold: float = 0.9,
        *,
        layers: Sequence[int] | None = None,
        together: bool = False,
        same_weights: bool = True,
    ) -> None:
        super().__init__()
        check_cost(cost)
        check_flags(together=together)
        self.threshold = threshold
        self._warned = False
        plm: Any = pretrained_model(model)
        _check_not_compiled(model)
        _ = cost.lens
        cost.check_model(model, same_weights=same_weights)
        self.model, self.together = model, together
        self._places = Places(model, cost.spec, verbalizer)
        self._stack = Stack.of(plm)
        self._exits = Exits(cost, self.verbalizer.ends(cost), checked_layers(layers, len(self._stack)))

    @property
    def verbalizer(self) -> Verbalizer:
        """Words of the labels."""
        return self._places.verbalizer

    @property
    def threshold(self) -> float:
        """From which probability on a row leaves.

        Raises:
            BadInput: when it is set to one outside of (0, 1).
        """
        return self._threshold

    @threshold.setter
    def threshold(self, threshold: float) -> None:
        if not is_number(threshold) or not 0 < threshold < 1:
            raise BadInput(
                f"threshold={shown(threshold)}: expected a probability between 0 and 1, as 0.9"
            )
        self._threshold = float(threshold)

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self._stack)

    @property
    def layers(self) -> tuple[int, ...]:
        """Those that rows may leave at."""
        return self._exits.layers

    @torch.inference_mode(False)  # else what is made here would be for it alone
    @torch.no_grad()
    def fit(self, batches: Iterable[Mapping[str, Any]]) -> AnytimeClassifier:
        """Let every exit learn from labelled examples, in closed form, and calibrate it on them.

        The examples that the model was tuned on will do: when the exits are calibrated, each is read by
        what never saw it. The model itself knows them, though, so others beside them are better. Exits
        are of the model as it is: fit them again when it was trained further, or its PET changed.

        Args:
            batches: what the model is called with, and "labels": class indices [B], or in a language
                model its tokens [B, S], -100 but at the label's word.

        Returns:
            Itself.

        Raises:
            BadInput: for batches without labels, or fewer than two examples of a label.
        """
        reading = read(self.model, self._places, batches)
        if reading.answers is None:
            raise BadInput("the batches have no labels: exits learn from labelled examples")
        self._exits.fit(reading.states, reading.answers)
        return self

    @torch.inference_mode(False)
    @torch.no_grad()
    def calibrate(self, batches: Iterable[Mapping[str, Any]]) -> AnytimeClassifier:
        """Set every exit's temperature and bias, and leave what it reads as it is.

        Args:
            batches: as `fit`; of examples that the exits have not learned from. Without labels the bias
                alone is found, which makes the labels as likely on the whole.

        Returns:
            Itself.
        """
        reading = read(self.model, self._places, batches)
        self._exits.calibrate(reading.states, reading.answers)
        return self

    def accuracies(self, batches: Iterable[Mapping[str, Any]]) -> dict[int, float]:
        """The share of right answers, had all rows left at a layer; by layer, the last the full model's.

        Args:
            batches: labelled, as `fit`; of examples that nothing was fitted on.

        Raises:
            BadInput: for batches without labels.
        """
        reading = read(self.model, self._places, batches)
        if reading.answers is None:
            raise BadInput("the batches have no labels: expected those of examples to be scored")
        by_layer = dict(enumerate(reading.states))
        found = {k: self._exits.on(k, reading.states.device)(by_layer) for k in self.layers}
        found[self.num_layers] = reading.scores
        right = reading.answers
        return {k: float((odds.argmax(1) == right).double().mean()) for k, odds in found.items()}

    def warn_if_not_calibrated(self) -> None:
        """Log, once, what can be meant so, but hardly is."""
        if not self._exits.calibrated and not self._warned:
            logger.warning(
                "the exits are neither fitted nor calibrated, so what they are sure of means little: "
                "call fit(labelled_batches), or calibrate(batches)"
            )
            self._warned = True

    def forward(self, **inputs: Any) -> AnytimeOutput:
        """Answer a batch: what the model is called with. Labels [B] are taken no notice of, of tokens
        [B, S] where they stand.

        Raises:
            BadInput: for inputs with a cache, or that do not say where the label is told.
        """
        self.warn_if_not_calibrated()
        leaving = Leaving(
            self._exits,
            self._places.of(inputs),
            len(inputs["input_ids"]),
            threshold=self.threshold,
            together=self.together,
        )
        with evaluating(self.model), self._stack.visited(pretrained_model(self.model), leaving.visit):
            try:
                _, scores = own_scores(self.model, self._places, inputs, lambda: leaving.staying)
                leaving.leave(self.num_layers, leaving.staying, scores.exp())
            except AllLeft:
                pass
        return leaving.output()


def _check_not_compiled(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, OptimizedModule) or module._compiled_call_impl is not None:
            raise BadInput(
                f"{type(model).__name__} is compiled, and what is compiled knows of no rows that leave "
                "between its layers: give the model as it was before torch.compile"
            )


def checked_layers(layers: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """The layers with an exit, in order.

    Raises:
        BadInput: for one that is none of 1 .. L - 1, or none at all.
    """
    if layers is None:
        return tuple(range(1, count))
    given: list[Any] = list(layers) if isinstance(layers, (list, tuple, range)) else [layers]
    for layer in given:
        if not is_whole(layer, 1, count - 1):
            raise BadInput(
                f"layer {shown(layer)}: expected one from 1 to {count - 1}, before the last of "
                f"the {count} layers"
            )
    if not given:
        raise BadInput("layers is empty: expected one layer or more to leave at")
    return tuple(sorted(set(given)))
