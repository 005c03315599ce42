"""What the labels of a model's head are to a running cost: its targets, and where they are read."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
)

from bridges import BadInput, LabelEnds, ModelSpec, RunningCost
from bridges.errors import shown
from bridges.model.positions import IGNORED
from bridges.processes.constants import state_of
from pets.tasks.verbalizer import Verbalizer

logger = logging.getLogger(__name__)

_SEQUENCE = frozenset(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values())
_TOKEN = frozenset(MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES.values())
_HOW = "give words: pets.regularize(model, cost, verbalizer=pets.Verbalizer.of_words(tokenizer, [...]))"


class TokenTargets:
    """A language model's labels [B, S]: every token is a target and ends at itself.

    Attributes:
        ends: of the labels, where they are no tokens, for a running cost.
        classes: how many labels there are; None where they are tokens.
        in_place: whether targets are read where they stand, not where they are predicted.
    """

    dimensions = 2
    in_place = False

    def __init__(self, ends: LabelEnds | None = None, classes: int | None = None) -> None:
        self.ends = ends
        self.classes = classes if ends is None else len(ends)
        self._elsewhere: dict[torch.device, tuple[object, LabelEnds]] = {}

    @property
    def reads_ids(self) -> bool:
        """Whether the input ids say where targets are."""
        return False

    def ends_on(self, device: torch.device) -> LabelEnds | None:
        """The end points on a device: the same ones while they are what they were."""
        ends = self.ends
        if ends is None or ends.vectors.device == device:
            return ends
        state, kept = state_of(ends), self._elsewhere.get(device)
        if state is None or kept is None or kept[0] != state:
            with torch.inference_mode(False):  # kept, and used in training later
                kept = self._elsewhere[device] = state, ends.to(device)
        return kept[1]

    def __call__(
        self, labels: Tensor, length: int, input_ids: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """Targets [B, S] of labels as the model takes them.

        Args:
            labels: [B, S'] or, of whole sequences, [B].
            length: S; more than S' behind a soft prompt.
            input_ids: what the encoder got, [B, *]; None where it got embeddings.
            mask: [B, S], 0 at padding; None for all attended.

        Raises:
            BadInput: for labels that are no tokens or classes of the expected shape.
        """
        if labels.dtype.is_floating_point or labels.dim() != self.dimensions:
            shape = "[B]" if self.dimensions == 1 else "[B, S]"
            raise BadInput(
                f"labels are {labels.dtype} of shape {tuple(labels.shape)}: expected whole numbers "
                f"{shape}, for a number or a set of classes has no end point"
                + (
                    f". Classes of sequences have none by themselves: {_HOW}"
                    if self.classes is None
                    else ""
                )
            )
        return self._targets(labels, length, input_ids, mask)

    def _targets(
        self, labels: Tensor, length: int, input_ids: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        return behind_prompt(labels, length)

    def check_head(self, targets: Tensor, logits: Any, last: Tensor) -> None:
        """Does the head read the last states [B, S, H] where the targets are? Looked at once."""


class MaskFirstTargets(TokenTargets):
    """Labels [B, S] of prompts that begin with [MASK], which a soft prompt is put behind."""

    def _targets(
        self, labels: Tensor, length: int, input_ids: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        return torch.cat([labels[:, :1], behind_prompt(labels[:, 1:], length - 1)], 1)


class WordTargets(TokenTargets):
    """A language model's labels [B, S], each of them a label's word that ends where any of them does.

    Raises:
        BadInput: for label words of several tokens.
    """

    def __init__(self, ends: LabelEnds | None, verbalizer: Verbalizer, vocabulary: int) -> None:
        super().__init__(ends, len(verbalizer))
        self._label_of = torch.full((vocabulary,), -1)
        for label, words in enumerate(verbalizer.tokens):
            for word, tokens in zip(verbalizer.words[label], words, strict=True):
                if len(tokens) > 1:
                    raise BadInput(
                        f"label word {word!r} is {len(tokens)} tokens, and a language model's targets "
                        "are single ones: choose another word, or leave the verbalizer out: every token "
                        "of a longer answer is a target of its own"
                    )
                self._label_of[tokens[0]] = label

    def _targets(
        self, labels: Tensor, length: int, input_ids: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        self._label_of = self._label_of.to(labels.device)
        known = (labels >= 0) & (labels < len(self._label_of))
        targets = self._label_of[labels.where(known, 0)].where(known, -1)
        targets = targets.where(labels != IGNORED, IGNORED)
        if (targets == -1).any():
            raise BadInput(
                f"target token {int(labels[targets == -1][0])} is none of the verbalizer's words: set "
                "other labels to -100, or leave the verbalizer out, and every token ends at itself"
            )
        return behind_prompt(targets, length)


class PlacedTargets(TokenTargets):
    """The classes of tokens [B, S], in their place."""

    in_place = True


class SequenceTargets(TokenTargets):
    """The classes of sequences [B], where the head reads the sequence."""

    dimensions = 1
    in_place = True

    def __init__(
        self, ends: LabelEnds | None, classes: int, plm: PreTrainedModel, *, causal: bool
    ) -> None:
        super().__init__(ends, classes)
        self._plm, self._causal, self._checked = plm, causal, False

    @property
    def reads_ids(self) -> bool:
        return self._causal or bool(self._plm.config.is_encoder_decoder)

    def _targets(
        self, labels: Tensor, length: int, input_ids: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        columns = self._pooled(labels, length, input_ids)
        if mask is not None and not mask.gather(1, columns[:, None]).all():
            place, side = ("last", "left") if self._causal else ("first", "right")
            raise BadInput(
                f"the head of {type(self._plm).__name__} reads padding: it takes the {place} position "
                f"here, so pad on the {side} (tokenizer.padding_side = '{side}')"
            )
        targets = labels.new_full((len(labels), length), IGNORED)
        return targets.scatter(1, columns[:, None], labels[:, None])

    def _pooled(self, labels: Tensor, length: int, input_ids: Tensor | None) -> Tensor:
        """The position [B] that the head reads, found as transformers finds it."""
        config: Any = self._plm.config.get_text_config()
        if self._plm.config.is_encoder_decoder:
            if input_ids is None:
                raise BadInput("an encoder-decoder classifier finds the end by input_ids: pass them")
            return _last(input_ids == config.eos_token_id)
        if not self._causal:
            return torch.zeros_like(labels)
        if input_ids is None or config.pad_token_id is None:
            return torch.full_like(labels, length - 1)
        return _last(input_ids != config.pad_token_id) + length - input_ids.shape[1]

    def check_head(self, targets: Tensor, logits: Any, last: Tensor) -> None:
        """Once: the gradient of the logits says which states they were made from.

        Raises:
            BadInput: if it was others, such as the mean of all.
        """
        if self._checked or torch.compiler.is_compiling():
            return
        if not (isinstance(logits, Tensor) and logits.requires_grad and last.requires_grad):
            return
        self._checked = True
        with torch.enable_grad():  # what has weight 0 looks at a forward in training without
            total = logits.float().sum()
        (grad,) = torch.autograd.grad(total, last, retain_graph=True, allow_unused=True)
        if grad is None:
            raise BadInput(
                f"which state the head of {type(self._plm).__name__} reads cannot be seen: its logits "
                "are made from none that it returns, so where a running cost should read cannot be told"
            )
        read = grad.abs().sum(-1) > 0
        if not torch.equal(read, (targets != IGNORED).to(read.device)):
            raise BadInput(
                f"the head of {type(self._plm).__name__} reads positions "
                f"{read[0].nonzero().flatten().tolist()} of the first sequence, and a running cost "
                f"{(targets[0] != IGNORED).nonzero().flatten().tolist()}: choose the pooling of one "
                "position in the model's config, such as classifier_pooling='cls'"
            )


def label_targets(
    model: nn.Module,
    plm: PreTrainedModel,
    spec: ModelSpec,
    verbalizer: Verbalizer | None,
    cost: RunningCost | None = None,
) -> TokenTargets:
    """How the labels of a model become targets.

    Args:
        model, plm: it, and the language model inside.
        spec: of that.
        verbalizer: words of the labels.
        cost: for which they end somewhere; without one a classifier's classes need no words.

    Raises:
        BadInput: for a verbalizer that is none, a classifier without one or with one for another number
            of classes, or a language model with label words of several tokens.
    """
    of_model = getattr(model, "verbalizer", None)  # whose labels are classes then
    if verbalizer is not None and not isinstance(verbalizer, Verbalizer):
        raise BadInput(f"verbalizer={shown(verbalizer)}: expected a pets.Verbalizer; {_HOW}")
    verbalizer = verbalizer or of_model
    kind, ends = type(plm).__name__, None
    classifies = is_classifier(plm)
    if verbalizer is None and classifies and cost is not None:
        raise BadInput(f"the labels of a {kind} are classes, which have no end points: {_HOW}")
    if verbalizer is None and not classifies:
        return TokenTargets()
    if verbalizer is not None:
        if cost is not None:
            ends = verbalizer.ends(cost)
            if cost.bridge.contrasts and len(ends) == 1:
                logger.warning(
                    "the cost %r tells a label from others, and the verbalizer has one label: it will "
                    "be 0",
                    cost.bridge.registered_name,
                )
        if classifies and len(verbalizer) != plm.config.num_labels:
            raise BadInput(
                f"the verbalizer has {len(verbalizer)} labels ({', '.join(verbalizer.labels)}) and the "
                f"{kind} {plm.config.num_labels} classes: give words for each class, in their order"
            )
    classes = plm.config.num_labels if verbalizer is None else len(verbalizer)
    if kind in _TOKEN:
        return PlacedTargets(ends, classes)
    if classifies or plm.get_output_embeddings() is None:
        return SequenceTargets(ends, classes, plm, causal=spec.causal)
    if of_model is not None:
        first = getattr(model, "mask_first", False)
        return (MaskFirstTargets if first else TokenTargets)(ends, classes)
    assert verbalizer is not None
    return WordTargets(ends, verbalizer, spec.vocab_size)


def is_classifier(plm: PreTrainedModel) -> bool:
    """Whether its labels are classes, of sequences or of tokens, by a head of its own."""
    return type(plm).__name__ in _SEQUENCE | _TOKEN


def behind_prompt(labels: Tensor, length: int) -> Tensor:
    """Labels [B, S'] for a sequence that a soft prompt has lengthened; its positions are no targets."""
    longer = length - labels.shape[1]
    return F.pad(labels, (longer, 0), value=IGNORED) if longer > 0 else labels


def _last(true: Tensor) -> Tensor:
    """The last true position [B] of each row [B, S]; 0 where there is none."""
    return (torch.arange(true.shape[1], device=true.device) * true).argmax(1)
