"""The sequential path solver on Triton kernels: one launch for all steps, one for all of the adjoint."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from kernels.gpu import launch as run
from kernels.gpu.path_kernels import path_backward_kernel, path_kernel
from kernels.path import sequential as path_sequential
from kernels.path.network import PathNetwork, Solution

MAX_LAYERS = 4
"""The kernels unroll the layers, and six spill registers; deeper networks are solved by PyTorch."""

_TOKENS = 16
"""Tokens of a program, the fewest a product takes: the more programs, the more of the GPU works."""


def solve_sequential(net: PathNetwork, forcing: Tensor, decay: Tensor, gain: Tensor) -> Solution:
    """See `kernels.path.sequential.solve_sequential`; one launch."""
    widths = net.widths()
    if len(widths) > MAX_LAYERS:
        return path_sequential.solve_sequential(net, forcing, decay, gain)
    steps, tokens, dim = forcing.shape
    y = forcing.new_zeros(steps + 1, tokens, dim)
    values = [forcing.new_empty(steps + 1, tokens, width) for width in widths]
    with run.on(forcing.device):
        run.launch(
            path_kernel,
            _grid(tokens),
            **_layers(net),
            biases=tuple(b.contiguous() for b in (net.inputs, *net.biases)),
            values=tuple(values),
            forcing=forcing.contiguous(),
            decay=decay.contiguous(),
            gain=gain.contiguous(),
            y=y,
            N=tokens,
            STEPS=steps,
            D=dim,
            **_tile(64),
        )
    return Solution(y, values)


def adjoint_sequential(
    net: PathNetwork, found: Solution, grad_y: Tensor, grad_p: Tensor, decay: Tensor, gain: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """See `kernels.path.sequential.adjoint_sequential`; one launch."""
    widths = net.widths()
    if len(widths) > MAX_LAYERS:
        return path_sequential.adjoint_sequential(net, found, grad_y, grad_p, decay, gain)
    nodes, tokens, dim = found.y.shape
    total = torch.empty_like(found.y)
    grads = [torch.empty_like(value) for value in found.values]
    # Addresses of rows that are not aligned take registers: a large tile would spill.
    aligned = all(width % 16 == 0 for width in widths)
    with run.on(total.device):
        run.launch(
            path_backward_kernel,
            _grid(tokens),
            **_layers(net),
            values=tuple(found.values),
            grads=tuple(grads),
            decay=decay.contiguous(),
            gain=gain.contiguous(),
            grad_y=grad_y.contiguous(),
            grad_p=grad_p.contiguous(),
            total=total,
            N=tokens,
            STEPS=nodes - 1,
            D=dim,
            **_tile(64 if aligned else 32),
        )
    return total, grads


def _layers(net: PathNetwork) -> dict[str, Any]:
    """The weights of all layers, the one on y first; only its rows may lie apart."""
    first = run.as_matrix(net.path_weight)
    return {
        "weights": (first, *(w.contiguous() for w in net.weights)),
        "widths": tuple(net.widths()),
        "path_stride": first.stride(0),
    }


def _tile(columns: int) -> dict[str, Any]:
    return {"BLOCK_M": _TOKENS, "BLOCK_J": columns, "BLOCK_K": 32, "num_warps": 8}


def _grid(tokens: int) -> tuple[int, int, int]:
    return triton.cdiv(tokens, _TOKENS), 1, 1
