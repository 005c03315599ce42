"""Stand-ins for a CUDA graph where there is no GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

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


class Traced(StandIn):
    """As a graph is: tensors are read where they lay, and what Python decided stays decided."""

    def __init__(
        self, function: Any, inputs: Sequence[Tensor], others: Sequence[Tensor], turns: Any
    ) -> None:
        super().__init__(function, inputs, others, turns)
        self._run()  # makes what is made once
        given = [*self._inputs, *self._others]

        def run(*tensors: Tensor) -> list[Tensor]:
            count = len(self._inputs)
            self._inputs, self._others = list(tensors[:count]), list(tensors[count:])
            return self._run()

        self._traced = make_fx(run)(*given)

    def replay(self, inputs: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            found = self._traced(*(x.detach() for x in inputs), *others)
        return [x.clone() for x in found]
