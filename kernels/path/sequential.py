"""The sequential solver in PyTorch: the network once at each node, node after node."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.path.network import PathNetwork, Solution


def solve_sequential(net: PathNetwork, forcing: Tensor, decay: Tensor, gain: Tensor) -> Solution:
    """One node after the other."""
    steps, tokens, dim = forcing.shape
    y = forcing.new_zeros(steps + 1, tokens, dim)
    values = [forcing.new_empty(steps + 1, tokens, width) for width in net.widths()]
    for j in range(steps + 1):
        net.evaluate(y[j], j, [value[j] for value in values])
        if j < steps:
            y[j + 1] = decay[j] * y[j] + gain[j] * values[-1][j] + forcing[j]
    return Solution(y, values)


def adjoint_sequential(
    net: PathNetwork, solution: Solution, grad_y: Tensor, grad_p: Tensor, decay: Tensor, gain: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Total gradients of y [T+1, N, d] and of every layer's value, one node after the other."""
    total = grad_y.clone()
    layers = [torch.empty_like(value) for value in solution.values]
    for j in reversed(range(len(grad_y))):
        grad = grad_p[j]
        if j + 1 < len(grad_y):
            grad = grad + gain[j] * total[j + 1]
            total[j] += decay[j] * total[j + 1]
        at_node, of_y = net.transposed(grad, [value[j] for value in solution.values])
        total[j] += of_y
        for whole, part in zip(layers, at_node, strict=True):
            whole[j] = part
    return total, layers
