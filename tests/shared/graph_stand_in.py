"""A stand-in for a CUDA graph where there is no GPU: it runs where a graph would be replayed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kernels.capture import Program


class StandIn(Program):
    """Runs the function where a graph would be replayed, on copies as a graph does."""

    def __init__(
        self, function: Any, inputs: Sequence[Tensor], others: Sequence[Tensor], turns: Any
    ) -> None:
        self.function, self.used, self.draws = function, 0, True
        self.size = 2 * sum(x.nbytes for x in inputs)
        self.wanted = tuple(x.requires_grad for x in inputs)
        self._inputs = [x.detach().clone() for x in inputs]
        self._others = [x.clone() for x in others]

    def replay(self, inputs: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
        self._set([x.detach() for x in inputs], others)
        return [x.clone() for x in self._run()]
