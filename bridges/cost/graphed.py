"""Which running costs of a batch are replayed as a CUDA graph, and what such a graph depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bridges.latent.label_ends import LabelEnds
from bridges.latent.latent_map import Reader
from bridges.latent.trajectory import Trajectory
from bridges.processes.constants import all_kept, state_of
from bridges.processes.snapshot import snapshot
from kernels.capture import may_capture
from kernels.cuda_graphs import GraphedCosts
from kernels.dispatch import choose

if TYPE_CHECKING:
    from bridges.latent.end_points import EndPoints
    from bridges.processes.base import Cost

MOST_BYTES = 2**26
"""Of pooled states. Above it the work takes longer than its launches, and a graph keeps its memory."""


def replayed(
    graphs: GraphedCosts,
    bridge: Cost,
    reader: Reader,
    trajectory: Trajectory,
    answers: Tensor,
    ends: LabelEnds | EndPoints,
) -> Tensor | None:
    """The costs of the tokens [N] by a graph, or None where there can be none.

    That is for gradients to the states alone, on a CUDA device, of a bridge that says so (`Cost.graphs`)
    and whose state can be told.

    Args:
        ends: of the labels, or of the vocabulary, that ``answers`` are indices of.
    """
    states, context = trajectory.states, trajectory.context
    if not (bridge.graphs and states.requires_grad and torch.is_grad_enabled()):
        return None
    if states.nbytes > MOST_BYTES or not may_capture(states.device):
        return None
    told = bridge.graph_state(), snapshot(reader), state_of(ends)
    if None in told or any(_is_hooked(module) for module in (bridge, reader)):
        return None
    source = trajectory.source
    inputs = (states, context) if reader.reads_context else (states,)
    key = (
        told,
        tuple((x.shape, x.dtype, x.requires_grad) for x in inputs),
        source,
        choose(states).backend.name,
        torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda"),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
    )
    held: list[object] = []

    def costs(states: Tensor, *rest: Tensor) -> Tensor:
        *context, rows, answers = rest
        path = Trajectory(states, context[0] if context else states[:, :0], rows, source)
        if isinstance(ends, LabelEnds):
            found = bridge.of_labels(reader, path, answers, ends)
        else:
            found = bridge.cost(reader, path, ends(answers))
        # A graph keeps this function, and with it what it was captured with: that may be made anew.
        if not held:
            held.extend(all_kept([*bridge.modules(), ends]))
        return found

    others = (trajectory.rows, answers)
    return graphs(key, costs, inputs, others, separable=not reader.reads_context)


def _is_hooked(module: nn.Module) -> bool:
    """Whether somebody looks at what passes through a module, or changes it."""
    return any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
