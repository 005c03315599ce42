"""What a plugged model's steps came to: the task's loss, every term, its weight and its layers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

TASK = "task"
SHOWN = 64
"""Of so many targets the layers are told."""
_WAITING = 64  # forwards, or steps, whose numbers are kept one by one before they are added up

Layers = Callable[[], Sequence[float] | None]


def weight_name(name: str) -> str:
    """The name of a term's weight."""
    return f"weight/{name}"


def layers_name(name: str) -> str:
    """The name of a term's layers."""
    return f"layers/{name}"


@dataclass
class Sums:
    """Sums of named numbers over forwards, where they are: nothing waits for a device."""

    values: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """One more of each."""
        for name, value in values.items():
            if isinstance(value, Tensor):  # a copy, for a Trainer scales its loss in place
                number = value.detach().to(widest(value.device), copy=True)
            else:
                number = torch.tensor(value, dtype=torch.float64)
            before = self.values.get(name)
            self.values[name] = number if before is None else before + number.to(before.device)
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, Tensor]:
        """The mean of each."""
        return {name: value / self.counts[name] for name, value in self.values.items()}


class _Numbers:
    """The numbers of one forward: copies, for a Trainer scales its loss in place, made in one go."""

    def __init__(self, values: Mapping[str, Tensor | float]) -> None:
        # Not a subclass, such as a DTensor, which stacks with none but its own kind.
        scalars = {k: v for k, v in values.items() if type(v) is Tensor and not v.dim()}
        if len({v.device for v in scalars.values()}) > 1:
            scalars = {}
        self._names = tuple(scalars)
        self._stacked = torch.stack([v.detach() for v in scalars.values()]) if scalars else ()
        self._others = {
            k: v.detach().clone() if isinstance(v, Tensor) else v
            for k, v in values.items()
            if k not in scalars
        }

    def by_name(self) -> dict[str, Tensor | float]:
        """The numbers."""
        return {**self._others, **dict(zip(self._names, self._stacked, strict=True))}


@dataclass
class _Step:
    """The forwards of one optimiser step: the batches that it accumulates."""

    number: int
    training: bool
    sums: Sums = field(default_factory=Sums)
    divided: bool = False
    forwards: list[_Numbers] = field(default_factory=list)

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """One forward more; added up when somebody asks, or there are many."""
        self.forwards.append(_Numbers(values))
        if len(self.forwards) >= _WAITING:
            self._add_up()

    def _add_up(self) -> None:
        for numbers in self.forwards:
            self.sums.add(numbers.by_name())
        self.forwards = []

    def values(self) -> dict[str, Tensor]:
        """One number of each: as in the loss a mean, or the sum of what was divided by all targets."""
        self._add_up()
        means = self.sums.means()
        if not self.divided:
            return means
        return {k: v if k.startswith("weight/") else self.sums.values[k] for k, v in means.items()}


class Meter:
    """Keeps the last step, and the mean over steps since it was last asked for that."""

    def __init__(self) -> None:
        self._step: _Step | None = None
        self._since: dict[bool, Sums] = {True: Sums(), False: Sums()}
        self._ended: list[_Step] = []  # not yet in the sums
        self._layers: dict[str, Layers] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Meter], tuple[()]]:
        """A copy has seen nothing."""
        return Meter, ()

    def record(
        self,
        step: int,
        values: Mapping[str, Tensor | float],
        layers: Mapping[str, Layers],
        *,
        training: bool,
        divided: bool,
    ) -> None:
        """A forward in a step.

        Args:
            step: of the optimiser, or in eval mode any.
            values: numbers by name, `TASK` among them.
            layers: of the terms that have any, asked for when somebody looks.
            divided: whether they are parts of a sum over the batches of a step.
        """
        with self._lock:
            if self._step is None or (self._step.number, self._step.training) != (step, training):
                self._end_step()
                self._step = _Step(step, training)
            self._step.divided = divided
            self._step.add(values)
            self._layers = dict(layers)

    @property
    def last(self) -> dict[str, Any]:
        """The last step: "task", each term by its name, "weight/NAME" and "layers/NAME".

        Layers are those of the last batch's first 64 targets.
        """
        with self._lock:
            step, layers = self._step, self._layers
            if step is None:
                return {}
            found: dict[str, Any] = {name: value.item() for name, value in step.values().items()}
        for name, tell in layers.items():
            told = tell()
            if told is not None:
                found[layers_name(name)] = list(told)
        return found

    def logs(self, *, training: bool = True, scale: float = 1.0) -> dict[str, float]:
        """Means over the steps since the last call, and over all processes, each of which calls it.

        Args:
            training: of steps in training, else of forwards in eval mode.
            scale: of what was divided by a number of targets of all processes.

        Returns:
            "task_loss", "running_cost/NAME" and "weight/NAME", and of this process "layers/NAME/K".
        """
        with self._lock:
            divided = self._step is not None and self._step.divided
            self._end_step()
            self._add_up()
            sums, self._since[training] = self._since[training], Sums()
            layers, self._layers = self._layers, {}
        means = sums.means()
        if not means:
            return {}
        names = sorted(means)
        # Where the loss is: what processes talk through may know no other device.
        stacked = torch.stack([means[name].to(means[TASK]) for name in names])
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(stacked)
            stacked = stacked / dist.get_world_size()
        found = dict(zip(names, stacked.tolist(), strict=True))
        factor = scale if divided else 1.0
        logs = {}
        for name, value in found.items():
            if name == TASK:
                logs["task_loss"] = value * factor
            elif name.startswith("weight/"):
                logs[name] = value
            else:
                logs[f"running_cost/{name}"] = value * factor
        for name, tell in layers.items():
            for layer, value in enumerate(tell() or ()):
                logs[f"{layers_name(name)}/{layer}"] = value
        return logs

    def _end_step(self) -> None:
        if self._step is not None:
            self._ended.append(self._step)
            self._step = None
        if len(self._ended) >= _WAITING:
            self._add_up()

    def _add_up(self) -> None:
        for step in self._ended:
            self._since[step.training].add(step.values())
        self._ended = []


def widest(device: torch.device) -> torch.dtype:
    """The widest floating dtype that a device has."""
    return torch.float32 if device.type == "mps" else torch.float64
