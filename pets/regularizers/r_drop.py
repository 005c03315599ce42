"""A penalty on what dropout changes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from pets.regularizers.base import Objective, symmetric_kls
from pets.regularizers.noise import ModelDropout
from pets.regularizers.passes import Pass


class RDrop(Objective, name="r-drop"):
    """Regularized dropout: Liang et al., NeurIPS 2021, arXiv 2106.14448.

        (L_1 + L_2) / 2 + alpha / 2 (KL(f_1, f_2) + KL(f_2, f_1))

    Losses and distributions over the classes of two passes with dropout masks of their own. Each dropout
    has the probability that the model brings along, or all have 0.1 where it brings none.
    """

    formula = "(L_1 + L_2) / 2 + alpha / 2 (KL(f_1 || f_2) + KL(f_2 || f_1))"
    purpose = "Time to spare for a second forward."
    number, tried = "alpha", (0.1, 5.0)
    may_fall = True
    reads, twice = frozenset({"scores"}), True

    def attach(self, model: nn.Module) -> None:
        self._dropout = ModelDropout(model)

    def detach(self) -> None:
        self._dropout.restore()

    def around(self, inputs: Mapping[str, Any]) -> AbstractContextManager[None]:
        return self._dropout.active(None if self._dropout.probability > 0 else 0.1)

    def loss(self, seen: Pass) -> Tensor:
        return (seen.loss + seen.second.loss) / 2

    def term(self, seen: Pass) -> Tensor:
        return seen.mean(symmetric_kls(seen.scores, seen.second.scores)) / 2
