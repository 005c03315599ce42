"""What regularizers are shown of a model's forward: its answers' scores, its states, its head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from bridges import BadInput, ModelSpec, RunningCost
from bridges.cost.targets import gather
from bridges.model.head import ModelHead
from pets.plug.calls import Call
from pets.plug.labels import is_classifier, label_targets
from pets.plug.placed_cost import place
from pets.plug.scores import target_scores
from pets.plug.terms import Term
from pets.regularizers.passes import Read
from pets.tasks.own_head import HeadClassifier
from pets.tasks.verbalizer import Verbalizer


class View:
    """Where a model's labels are predicted, and what its head makes of states.

    Args:
        model, plm: it, and the language model inside.
        spec: of that.
        verbalizer: words of the labels.

    Raises:
        BadInput: for labels that are neither tokens nor classes.
    """

    def __init__(
        self, model: nn.Module, plm: PreTrainedModel, spec: ModelSpec, verbalizer: Verbalizer | None
    ) -> None:
        self._model, self._plm, self._spec = model, plm, spec
        self._made = label_targets(model, plm, spec, verbalizer)
        self._words = verbalizer or getattr(model, "verbalizer", None)
        self._shifted = spec.causal and not is_classifier(plm)
        self._head: ModelHead | None = None

    @property
    def reads_ids(self) -> bool:
        """Whether the input ids say where targets are."""
        return self._made.reads_ids

    def scores(self, output: Any, given: Mapping[str, Any]) -> Tensor:
        """Log-probabilities [N, C]; see `target_scores`."""
        who = type(self._plm).__name__
        return target_scores(output, given, shifted=self._shifted, who=who)

    def read(self, call: Call, given: Mapping[str, Any], output: Any) -> Read:
        """The targets' states; see `pets.plug.placed_cost.place`."""
        logits = getattr(output, "logits", None)
        placed = place(call, given, logits, self._spec, self._made)
        trajectory, answers = gather(
            self._spec,
            placed.hidden,
            placed.targets,
            None,
            placed.layout,
            classes=self._made.classes,
            in_place=self._made.in_place,
            context=False,
        )
        return Read(trajectory, answers, self._made.classes, self._words, self._spec)

    def head(self, states: Tensor) -> Tensor:
        """Log-probabilities [K, N, C] of states [K, N, H] of layers before the last.

        Raises:
            BadInput: for label words of several tokens, which no single state says.
        """
        if self._head is None:
            self._head = ModelHead(self._plm)
        logits: Tensor = self._head(states).float()
        if self._made.classes is None:
            return logits.log_softmax(-1)
        if is_classifier(self._plm):
            if isinstance(self._model, HeadClassifier):
                logits = logits[..., self._model.places]
            return logits.log_softmax(-1)
        assert self._words is not None
        if any(len(tokens) > 1 for words in self._words.tokens for tokens in words):
            raise BadInput(
                "label words of several tokens are said by no single state, so the head cannot be read "
                "for them at other layers: choose words of one token, or another regularizer"
            )
        scores: Tensor = self._words.score(logits.flatten(0, 1)).unflatten(0, logits.shape[:2])
        return scores.log_softmax(-1) if getattr(self._model, "among_labels", False) else scores


def view_of(
    model: nn.Module, plm: PreTrainedModel, terms: Sequence[Term], verbalizer: Verbalizer | None
) -> View | None:
    """For the regularizers among the terms that read something of a forward; None where none does."""
    if not any(not term.is_cost and term.reads_targets for term in terms):
        return None
    specs = [term.what.spec for term in terms if isinstance(term.what, RunningCost)]
    return View(model, plm, specs[0] if specs else ModelSpec.of(plm), verbalizer)
