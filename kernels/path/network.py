"""The network that drives a path, and a path that it has driven."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class PathNetwork:
    """The part of the drift network that depends on y.

    Attributes:
        inputs: [T+1, N, h_1], the first layer's value at every node without y's part.
        path_weight: [h_1, d], the first layer's weight on y.
        weights, biases: of the layers after it; the activation before each is SiLU.
    """

    inputs: Tensor
    path_weight: Tensor
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]

    def widths(self) -> list[int]:
        """Of the value of every layer; the last is d."""
        return [len(self.path_weight), *(len(bias) for bias in self.biases)]

    def evaluate(self, y: Tensor, node: int | slice, values: Sequence[Tensor]) -> None:
        """Write every layer's value at y [rows, d] into ``values`` [rows, width]; the last is p."""
        inputs = self.inputs[node].reshape(len(y), self.inputs.shape[-1])
        torch.addmm(inputs, y, self.path_weight.T, out=values[0])
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            torch.addmm(bias, F.silu(values[i]), weight.T, out=values[i + 1])

    def transposed(self, grad: Tensor, values: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Gradients of every layer's value, first layer first, and of y, from that of p."""
        grads = [grad]
        for weight, value in zip(reversed(self.weights), reversed(values[:-1]), strict=True):
            grads.append(torch.ops.aten.silu_backward(grads[-1] @ weight, value))
        return grads[::-1], grads[-1] @ self.path_weight


@dataclass(frozen=True)
class Solution:
    """y [T+1, N, d] and every layer's value there [T+1, N, width], the last of which is p."""

    y: Tensor
    values: list[Tensor]
