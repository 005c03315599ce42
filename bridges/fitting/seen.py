"""What costs see of a batch: trajectories of its targets, gathered once for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bridges.fitting.fittable import Fittable
from bridges.fitting.settings import FitSettings
from bridges.fitting.text import KEPT, FitText, ReadBatch
from bridges.latent.trajectory import Trajectory
from bridges.seeds import generator


@dataclass(frozen=True)
class Seen:
    """The targets of a batch.

    Attributes:
        number: of the batch, or the optimiser's step; that of held-out ones is negative. It fixes a
            cost's noise.
        trajectory: of N targets.
        answers: int64 [N], their tokens.
    """

    number: int
    trajectory: Trajectory
    answers: Tensor

    def part(self, k: int, settings: FitSettings) -> Seen:
        """The targets of the batch's k-th optimiser step: each is in one of ``settings.updates`` parts.

        A batch with fewer targets than these has parts of one, again from the first.
        """
        if settings.updates == 1:
            return self
        count = len(self.answers)
        order = torch.randperm(count, generator=generator(settings.seed, 3, self.number))
        parts = order.tensor_split(min(settings.updates, count))
        chosen = parts[k % len(parts)].to(self.answers.device)
        whole = self.trajectory
        of_part = replace(whole, states=whole.states[:, chosen], rows=whole.rows[chosen])
        return Seen(self.number * settings.updates + k, of_part, self.answers[chosen])

    @property
    def size(self) -> int:
        """Bytes."""
        return self.trajectory.states.nbytes + self.trajectory.context.nbytes


def gathered(reading: ReadBatch, costs: Sequence[Fittable]) -> Seen:
    """The trajectories of a batch, with the context if any of the costs reads it."""
    reads = [cost for cost in costs if getattr(cost.latent_map, "reads_context", True)]
    cost = (reads or costs)[0]
    trajectory, answers = cost.trajectory(reading.hidden_states, reading.targets, reading.attention_mask)
    return Seen(reading.number, trajectory, answers)


class HeldOut:
    """The held-out batches, read once and kept if they fit into a gigabyte, for they do not change.

    Args:
        text: whose batches they are.
        costs: that look at them.
    """

    def __init__(self, text: FitText, costs: Sequence[Fittable]) -> None:
        self._text, self._costs = text, costs
        self._kept: list[Seen] = []

    def __iter__(self) -> Iterator[Seen]:
        if self._kept:
            yield from self._kept
            return
        kept, size = [], 0
        for reading in self._text.held_out():
            seen = gathered(reading, self._costs)
            size += seen.size
            if size <= KEPT:
                kept.append(seen)
            yield seen
        if size <= KEPT:
            self._kept = kept
