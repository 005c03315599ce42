"""Noise on the word embeddings."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from pets.regularizers.base import Loss, Objective
from pets.regularizers.noise import noisy_words
from pets.tasks.answering import Answering


class NEFTune(Objective, name="neftune"):
    r"""Noisy embedding fine-tuning: Jain et al., ICLR 2024, arXiv 2310.05914.

    .. math:: L(x + z), \quad z \sim \frac{\alpha}{\sqrt{S E}} U(-1, 1)

    On the word embeddings, E wide, of each text of S tokens. S counts attended tokens, so that a
    text's noise does not depend on what it is batched with (transformers' hook counts padding too).
    """

    number, tried = "alpha", (1.0, 25.0)
    may_fall = True

    def on(self, classifier: Answering) -> Loss:
        def loss(**batch: Tensor) -> Tensor:
            length = batch["attention_mask"].sum(1)[:, None, None]
            with noisy_words(classifier.model, partial(_noise, alpha=self.weight, length=length)):
                plain: Tensor = classifier(**batch).loss
            return plain

        return loss


def _noise(words: Tensor, *, alpha: float, length: Tensor) -> Tensor:
    """For word embeddings [B, S', E] of texts of ``length`` [B, 1, 1] tokens."""
    scale = alpha / (length * words.shape[-1]).to(words.dtype).sqrt()
    return scale * torch.empty_like(words).uniform_(-1, 1)
