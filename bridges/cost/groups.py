"""The cost of so many targets that their states are read a few sequences at a time.

Where every token is a target, the states of all of them in full precision are twice what the model keeps
in half precision, and what the map makes of them comes on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bridges.cost.targets import Reading
from bridges.latent.end_points import EndPoints
from bridges.latent.label_ends import LabelEnds
from bridges.latent.latent_map import Layers, Reader
from bridges.latent.trajectory import Trajectory
from bridges.model.spec import ModelSpec
from bridges.processes.base import Cost

LIMIT = 2**28
"""Bytes of pooled states and of the map's values above which a batch is read by groups of sequences.

A group stays below it unless it is one sequence alone. In backward each is read and computed once more.
"""


class OfTrajectories(Protocol):
    """What reads trajectories; see `bridges.cost.running_cost.RunningCost`."""

    spec: ModelSpec
    bridge: Cost
    latent_map: Reader
    end_points: EndPoints

    @property
    def reads_in_parts(self) -> bool: ...

    def trajectory(self, *given: Any, **told: Any) -> tuple[Trajectory, Tensor]: ...

    def of_trajectory(
        self,
        trajectory: Trajectory,
        answers: Tensor,
        *,
        labels: LabelEnds | None = None,
        generator: torch.Generator | None = None,
        graph: bool = True,
    ) -> Tensor: ...


@dataclass(frozen=True)
class Group:
    """Sequences of a batch that follow each other, and their targets.

    Attributes:
        rows, targets: which of the batch's.
    """

    rows: slice
    targets: slice


def groups_of(rows: Tensor, batch: int, bytes_of_target: int) -> list[Group]:
    """Groups of the sequences of a batch, as large as `LIMIT` allows.

    Args:
        rows: int64 [N], rising: each target's sequence.
        batch: B.
        bytes_of_target: what the cost keeps of each.
    """
    if len(rows) * bytes_of_target <= LIMIT:  # without a look at the rows
        return [Group(slice(0, batch), slice(0, len(rows)))]
    found, first, start, end = [], 0, 0, 0
    for row, count in enumerate(torch.bincount(rows, minlength=batch).tolist()):
        if count and end > start and (end + count - start) * bytes_of_target > LIMIT:
            found.append(Group(slice(first, row), slice(start, end)))
            first, start = row, end
        end += count
    return [*found, Group(slice(first, batch), slice(start, end))]


def bytes_of_target(reader: Reader, states: int, like: Tensor) -> int:
    """Of L+1 pooled states, and of what a stack of layers keeps of them for its gradient."""
    # A layer's values before and behind its activation.
    values = 2 * sum(len(bias) for bias in reader.biases) if isinstance(reader, Layers) else 0
    return states * (like.shape[-1] + values) * max(like.element_size(), 4)


def costs_by_groups(
    cost: OfTrajectories,
    hidden_states: Sequence[Tensor],
    where: Reading,
    groups: Sequence[Group],
    *,
    labels: LabelEnds | None,
    generator: torch.Generator | None,
) -> Tensor:
    """`RunningCost.of_trajectory` of all targets, [N], of which one group is kept at a time.

    Args:
        cost: of the model.
        hidden_states: L+1 tensors [B, S, H].
        where: the targets, as ``labels`` has them.
        groups: of these.
        labels, generator: as `RunningCost.costs`.
    """
    answers = where.targets
    sizes = [group.rows.stop - group.rows.start for group in groups]
    # Its gradient is put together once, where slices would each make one of all sequences.
    parts = zip(*(hidden.split(sizes) for hidden in hidden_states), strict=True)
    found = []
    for group, part in zip(groups, parts, strict=True):
        run = _Run(cost, where, group, answers[group.targets], labels, generator)
        if torch.is_grad_enabled():
            found.append(checkpoint(run, *part, use_reentrant=False))
        else:
            found.append(run(*part))
    return torch.cat(found)


class _Run:
    """A group's costs, with the same noise each time."""

    def __init__(
        self,
        cost: OfTrajectories,
        where: Reading,
        group: Group,
        answers: Tensor,
        labels: LabelEnds | None,
        generator: torch.Generator | None,
    ) -> None:
        self._cost, self._labels = cost, labels
        rows, columns = where.rows[group.targets] - group.rows.start, where.columns[group.targets]
        context = None if where.context is None else where.context[group.rows]
        self._where = Reading(rows, columns, answers, context)
        self._generator = generator
        self._state = None if generator is None else generator.get_state()
        self._ran = False

    def __call__(self, *hidden_states: Tensor) -> Tensor:
        # Of parts of the states, where no gradient of the model's arrives.
        path, answers = self._where.trajectory(hidden_states, defer=False), self._where.targets
        if not len(answers):
            return path.states.sum((0, 2))
        generator = self._generator
        if generator is not None and self._state is not None and self._ran:
            generator = torch.Generator(generator.device)  # the one given has gone on
            generator.set_state(self._state)
        self._ran = True
        # As in backward, where nothing is replayed: a checkpoint has to find the same tensors.
        return self._cost.of_trajectory(
            path, answers, labels=self._labels, generator=generator, graph=False
        )
