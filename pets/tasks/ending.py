"""The token that ends a written answer: the end of the sequence, if the model can say that one."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from bridges.model.spec import pretrained_model
from pets.tasks.prompts import plain_token_ids

_log = logging.getLogger(__name__)
_ROWS = 4096  # looked at together
_ALIKE = 1e-3  # relative distance of two tokens' rows in the head


def end_token(model: nn.Module, tokenizer: Any) -> int | None:
    """What an answer is trained to end with, and what ends it where it is written.

    The tokenizer's end of a sequence. A model that was never shown one (documents are told apart by
    their beginnings in some) has the same row in its head for it and for all tokens that never occur: no
    PET that leaves the head alone can teach it to say that one. There it is the end of a line.

    Args:
        model: a language model.
        tokenizer: of it.

    Returns:
        None where there is neither.
    """
    end: int | None = tokenizer.eos_token_id
    head: Any = pretrained_model(model).get_output_embeddings()
    weight = getattr(head, "weight", None)
    if end is None or weight is None or weight.is_meta or weight.dim() != 2 or end >= len(weight):
        return end
    own = weight[end].detach().float()
    parts = weight.detach().split(_ROWS)  # a float copy of a large head would be gigabytes
    apart = torch.cat([(part.float() - own).norm(dim=1) for part in parts])
    apart[end] = torch.inf
    if apart.min() > _ALIKE * own.norm():
        return end
    alone, ended = plain_token_ids(tokenizer, ["a", "a\n"])
    if len(ended) != len(alone) + 1:
        return end
    _log.info(
        "the head has the same numbers for %s as for other tokens, so answers end with a line",
        tokenizer.eos_token,
    )
    return ended[-1]
