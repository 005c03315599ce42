"""The costs of a batch's targets, of all at once or of a few sequences at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bridges.cost.documents import Layout
from bridges.cost.groups import OfTrajectories, bytes_of_target, costs_by_groups, groups_of
from bridges.cost.targets import Reading, locate
from bridges.latent.label_ends import LabelEnds
from bridges.latent.trajectory import Trajectory

First = tuple[Trajectory, Tensor]
"""The trajectories of a batch's first targets, without their graph, and their answers."""


def costs_and_first(
    cost: OfTrajectories,
    hidden_states: Sequence[Tensor],
    targets: Tensor,
    attention_mask: Tensor | None = None,
    *,
    first: int = 0,
    labels: LabelEnds | None = None,
    generator: torch.Generator | None = None,
    classes: int | None = None,
    in_place: bool = False,
    layout: Layout | None = None,
) -> tuple[Tensor, First | None]:
    """`RunningCost.costs`, and what `RunningCost.by_layer` takes of the first targets.

    Above `bridges.cost.groups.LIMIT` bytes the targets' states are not kept, but read a few sequences at
    a time, and once more in backward: so memory is bounded where all tokens are targets.

    Args:
        cost: the running cost.
        hidden_states, targets, attention_mask, labels, generator, in_place, layout: as its `costs`.
        first: of how many at most; 0 for none.
        classes: the number of labels where targets are such.

    Returns:
        [N], and None where there is no target, or none asked for.
    """
    given = hidden_states, targets, attention_mask
    # A subclass's own may know of no other options.
    options: dict[str, Any] = {} if generator is None else {"generator": generator}
    if cost.reads_in_parts:
        means = cost.latent_map.reads_context
        hidden_states, where, near = locate(
            cost.spec, *given, layout, classes=classes, in_place=in_place, context=means
        )
        answers = held = where.targets
        if labels is None and cost.bridge.contrasts:
            labels, held = LabelEnds.of_batch(cost.end_points, near.targets)
            options["graph"] = False  # no later batch has these labels
        size = bytes_of_target(cost.latent_map, len(hidden_states), hidden_states[0])
        groups = groups_of(near.rows, len(hidden_states[0]), size)
        if len(groups) > 1:
            parts = replace(where, targets=held), groups
            costs = costs_by_groups(cost, hidden_states, *parts, labels=labels, generator=generator)
            return costs, _read_first(hidden_states, where, first) if first else None
        trajectory = where.trajectory(hidden_states)
    else:
        device = hidden_states[0].device  # where a subclass's own may expect what it is given
        if layout is not None:
            layout = layout.to(device)
        given = hidden_states, targets.to(device), attention_mask
        trajectory, answers = cost.trajectory(*given, classes=classes, in_place=in_place, layout=layout)
        held = answers
    if not len(answers):
        return trajectory.states.sum((0, 2)), None  # [0], and part of the states' graph
    costs = cost.of_trajectory(trajectory, held, labels=labels, **options)
    return costs, _few(trajectory, answers, first) if first else None


@torch.no_grad()
def _read_first(hidden_states: Sequence[Tensor], where: Reading, first: int) -> First:
    rows, columns, targets = (x[:first] for x in (where.rows, where.columns, where.targets))
    return Reading(rows, columns, targets, where.context).trajectory(hidden_states), targets


def _few(path: Trajectory, answers: Tensor, first: int) -> First:
    """Of the first targets; it outlives the graph, so of many it is a copy."""
    states, context = path.states.detach(), path.context.detach()
    if len(answers) <= first:
        return Trajectory(states, context, path.rows), answers
    return Trajectory(states[:, :first].clone(), context, path.rows[:first]), answers[:first]
