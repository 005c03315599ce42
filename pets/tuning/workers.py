"""Several processes that share one run, started by torchrun or ``accelerate launch``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bridges.errors import BadInput

Part = TypeVar("Part")


@dataclass(frozen=True)
class Processes:
    """Who is who, and what they do together: for one process alone nothing at all.

    A PET has few parameters, and a regularizer may run the model several times in a step. So there is
    no wrapper around the model: after the backward pass the gradients are averaged in one go.

    Attributes:
        rank: of this process.
        count: of all.
        device: what their messages go through.
        in_step: they share out the weights, so that each has to run the model as often as the others.
    """

    rank: int = 0
    count: int = 1
    device: Any = "cpu"
    in_step: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def check_batch(self, size: int) -> None:
        """Whether a batch of this size can be shared out.

        Raises:
            BadInput: if some would get more than others.
        """
        if size % self.count:
            raise BadInput(
                f"batch_size={size} in {self.count} processes: expected a multiple of {self.count}"
            )

    def part(self, batch: Sequence[Part]) -> Sequence[Part]:
        """This process's share of a batch."""
        share = len(batch) // self.count
        return batch[self.rank * share : (self.rank + 1) * share]

    def mean(self, value: Tensor) -> Tensor:
        """Over all processes; the same in each, to the bit."""
        return value if self.count == 1 else self._reduce(value) / self.count

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Put in the place of every gradient its mean over all processes."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        means = self.mean(torch.cat([g.flatten() for g in gradients]))
        for gradient, mean in zip(gradients, means.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def total(self, values: list[float]) -> list[float]:
        """The sum over all processes of each number."""
        if self.count == 1:
            return values
        sums: list[float] = self._reduce(torch.tensor(values, dtype=torch.float64)).tolist()
        return sums

    def turns(self, count: int) -> Iterator[tuple[int, bool]]:
        """Which of so many pieces of work this process does, and whether each counts.

        In step with others one is done that does not count where they have one more.
        """
        for first in range(0, count, self.count):
            mine = first + self.rank
            if mine < count:
                yield mine, True
            elif self.in_step:
                yield first, False

    def merged(self, values: dict[Part, Any]) -> dict[Part, Any]:
        """What all processes have, by key."""
        if self.count == 1:
            return values
        parts: list[Any] = [None] * self.count
        dist.all_gather_object(parts, values)
        return {key: value for part in parts for key, value in part.items()}

    def adopt(self, tensors: Iterable[Tensor]) -> None:
        """Take the main process's values of all tensors."""
        if self.count > 1:
            for tensor in tensors:
                sent = tensor.detach().to(self.device, copy=True)
                dist.broadcast(sent, 0)
                tensor.detach().copy_(sent)

    def wait(self) -> None:
        """Until all processes are here."""
        self.total([0.0])

    def _reduce(self, value: Tensor) -> Tensor:
        sent = value.detach().to(self.device, copy=True)
        dist.all_reduce(sent)
        return sent.to(value.device)


def joined() -> Processes:
    """All processes that were started for this run; to be called before a model is put on a GPU."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    from accelerate import PartialState

    # It takes the process's GPU; asked for nothing, it would leave processes without one alone.
    state = PartialState(cpu=not torch.cuda.is_available())
    return Processes(state.process_index, state.num_processes, state.device)
