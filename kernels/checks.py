"""Checks of shapes and devices that more than one operation needs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "none"]
"""Of a cost over the target tokens, as in torch's losses."""


def check_devices(**inputs: Tensor | Sequence[Tensor] | None) -> None:
    """All lie on one device, that of the first.

    Args:
        inputs: tensors, sequences of them, or None where there is none, by the name in the message.

    Raises:
        ValueError: naming the first that lies elsewhere, and where.
    """
    groups = [(given,) if isinstance(given, Tensor) else given or () for given in inputs.values()]
    if len({tensor.device for group in groups for tensor in group}) < 2:
        return
    first: tuple[str, torch.device] | None = None
    for name, given in inputs.items():
        several = not isinstance(given, Tensor)
        for i, tensor in enumerate((given or ()) if several else (given,)):
            if first is None:
                first = f"{name}[0]" if several else name, tensor.device
            elif tensor.device != first[1]:
                raise ValueError(
                    f"{name}{f'[{i}]' if several else ''} is on {tensor.device}, {first[0]} on "
                    f"{first[1]}: expected all on one device; move what is elsewhere with "
                    f".to({str(first[1])!r}) (device_map='auto' puts layers of a model on several)"
                )


def check_trajectory(states: Tensor, context: Tensor | None, rows: Tensor) -> tuple[int, int, int]:
    """States [L, N, H], context [L, B, H], where there is one, and rows [N] fit together: (L, N, H).

    Raises:
        ValueError: naming the shapes.
    """
    if states.dim() != 3 or rows.shape != states.shape[1:2]:
        raise ValueError(
            f"states {tuple(states.shape)} and rows {tuple(rows.shape)}: expected [L, N, H] and [N]"
        )
    layers, tokens, width = states.shape
    if context is None:
        return layers, tokens, width
    if context.dim() != 3 or context.shape[0] != layers or context.shape[2] != width:
        raise ValueError(
            f"context {tuple(context.shape)} does not fit states {tuple(states.shape)}: "
            f"expected [{layers}, B, {width}]"
        )
    return layers, tokens, width


def check_stack(
    weights: Sequence[Tensor], biases: Sequence[Tensor], inputs: int, width: int
) -> tuple[int, int]:
    """Weights and biases are a stack of layers that reads ``inputs`` numbers: (first width, last width).

    Raises:
        ValueError: naming the shapes.
    """
    shapes = [tuple(w.shape) for w in weights]
    chained = all(w[1] == before[0] for before, w in pairwise(shapes))
    if not shapes or not chained or [tuple(b.shape) for b in biases] != [w[:1] for w in shapes]:
        raise ValueError(
            f"weights {shapes} and biases {[tuple(b.shape) for b in biases]} are no stack of layers: "
            f"expected [h_1, {inputs}], [h_2, h_1] ... and [h_1], [h_2] ..."
        )
    if shapes[0][1] != inputs:
        raise ValueError(f"the first weight is {shapes[0]}: expected [*, {inputs}] for H={width}")
    return shapes[0][0], shapes[-1][0]


def check_end(end: Tensor, tokens: int, dim: int) -> None:
    """End points are one for each token, [N, d], or K for each, [K, N, d].

    Raises:
        ValueError: naming the shapes.
    """
    if end.dim() not in (2, 3) or end.shape[-2:] != (tokens, dim):
        raise ValueError(f"end {tuple(end.shape)}: expected {(tokens, dim)}, [N, d], or [K, N, d]")


def reduce_tokens(values: Tensor, reduction: Reduction) -> Tensor:
    """A cost of each token, [N] or [K, N], as it is or its mean over tokens; 0 where there is none.

    Raises:
        ValueError: for another reduction.
    """
    if reduction == "none":
        return values
    if reduction != "mean":
        raise ValueError(f"reduction={reduction!r}: expected 'mean' or 'none'")
    return values.sum(-1) / max(values.shape[-1], 1)
