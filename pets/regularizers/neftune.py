"""Noise on the word embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pets.regularizers.base import Objective
from pets.regularizers.noise import noisy_words


class NEFTune(Objective, name="neftune"):
    """Noisy embedding fine-tuning: Jain et al., ICLR 2024, arXiv 2310.05914.

        L(x + z),  z ~ alpha / sqrt(S E) U(-1, 1)

    On the word embeddings, E wide, of each text of S tokens. S counts attended tokens, so that a
    text's noise does not depend on what it is batched with (transformers' hook counts padding too).
    """

    formula = "L(x + z),  z ~ alpha / sqrt(S E) U(-1, 1)"
    purpose = "Instruction tuning of causal models."
    number, tried = "alpha", (1.0, 25.0)
    may_fall = True

    def attach(self, model: nn.Module) -> None:
        self._model = model

    def around(self, inputs: Mapping[str, Any]) -> AbstractContextManager[None]:
        mask = inputs.get("attention_mask")
        if not isinstance(mask, Tensor) or mask.dim() != 2:  # all of it is attended to
            return noisy_words(self._model, partial(_noise, alpha=self.weight, length=None))
        length = mask.sum(1)[:, None, None]
        return noisy_words(self._model, partial(_noise, alpha=self.weight, length=length))


def _noise(words: Tensor, *, alpha: float, length: Tensor | None) -> Tensor:
    """For word embeddings [B, S', E] of texts of ``length`` [B, 1, 1] tokens."""
    if length is None:
        length = torch.tensor(words.shape[1], device=words.device)
    scale = alpha / (length * words.shape[-1]).to(words.dtype).sqrt()
    return scale * torch.empty_like(words).uniform_(-1, 1)
