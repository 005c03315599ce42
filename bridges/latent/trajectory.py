"""The trajectory of the output tokens through depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels.pooling import pool_trajectory


def normalised(states: Tensor) -> Tensor:
    """States [..., H] over their root mean square, in their dtype, float32 at least; zeros stay zeros.

    Right for every finite state, and differentiable; at a state of zeros the gradient is 0.
    """
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    tiny = torch.finfo(states.dtype).tiny
    # First over the largest magnitude, then their squares are numbers. The value does not depend on what
    # this factor is, so neither does the gradient.
    peak = states.detach().abs().amax(-1, keepdim=True).clamp(tiny, 1 / tiny)
    states = states * peak.reciprocal()
    square = states.square().mean(-1, keepdim=True)
    zero = square == 0
    return states * square.masked_fill(zero, 1).rsqrt().masked_fill(zero, 0)


def layer_times(num_states: int, *, device: torch.device | None = None) -> Tensor:
    """Times ``t_i = i / (L + 2)``, i = 1..L+1, of L+1 hidden states: [L+1] in float64.

    t = 0 is a virtual zero start, t = 1 the label; neither is a hidden state (arXiv 2305.17670).
    """
    steps = torch.arange(1, num_states + 1, dtype=torch.float64, device=device)
    return steps / (num_states + 1)


@dataclass(frozen=True)
class Times:
    """Of the first ``count`` of ``states`` hidden states, on a device: what constants are kept by."""

    count: int
    states: int
    device: torch.device

    def tensor(self) -> Tensor:
        """`layer_times`, [count] in float64."""
        return layer_times(self.states, device=self.device)[: self.count]


@dataclass(frozen=True)
class Trajectory:
    """What a running cost sees of a batch.

    Attributes:
        states: [L+1, N, H], the hidden states of each target token through all layers.
        context: [L+1, B, H], the mean state of each sequence through all layers; without rows, [L+1, 0,
            H], where the reader takes no notice of it.
        rows: int64 [N], the sequence each target belongs to.
        source: dtype of the hidden states that were read, which says how many digits there are; None
            where it is that of the states here.
    """

    states: Tensor
    context: Tensor
    rows: Tensor
    source: torch.dtype | None = None

    @classmethod
    def gather(
        cls,
        hidden_states: Sequence[Tensor],
        mask: Tensor | None,
        rows: Tensor,
        columns: Tensor,
        *,
        context: bool = True,
        in_order: bool = False,
        defer: bool = True,
    ) -> Trajectory:
        """Read a trajectory out of L+1 hidden states [B, S, H]; see `pool_trajectory`."""
        states, mean = pool_trajectory(
            hidden_states, mask, rows, columns, context=context, in_order=in_order, defer=defer
        )
        return cls(states, states[:, :0] if mean is None else mean, rows, hidden_states[0].dtype)

    @classmethod
    def of_states(cls, states: Tensor) -> Trajectory:
        """Of tokens [L+1, N, H], for a reader that takes no notice of their context."""
        return cls(states, states[:, :0], torch.arange(states.shape[1], device=states.device))

    def normalised(self) -> Trajectory:
        """With states and contexts over their root mean square; see `normalised`."""
        return replace(self, states=normalised(self.states), context=normalised(self.context))

    @property
    def clock(self) -> Times:
        """Which times those of the layers are."""
        return Times(len(self.states), len(self.states), self.states.device)

    def times(self) -> Tensor:
        """Times of the layers, [L+1] in float64."""
        return layer_times(len(self.states), device=self.states.device)
