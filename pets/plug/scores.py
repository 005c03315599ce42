"""What a model's head says at its targets, as log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bridges.errors import BadInput
from bridges.model.positions import IGNORED
from pets.plug.labels import behind_prompt
from pets.tasks.answering import PromptOutput


def target_scores(output: Any, given: Mapping[str, Any], *, shifted: bool, who: str) -> Tensor:
    """Log-probabilities [N, C] at the N targets of a forward.

    Args:
        output: of the model.
        given: what it was called with, by name; labels among it.
        shifted: whether position s predicts token s + 1.
        who: the model, for messages.

    Raises:
        BadInput: for a model that returns no scores of classes or tokens, or labels that are none.
    """
    logits = getattr(output, "logits", None)
    if isinstance(output, PromptOutput) and isinstance(logits, Tensor):
        return logits  # of its targets alone
    if not isinstance(logits, Tensor):
        raise BadInput(
            f"{who} returned no .logits, which a regularizer of its answers compares: leave out what "
            "makes the loss without them (a fused or chunked loss)"
        )
    labels, ahead = given["labels"].to(logits.device), given.get("shift_labels")
    if labels.is_floating_point() or logits.shape[-1] < 2 or logits.dim() != labels.dim() + 1:
        raise BadInput(
            f"the labels of {who} are {labels.dtype} {tuple(labels.shape)} for logits "
            f"{tuple(logits.shape)}: a regularizer of its answers needs one class, or token, of each"
        )
    if labels.dim() == 2:
        length = logits.shape[1]
        if shifted and ahead is not None:
            labels = behind_prompt(ahead.to(logits.device), length)
        else:
            labels = behind_prompt(labels, length)
            if shifted:
                logits, labels = logits[:, :-1], labels[:, 1:]
        if labels.shape[1] != logits.shape[1]:
            raise BadInput(
                f"{who} returned logits {tuple(logits.shape)} for labels {tuple(labels.shape)}: a "
                "regularizer of its answers needs them at every position (leave out logits_to_keep)"
            )
    return logits[labels != IGNORED].float().log_softmax(-1)
