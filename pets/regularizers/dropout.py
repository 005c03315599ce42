"""Dropout in the frozen model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from pets.regularizers.base import Objective
from pets.regularizers.noise import ModelDropout


class Dropout(Objective, name="dropout"):
    """Dropout in the frozen model: Srivastava et al., JMLR 15, 2014.

        L(x m / (1 - p)),  m ~ Bernoulli(1 - p), drawn for each entry

    With probability p wherever the model has dropout: in BERT after the embeddings, in attention and
    after both parts of a layer. The published protocol has it off.
    """

    formula = "L(x m / (1 - p)),  m ~ Bernoulli(1 - p)"
    purpose = "A first thing to try; the frozen model's own is off in `tune`."
    number, tried, limit = "probability", (0.05, 0.5), 1.0
    may_fall = True

    def attach(self, model: nn.Module) -> None:
        self._dropout = ModelDropout(model)

    def detach(self) -> None:
        self._dropout.restore()

    def around(self, inputs: Mapping[str, Any]) -> AbstractContextManager[None]:
        return self._dropout.active(self.weight)
