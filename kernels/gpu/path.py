"""The sequential path solver on Triton kernels: one launch for all steps, one for all of the adjoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from kernels.gpu import launch as triton_launch
from kernels.gpu.path_kernels import path_backward_kernel, path_kernel
from kernels.path import sequential as path_sequential
from kernels.path.network import PathNetwork, Solution

MAX_DEPTH = 3
"""Layers after the first that the kernels have arguments for; deeper networks are solved by PyTorch."""

_TOKENS = 16
"""Tokens of a program, the fewest a product takes: the more programs, the more of the GPU works."""


def solve_sequential(net: PathNetwork, forcing: Tensor, decay: Tensor, gain: Tensor) -> Solution:
    """See `kernels.path.sequential.solve_sequential`; one launch."""
    widths = net.widths()
    if len(widths) - 1 > MAX_DEPTH:
        return path_sequential.solve_sequential(net, forcing, decay, gain)
    steps, tokens, dim = forcing.shape
    y = forcing.new_zeros(steps + 1, tokens, dim)
    values = [forcing.new_empty(steps + 1, tokens, width) for width in widths]
    stack = [t for pair in zip(net.weights, net.biases, strict=True) for t in pair]
    path_weight = triton_launch.as_matrix(net.path_weight)
    triton_launch.launch(
        path_kernel,
        *(_grid(tokens), net.inputs.contiguous(), path_weight),
        *_padded([t.contiguous() for t in stack], 2 * MAX_DEPTH, y),
        *(forcing.contiguous(), decay.contiguous(), gain.contiguous(), y),
        *_padded(values, MAX_DEPTH + 1, y),
        *(values[-1], tokens, steps, dim, *_padded(widths, MAX_DEPTH + 1, 0), path_weight.stride(0)),
        DEPTH=len(widths) - 1,
        **_tile(64),
    )
    return Solution(y, values)


def adjoint_sequential(
    net: PathNetwork, found: Solution, grad_y: Tensor, grad_p: Tensor, decay: Tensor, gain: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """See `kernels.path.sequential.adjoint_sequential`; one launch."""
    widths = net.widths()
    if len(widths) - 1 > MAX_DEPTH:
        return path_sequential.adjoint_sequential(net, found, grad_y, grad_p, decay, gain)
    nodes, tokens, dim = found.y.shape
    total = torch.empty_like(found.y)
    grads = [torch.empty_like(value) for value in found.values]
    path_weight = triton_launch.as_matrix(net.path_weight)
    triton_launch.launch(
        path_backward_kernel,
        *(_grid(tokens), grad_y.contiguous(), grad_p.contiguous(), path_weight),
        *_padded([w.contiguous() for w in net.weights], MAX_DEPTH, total),
        *(decay.contiguous(), gain.contiguous()),
        *_padded(found.values[:-1], MAX_DEPTH, total),
        total,
        *_padded(grads, MAX_DEPTH + 1, total),
        *(grads[-1], tokens, nodes - 1, dim),
        *(*_padded(widths, MAX_DEPTH + 1, 0), path_weight.stride(0)),
        DEPTH=len(widths) - 1,
        # Addresses of rows that are not aligned take registers: a large tile would spill.
        **_tile(64 if all(width % 16 == 0 for width in widths) else 32),
    )
    return total, grads


def _tile(columns: int) -> dict[str, Any]:
    return {"BLOCK_M": _TOKENS, "BLOCK_J": columns, "BLOCK_K": 32, "num_warps": 8}


def _grid(tokens: int) -> tuple[int, int, int]:
    return triton.cdiv(tokens, _TOKENS), 1, 1


def _padded(items: Sequence[Any], count: int, filler: Any) -> list[Any]:
    """As many as the kernel has arguments; it does not read the fillers."""
    return [*items, *[filler] * (count - len(items))]
