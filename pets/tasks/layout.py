"""The published layout [MASK], soft prompt, [CLS] text [SEP], where a model embeds its input."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from bridges.errors import BadInput
from bridges.model.positions import first_position
from bridges.model.spec import encoder_of, pretrained_model


class MaskFirst:
    """Puts a soft prompt behind [MASK], and gives both the published positions and token types.

    In the code of arXiv 2305.17670 the text with its special tokens has the positions 0, 1, ..., and
    [MASK] and the soft prompt, which stand before it, those that follow its last token: to a model with
    absolute positions they stand at the end of the text. Their token type is 1, the text's 0. peft puts
    a soft prompt before all; it is moved where the model adds positions and types to the words, so that
    whatever else the model is told (its attention mask) is the same either way.

    A model that has no token types, or counts positions in its attention, takes what it takes.

    Args:
        model: a masked LM, plain or with a PET.

    Raises:
        BadInput: for a model without a module that embeds its input.
    """

    def __init__(self, model: nn.Module) -> None:
        plm = pretrained_model(model)
        embeddings = getattr(encoder_of(plm), "embeddings", None)
        forward = getattr(embeddings, "forward", None)
        self._names = [] if forward is None else list(inspect.signature(forward).parameters)
        if not isinstance(embeddings, nn.Module) or "inputs_embeds" not in self._names:
            raise BadInput(
                f"how {type(plm).__name__} embeds its input is not known, so [MASK] and a soft prompt "
                "cannot be placed as published: choose a model like BERT, or protocol='ours'"
            )
        self._first = first_position(plm.config)
        self._types = int(getattr(plm.config, "type_vocab_size", 0) or 0)
        self._attended: Tensor | None = None
        self._hook = embeddings.register_forward_pre_hook(self._place, with_kwargs=True)

    def read(self, attention_mask: Tensor | None) -> None:
        """The next forwards are of prompts with this mask [B, S], [MASK] in front; None: of anything."""
        self._attended = attention_mask

    def remove(self) -> None:
        """Give the model back as it was."""
        self._hook.remove()

    def _place(
        self, embeddings: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._attended is None:
            return None
        told = dict(zip(self._names, args, strict=False)) | kwargs
        words = told.get("inputs_embeds")
        soft = 0
        if words is not None:  # [soft prompt] [MASK] [CLS] text [SEP]
            soft = words.shape[1] - self._attended.shape[1]
            order = [soft, *range(soft), *range(soft + 1, words.shape[1])]
            told["inputs_embeds"] = words[:, order]
        if "position_ids" in self._names:
            # A prefix has the positions before all others.
            before = self._first + int(told.get("past_key_values_length") or 0)
            told["position_ids"] = before + self._positions(soft)
        if "token_type_ids" in self._names and self._types > 1:
            types = torch.zeros_like(self._positions(soft))
            types[:, : soft + 1] = 1
            told["token_type_ids"] = types
        return (), told

    def _positions(self, soft: int) -> Tensor:
        """[B, soft + S], from 0: [MASK] and the soft prompt have those behind the text's."""
        assert self._attended is not None
        mask = self._attended
        length = mask.sum(1, keepdim=True).long() - 1  # of the text
        front = torch.arange(soft + 1, device=mask.device) + length
        text = torch.arange(mask.shape[1] - 1, device=mask.device).expand(len(mask), -1)
        return torch.cat([front, text], 1)
