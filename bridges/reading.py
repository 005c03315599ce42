"""Where in a sequence a target is read, and what of the sequence is its context."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bridges.errors import BadInput
from bridges.model_spec import ModelSpec
from bridges.text import IGNORED


@dataclass(frozen=True)
class Reading:
    """The targets of a batch.

    Attributes:
        rows, columns: int64 [N], the positions whose states are the trajectories.
        targets: int64 [N], tokens or labels.
        context: bool [B, S], the positions whose mean state is the context of a sequence.
    """

    rows: Tensor
    columns: Tensor
    targets: Tensor
    context: Tensor


def read(
    spec: ModelSpec,
    targets: Tensor,
    attention_mask: Tensor | None,
    *,
    classes: int | None = None,
    in_place: bool = False,
) -> Reading:
    """Find the targets [B, S] of a batch; see `RunningCost.forward` for where they are read.

    Args:
        spec: of the model.
        targets: token ids, or labels, -100 where there is none.
        attention_mask: [B, S], 0 at padding; default all attended.
        classes: how many labels there are; None for tokens of the vocabulary.
        in_place: read at their own positions, with all that is attended as context, in any model.

    Raises:
        BadInput: for a mask of another shape, no target at all, a target at a position that is not
            attended, or one out of range.
    """
    if attention_mask is None:
        mask = torch.ones_like(targets, dtype=torch.bool)
    elif attention_mask.shape != targets.shape:
        raise BadInput(
            f"attention_mask {tuple(attention_mask.shape)} and targets {tuple(targets.shape)} "
            "must have the same shape [B, S]"
        )
    else:
        mask = attention_mask.bool()
    shifted = spec.causal and not in_place
    is_target = targets != IGNORED
    if shifted:
        is_target[:, 0] = False  # nothing comes before the first token to predict it
    lost = (is_target & ~mask).sum()
    if shifted:  # nor before the first attended one, when the padding is on the left
        is_target[:, 1:] &= mask[:, :-1]
    rows, columns = is_target.nonzero(as_tuple=True)
    found = targets[rows, columns]
    # One look for everything: each would make a CUDA device wait for the whole forward pass.
    ends = [found.min(), found.max()] if len(rows) else [lost, lost]
    missing, low, high = torch.stack([lost, *ends]).tolist()
    if missing:
        raise BadInput(
            f"{missing} targets are at positions that the attention mask leaves out: set their "
            "labels to -100 or attend to them"
        )
    if not len(rows):
        raise BadInput("the batch has no target: every label is -100")
    count = spec.vocab_size if classes is None else classes
    if low < 0 or high >= count:
        kind = "token ids" if classes is None else "labels"
        raise BadInput(f"targets from {low} to {high}: expected {kind} from 0 to {count - 1}, or -100")
    if shifted:
        columns = columns - 1
        mask = mask & (is_target.cumsum(1) == 0)
    elif spec.decodes and not in_place:
        mask = mask & (is_target.cumsum(1) - is_target.long() == 0)
    return Reading(rows, columns, found, mask)
