"""A sequence classifier that answers with classes of its own."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bridges.errors import BadInput
from bridges.model.spec import pretrained_model
from pets.tasks.answering import Answering, PromptOutput, Rows
from pets.tasks.prompts import collate_inputs, padded
from pets.tasks.verbalizer import Verbalizer


class HeadClassifier(Answering):
    """A sequence classifier whose classes are the task's, in the order that `places` finds.

    Args:
        model: with a head of C classes, plain or with a PET.
        verbalizer: words of the labels, at which a running cost's trajectories end.
        pad_id: the tokenizer's padding token, for a model whose config has none.

    Raises:
        BadInput: if the model has another number of classes.
    """

    verbalizer: Verbalizer

    def __init__(self, model: nn.Module, verbalizer: Verbalizer, *, pad_id: int = 0) -> None:
        super().__init__(model, verbalizer)
        plm: Any = pretrained_model(model)
        self._config, self._padded = plm.config, plm.config.pad_token_id
        self.places = places(plm, verbalizer)
        # By it the heads of causal models tell where a text ends; without one they refuse batches.
        if plm.config.pad_token_id is None:
            plm.config.pad_token_id = pad_id
        self.pad_id = int(plm.config.pad_token_id)
        self._attended: Tensor | None = None
        head = getattr(plm, "score", None)  # of causal ones
        self._hook = head.register_forward_pre_hook(self._at_end) if head is not None else None

    def remove(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._config.pad_token_id = self._padded

    def collate(self, rows: Rows) -> dict[str, Tensor]:
        """ "input_ids", "attention_mask" and, of pairs, "token_type_ids" [B, S], and "labels" [B]."""
        batch = collate_inputs([row.input_ids for row, _ in rows], self.pad_id)
        batch["labels"] = torch.tensor([label for _, label in rows])
        if any(row.types for row, _ in rows):
            types = [row.types or [0] * len(row.input_ids) for row, _ in rows]
            batch["token_type_ids"] = padded(types, 0)
        return batch

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **types: Tensor
    ) -> PromptOutput:
        """Loss and log-probabilities [B, C] of texts [B, S] with classes [B]."""
        self._attended = attention_mask
        try:
            logits = self.model(input_ids=input_ids, attention_mask=attention_mask, **types).logits
        finally:
            self._attended = None
        scores = logits[:, self.places].float().log_softmax(1)
        return PromptOutput(loss=F.nll_loss(scores, labels), logits=scores)

    def _at_end(self, head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Behind a soft prompt transformers sees no padding and takes the last state, a pad's or not."""
        states, mask = args[0], self._attended
        if mask is None or states.dim() != 3 or states.shape[1] <= mask.shape[1]:
            return None
        last = states.shape[1] - 1 - (mask.shape[1] - mask.sum(1))
        return states[torch.arange(len(states), device=states.device), last][:, None], *args[1:]


def places(plm: Any, verbalizer: Verbalizer) -> list[int]:
    """Where the C classes of a task stand in a model's head.

    A head that was trained has names for its classes in the model's config. Where these are the task's
    labels, or their first words, in whatever case, they say it; else a head has the task's order.

    Raises:
        BadInput: if the head has another number of classes.
    """
    if plm.config.num_labels != len(verbalizer):
        raise BadInput(
            f"{type(plm).__name__} tells {plm.config.num_labels} classes and the task has "
            f"{len(verbalizer)} ({', '.join(verbalizer.labels)}): give a model for these, or a "
            "language model, which says the label words"
        )
    names = [_plain(plm.config.id2label.get(k, "")) for k in range(plm.config.num_labels)]
    for known in (verbalizer.labels, [words[0] for words in verbalizer.words]):
        wanted = [_plain(name) for name in known]
        if sorted(wanted) == sorted(names) and len(set(names)) == len(names):
            return [names.index(name) for name in wanted]
    return list(range(len(verbalizer)))


def _plain(name: Any) -> str:
    return re.sub(r"[\W_]+", " ", str(name)).strip().casefold()
