"""The weight of a term: a number, a function of the step, or a ratio of gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from bridges.errors import BadInput, is_number, is_whole, shown
from pets.plug.meter import widest
from pets.plug.schedule import Schedule

_EXPECTED = (
    "a finite number, 0 or more, 'auto', pets.Ratio(0.1), a schedule such as 'cosine' or "
    "'warmup:100', or a function of the step"
)
_LATER = (
    "a finite number, 0 or more, 'auto', pets.Ratio(0.1), or a function of the step; a schedule is "
    "given with pets.regularize"
)


_NOTHING = 1e-12
"""A gradient that is shorter than this share of the other is none."""


@dataclass(frozen=True)
class Ratio:
    """A weight that is measured: how long a term's weighed gradient is beside the task's.

        weight = ratio mean|gradient of the task's loss| / mean|gradient of the term|

    Gradients are those of the trained parameters. At weight 1 the same cost pulls a hundred times as
    hard on one model as on another; at a ratio it pulls alike. The norms are means over the first steps,
    in each of which the two gradients are taken once more; later steps cost nothing. While one of them
    is 0, as an anchor's is before anything has moved, or lost in rounding beside the other, so is the
    weight. With ``every`` they are measured again at each such step and averaged, from the tenth on with
    a decay of 0.9, so that the ratio holds as the loss falls: GradNorm (Chen et al., ICML 2018, arXiv
    1711.02257) of one task and without its own learning rate.

    Args:
        ratio: r, above 0.
        steps: how many first steps are measured.
        every: steps between later measurements; None for none.

    Raises:
        BadInput: for numbers out of range.
    """

    ratio: float = 0.1
    steps: int = 8
    every: int | None = None

    def __post_init__(self) -> None:
        if not is_number(self.ratio) or self.ratio <= 0:
            raise BadInput(f"ratio={shown(self.ratio)}: expected a finite number above 0")
        for name, value in (("steps", self.steps), ("every", self.every)):
            if not is_whole(value, 1, 2**31) and not (name == "every" and value is None):
                raise BadInput(f"{name}={shown(value)}: expected a whole number above 0")


class Weight:
    """A term's weight at every step.

    Args:
        given: as `pets.regularize` takes it.
        default: what a schedule alone is a share of.
        schedule: that it is multiplied by.
        check: of every value; raises a BadInput for one that the term does not take.

    Attributes:
        schedule: the one given, or that the weight itself is.
        norms: of a ratio, the mean norms of the task's gradient and the term's.
    """

    _DECAY = 0.9

    def __init__(
        self,
        given: Any,
        default: float,
        *,
        schedule: str | Schedule | None = None,
        check: Callable[[float], None],
    ) -> None:
        self._check = check
        self.norms: tuple[float, float] | None = None
        self._measured = 0
        self.schedule = Schedule()
        if schedule is not None:
            self.schedule = schedule if isinstance(schedule, Schedule) else Schedule.parse(schedule)
        if isinstance(given, str) and given != "auto":
            if self.schedule != Schedule():
                raise BadInput(
                    f"weight={given!r} and schedule={str(self.schedule)!r}: give one schedule"
                )
            try:
                self.schedule, given = Schedule.parse(given), default
            except BadInput as error:
                raise BadInput(f"weight={shown(given)}: expected {_EXPECTED}; {error}") from error
        self.base: float | Ratio | Callable[[int], float] = default
        self.set(default if given is None else given)

    def set(self, given: Any) -> None:
        """Another number, "auto", ratio or function, under the same schedule.

        Raises:
            BadInput: for anything else, or out of range.
        """
        if isinstance(given, Ratio) or (callable(given) and not isinstance(given, type)):
            self.base = given
            return
        if given == "auto":
            self.base = Ratio()
            return
        if not is_number(given):
            raise BadInput(f"weight={shown(given)}: expected {_LATER}")
        self._check(given)
        self.base = float(given)

    def __str__(self) -> str:
        base = f"{self.base:g}" if isinstance(self.base, float) else repr(self.base)
        return base if self.schedule == Schedule() else f"{base}, {self.schedule}"

    @property
    def is_ratio(self) -> bool:
        """Whether it is measured."""
        return isinstance(self.base, Ratio)

    def measures(self, step: int) -> bool:
        """Whether the gradients are to be measured at a step."""
        if not isinstance(self.base, Ratio):
            return False
        if self.norms is None or step < self.base.steps:
            return True
        return self.base.every is not None and step % self.base.every == 0

    def gives_up(self, step: int) -> bool:
        """Whether there was nothing to measure in all of the first steps, and the weight stayed 0."""
        return isinstance(self.base, Ratio) and self.norms is None and step + 1 >= self.base.steps

    def note(self, step: int, task: float, term: float) -> None:
        """The norms of the two gradients at a step; where one is 0 or no number nothing is measured.

        0 is also what is lost in rounding beside the other: a cost that knows the batch's labels, as one
        adapted to them may, has a gradient of 1e-27, and a ratio would make a weight of 1e25 of it.
        """
        norms = task, term
        if not all(math.isfinite(norm) and norm > _NOTHING * max(norms) for norm in norms):
            return
        self._measured += 1
        assert isinstance(self.base, Ratio)
        # Of accumulated batches there are several at a step.
        own = max(1 / self._measured, 1 - self._DECAY if step >= self.base.steps else 0)
        before = self.norms or (0.0, 0.0)
        self.norms = (
            before[0] + own * (task - before[0]),
            before[1] + own * (term - before[1]),
        )

    def at(self, step: int, steps: int | None) -> float:
        """The weight at a step of the optimiser, from 0 on.

        Args:
            step: the present one.
            steps: of the whole run, where they are known.

        Raises:
            BadInput: for a function that gives no weight, or a schedule that needs the steps of the run.
        """
        left = self.schedule.share(step, steps)
        if isinstance(self.base, Ratio):
            return 0.0 if self.norms is None else left * self.base.ratio * self.norms[0] / self.norms[1]
        if isinstance(self.base, float):
            return left * self.base
        value = self.base(step)
        if not is_number(value) or value < 0:
            raise BadInput(f"weight({step}) is {shown(value)}: expected a finite number, 0 or more")
        self._check(value)
        return left * float(value)

    def state_dict(self) -> dict[str, Any]:
        """What was measured."""
        return {"norms": self.norms and list(self.norms), "measured": self._measured}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        norms = state["norms"]
        self.norms = None if norms is None else (float(norms[0]), float(norms[1]))
        self._measured = int(state["measured"])


def gradient_norms(terms: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[float]:
    """How long the gradients of some scalars are at parameters; the graph stays as it is.

    Of several processes that share a batch: of the root mean square over them.

    Args:
        terms: the task's loss first.
        parameters: that are trained.

    Raises:
        BadInput: for parameters that are sharded, whose gradients are not whole here, or that the graph
            of a forward does not show, or a compiled model, whose graph goes with its first backward
            pass.
    """
    if any(isinstance(p, DTensor) for p in parameters):
        raise BadInput(
            "the trained parameters are sharded, so their gradients cannot be compared in a forward: "
            "measure the ratio without sharding (handle.weights has what it came to) and give the number"
        )
    squares = []
    for number, term in enumerate(terms):
        total = torch.zeros((), dtype=widest(term.device), device=term.device)
        found_here = gradients(term, parameters)
        if number == 0 and all(gradient is None for gradient in found_here):
            raise BadInput(
                "no gradient of the task's loss is to be had in a forward, so no ratio can be measured: "
                "reentrant gradient checkpointing hides the parameters until the backward pass "
                "(gradient_checkpointing_kwargs={'use_reentrant': False}); or give a number"
            )
        for gradient in found_here:
            if gradient is not None:
                total += gradient.detach().to(total.dtype).square().sum().to(total.device)
        squares.append(total)
    found = torch.stack([square.to(squares[0]) for square in squares])
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(found)
        found = found / dist.get_world_size()
    return [math.sqrt(square) for square in found.tolist()]


def gradients(term: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Of a scalar at parameters, None where it does not depend on one; the graph stays as it is.

    Raises:
        BadInput: for a compiled model, whose graph goes with its first backward pass.
    """
    if not term.requires_grad:
        return [None] * len(parameters)
    try:
        return torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if "donated buffer" not in str(error):
            raise
        raise BadInput(
            "a compiled model's graph cannot be gone through twice, as a ratio of gradients needs: set "
            "torch._functorch.config.donated_buffer = False before it is compiled, or give a number"
        ) from error
