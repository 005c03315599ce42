"""Hidden states as the regularizers on them read them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bridges.errors import BadInput, is_number, shown
from pets.regularizers.passes import Pass


def check_first(first: object) -> float:
    """A share of the depth.

    Raises:
        BadInput: if it is not in [0, 1).
    """
    if not is_number(first) or not 0 <= first < 1:  # type: ignore[operator]
        raise BadInput(f"first={shown(first)}: expected the share of the depth to begin at, in [0, 1)")
    return float(first)  # type: ignore[arg-type]


def layers_from(first: float, count: int) -> range:
    """Of L layers, whose states are 1 to L, those from a share of the depth on; at least the last.

    State 0, which the embeddings make, is no layer's.
    """
    return range(min(max(1, math.ceil(first * count - 1e-9)), count), count + 1)


def mean(seen: Pass, costs: Tensor) -> Tensor:
    """Of costs [N] of the forward's targets, see `Pass`; 0, and part of the graph, of none."""
    return seen.mean(costs) if len(costs) else costs.sum()


def exact(states: Tensor) -> Tensor:
    """In float32 at least."""
    return states.float() if states.element_size() < 4 else states


def lengths(states: Tensor) -> Tensor:
    """Of states [..., H], [..., 1]: 1 in the place of 0, whose gradient would not be finite."""
    squares = states.square().sum(-1, keepdim=True)
    return torch.where(squares > 0, squares, 1.0).sqrt()


def directions(states: Tensor) -> Tensor:
    """States [..., H] over their length, in float32 at least; a zero state is its own."""
    states = exact(states)
    # By the largest entry first: squares of the largest states could overflow, of the smallest vanish.
    largest = states.detach().abs().amax(-1, keepdim=True)
    states = states / torch.where(largest > 0, largest, 1.0)
    return states / lengths(states)
