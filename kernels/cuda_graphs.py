"""Costs of tokens and their gradient as one CUDA graph for each shape: one launch, not a hundred.

Few-shot batches are small, and what a small cost takes on a GPU is the host's time to launch its parts.
A function of tensors is captured, values and gradients, when it has been called often enough with inputs
of one shape, and replayed from then on. The gradient is found with the values and only scaled in the
backward pass, so that there may be any number of forwards before one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.capture import Function, Program, Turns, drawing_from, noise_state, size_of
from kernels.first_order import marked

logger = logging.getLogger(__name__)

SEEN = 2
"""Calls of a key that run as they are before it is captured: shapes that come once are not worth it."""

MOST_BYTES = 2**28
"""Of what the graphs that are kept read from and write to; what they need in between they share."""

IDLE = 1000
"""Calls without it, after which a graph makes room for another: before that others run as they are."""

_KEYS = 64  # that are counted, or refused: each holds what it was made of


class GraphedCosts:
    """Captured functions by key. Copies and pickles are empty: a graph belongs to its process.

    Attributes:
        refused: why a key is not captured, once that was tried.
    """

    def __init__(self) -> None:
        self._programs: dict[Hashable, Program] = {}
        self._seen: dict[Hashable, int] = {}
        self._calls = 0
        self._lock = threading.Lock()
        self._turns: dict[torch.device, Turns] = {}
        self.refused: dict[Hashable, str] = {}

    def __reduce__(self) -> tuple[type[GraphedCosts], tuple[()]]:
        return GraphedCosts, ()

    def __len__(self) -> int:
        """How many graphs there are."""
        return len(self._programs)

    def __call__(
        self,
        key: Hashable,
        function: Function,
        inputs: Sequence[Tensor],
        others: Sequence[Tensor],
        *,
        separable: bool,
    ) -> Tensor:
        """The function's costs [N], differentiable once with respect to the inputs.

        Args:
            key: of everything but these tensors' numbers that the costs depend on, shapes included. What
                the function reads besides is read where it lies at the first call of a key.
            function: on the device alone: it neither waits nor looks at a number. Kept with the graph.
            inputs: floating, of which some want a gradient; on a CUDA device.
            others: of whole numbers.
            separable: whether each token's cost depends on its own row ``inputs[:, n]`` alone.
        """
        program = self._find(key, function, inputs, others)
        if program is None:
            return function(*inputs, *others)
        values: Tensor = _Replay.apply(program, separable, len(inputs), *inputs, *others)
        return values

    def _find(
        self, key: Hashable, function: Function, inputs: Sequence[Tensor], others: Sequence[Tensor]
    ) -> Program | None:
        with self._lock:
            self._calls += 1
            program = self._programs.get(key)
            if program is None and self._is_due(key, inputs):
                device = inputs[0].device
                turns = self._turns.setdefault(device, Turns())
                try:
                    program = self._programs[key] = Program(function, inputs, others, turns)
                except Exception as error:  # whatever a cost does that a graph cannot hold
                    reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
                    self.refused[key] = reason
                    self._turns.pop(device)  # its memory may be as the failure left it
                    logger.info("a cost is not captured as a CUDA graph, it runs as it is: %s", reason)
            if program is not None:
                program.used = self._calls
        return program

    def _is_due(self, key: Hashable, inputs: Sequence[Tensor]) -> bool:
        """Whether a key is to be captured now, and there is room."""
        if key in self.refused:
            return False
        for told in (self._seen, self.refused):
            if len(told) >= _KEYS:
                told.clear()
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._seen[key] <= SEEN:
            return False
        if size_of(inputs) > MOST_BYTES:
            return False
        kept = sum(program.size for program in self._programs.values())
        for k, program in sorted(self._programs.items(), key=lambda item: item[1].used):
            if kept + size_of(inputs) <= MOST_BYTES or self._calls - program.used < IDLE:
                break
            kept -= program.size
            del self._programs[k]
        return kept + size_of(inputs) <= MOST_BYTES


class _Replay(torch.autograd.Function):
    """Keeps the gradients, and where they may not do, what they can be found from again."""

    @staticmethod
    def forward(ctx: Any, program: Program, separable: bool, count: int, *tensors: Tensor) -> Tensor:
        again = program.draws and not separable
        ctx.noise = noise_state(tensors[0].device) if again else None
        values, *grads = program.replay(tensors[:count], tensors[count:])
        ctx.program, ctx.separable, ctx.count = program, separable, count
        ctx.save_for_backward(*grads, *(() if separable else tensors))
        return values

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = outputs
        return None, None, None, *_first_order(ctx, marked(grad))


@once_differentiable
def _first_order(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of the costs' sum, each times that of its token."""
    program: Program = ctx.program
    wanted = program.wanted
    grads, tensors = ctx.saved_tensors[: sum(wanted)], ctx.saved_tensors[sum(wanted) :]
    alike = grad.numel() == 1 or grad.stride(0) == 0  # that of a sum or mean over the tokens
    found: Sequence[Tensor]
    if alike and grad.numel():
        found = torch._foreach_mul(grads, grad[0])
    elif ctx.separable:
        found = [g * grad.reshape(1, -1, *[1] * (g.dim() - 2)) for g in grads]
    else:
        # Tokens that share an input weigh differently.
        with drawing_from(ctx.noise, grad.device):
            _, *found = program.differentiated(tensors[: ctx.count], tensors[ctx.count :], grad)
    each = iter(found)
    others = len(ctx.needs_input_grad) - 3 - len(wanted)
    return *(next(each) if want else None for want in wanted), *[None] * others
