"""A penalty on what noise on the words changes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bridges.model.spec import pretrained_model
from pets.regularizers.base import Objective, symmetric_kls
from pets.regularizers.noise import noisy_words
from pets.regularizers.passes import Pass


class R3F(Objective, name="r3f"):
    """Less representational collapse by noise: Aghajanyan et al., ICLR 2021, arXiv 2008.03156.

        L(x) + lambda KL_S(f(x), f(x + z)),  z ~ U(-sigma, sigma)

    f is the distribution over the classes, KL_S the sum of both directions, and z is on the word
    embeddings. With the paper's sigma of 1e-5 it would be a name for vanilla (on a six-layer MiniLM the
    penalty's gradient was 1e-9 of the loss's): sigma is the deviation of the embeddings' entries.
    """

    formula = "L(x) + lambda (KL(f(x) || f(x + z)) + KL(f(x + z) || f(x))),  z ~ U(-sigma, sigma)"
    purpose = "Time to spare, and a model without dropout."
    number, tried = "lambda", (0.1, 5.0)
    may_fall = True
    reads, twice = frozenset({"scores"}), True

    def attach(self, model: nn.Module) -> None:
        embeddings: Any = pretrained_model(model).get_input_embeddings()
        self._model = model
        self._sigma = embeddings.weight.detach().float().std().item()

    def term(self, seen: Pass) -> Tensor:
        with noisy_words(self._model, self._noise):
            noisy = seen.again()
        return seen.mean(symmetric_kls(seen.scores, noisy.scores))

    def _noise(self, words: Tensor) -> Tensor:
        return torch.empty_like(words).uniform_(-self._sigma, self._sigma)
