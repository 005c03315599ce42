"""Where in a batch the label is told, with labels or without, and which label that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bridges import BadInput, ModelSpec
from bridges.errors import shown
from bridges.model.positions import IGNORED
from bridges.model.spec import pretrained_model
from pets.plug.labels import SequenceTargets, WordTargets, is_classifier, label_targets
from pets.tasks.answering import Answering
from pets.tasks.verbalizer import Verbalizer

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

Columns = Callable[[int], Tensor]
"""Of states [B, S, H], given S: which position [B] tells each row's label."""


class Places:
    """Of a masked LM the mask, of a causal one the last attended token, of a classifier where it reads.

    Args:
        model: plain or with a PET.
        spec: of it.
        verbalizer: words of the C labels.

    Raises:
        BadInput: for no verbalizer or one that does not fit, see `pets.regularize`, or for a model that
            tells a label at every token.
    """

    def __init__(self, model: nn.Module, spec: ModelSpec, verbalizer: Verbalizer | None) -> None:
        plm: Any = pretrained_model(model)
        if any(isinstance(part, Answering) for part in model.modules()):
            raise BadInput(
                f"{type(model).__name__} asks a task of a language model: give the model inside, "
                "classifier.model, and batches of its own inputs"
            )
        if not isinstance(verbalizer, Verbalizer):
            raise BadInput(
                f"verbalizer={shown(verbalizer)}: expected the words of the labels, which have no end "
                "points without: pets.Verbalizer.of_words(tokenizer, [...])"
            )
        self.verbalizer, self.reads_head = verbalizer, is_classifier(plm)
        self._name, self._causal = type(plm).__name__, spec.causal and not self.reads_head
        if not self.reads_head:
            long = [
                w
                for c, ids in enumerate(verbalizer.tokens)
                for w, t in zip(verbalizer.words[c], ids, strict=True)
                if len(t) > 1
            ]
            if long:
                raise BadInput(
                    f"label word {shown(long[0])} is several tokens, and the label is told at one "
                    "position: choose words of one token"
                )
        if len(verbalizer) < 2:
            raise BadInput(f"the verbalizer has one label, {verbalizer.labels[0]}: expected two or more")
        if self.reads_head and plm.config.problem_type == "multi_label_classification":
            raise BadInput(
                f"{self._name} tells several labels at once (problem_type): expected one label for a row"
            )
        self._targets = label_targets(model, plm, spec, verbalizer)
        if self.reads_head and not isinstance(self._targets, SequenceTargets):
            raise BadInput(f"{self._name} tells a label at every token: expected one label for a row")
        if not self.reads_head and not isinstance(self._targets, WordTargets):
            raise BadInput(f"{self._name} has no vocabulary head, and no classes of sequences")
        if not self.reads_head and not self._causal and verbalizer.mask_token is None:
            raise BadInput(
                f"{self._name} tells the label at a mask, and the verbalizer knows of none: make it "
                "with Verbalizer.of_words and the model's own tokenizer"
            )

    def of(self, inputs: Mapping[str, Any]) -> Columns:
        """Where a batch's labels are told.

        Raises:
            BadInput: for inputs that do not say it.
        """
        ids = inputs.get("input_ids")
        if not isinstance(ids, Tensor) or ids.dim() != 2:
            raise BadInput(
                f"input_ids={shown(ids)}: expected token ids [B, S], by which the label's place is found"
            )
        if not len(ids):
            raise BadInput(f"input_ids of shape {tuple(ids.shape)}: expected one row or more")
        mask = inputs.get("attention_mask")
        if mask is not None and (not isinstance(mask, Tensor) or mask.shape != ids.shape):
            has = tuple(mask.shape) if isinstance(mask, Tensor) else shown(mask)
            raise BadInput(f"attention_mask {has}: expected {tuple(ids.shape)}, as input_ids")
        if self.reads_head:
            return lambda length: self._read_by_head(inputs, length)
        labels, length = inputs.get("labels"), ids.shape[1]
        if isinstance(labels, Tensor) and labels.dim() == 2:
            self._check_rows(labels, ids)
            places = self._one(labels.ne(IGNORED), "labels that are not -100") - int(self._causal)
            if (places < 0).any():
                raise BadInput("a row's label is its first token, which nothing before it tells")
        elif self._causal:
            attended = torch.ones_like(ids) if mask is None else mask
            positions = torch.arange(length, device=ids.device)
            places = torch.where(attended.bool(), positions, -1).amax(1)
            if (places < 0).any():
                raise BadInput("a row of attention_mask is all 0: expected a prompt in every row")
        else:
            places = self._one(ids.eq(self.verbalizer.mask_token or 0), "mask tokens")
        return lambda states: places + (states - length)  # behind a soft prompt

    def answers(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """Class indices [B] of a batch's labels: given so, or, in a language model, as tokens [B, S].

        Raises:
            BadInput: for labels that are neither.
        """
        labels = inputs.get("labels")
        if labels is None:
            return None
        if not isinstance(labels, Tensor) or labels.dtype not in _WHOLE or labels.dim() not in (1, 2):
            raise BadInput(f"labels={shown(labels)}: expected class indices [B]")
        self._check_rows(labels, inputs["input_ids"])
        if labels.dim() == 2:
            if self.reads_head:
                raise BadInput(f"labels of shape {tuple(labels.shape)}: expected class indices [B]")
            at = self._one(labels.ne(IGNORED), "labels that are not -100")
            tokens = self._targets(labels.long(), labels.shape[1], inputs.get("input_ids"), None)
            return tokens.gather(1, at[:, None])[:, 0]
        count = len(self.verbalizer)
        if len(labels) and not ((labels >= 0) & (labels < count)).all():
            raise BadInput(
                f"labels from {int(labels.min())} to {int(labels.max())}: expected class indices from 0 "
                f"to {count - 1}"
            )
        return labels.long()

    def _check_rows(self, labels: Tensor, ids: Tensor) -> None:
        if labels.shape != ids.shape[: labels.dim()]:
            raise BadInput(
                f"labels of shape {tuple(labels.shape)} for input_ids of {tuple(ids.shape)}: expected "
                "one for each row, or for each token"
            )

    def _read_by_head(self, inputs: Mapping[str, Any], length: int) -> Tensor:
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        soft = length - ids.shape[1]
        if mask is not None and soft:
            mask = torch.cat([mask.new_ones(len(mask), soft), mask], 1)
        none = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        targets = self._targets(none, length, None if soft else ids, mask)
        return (targets != IGNORED).long().argmax(1)

    def _one(self, at: Tensor, what: str) -> Tensor:
        """The column of each row's only True."""
        numbers = at.sum(1)
        if not (numbers == 1).all():
            wrong = int(numbers[numbers != 1][0])
            raise BadInput(f"a row has {wrong} {what}: {self._name} is read at one place in each row")
        return at.long().argmax(1)
