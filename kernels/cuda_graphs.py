"""Costs of tokens and their gradient as one CUDA graph for each shape: one launch, not a hundred.

Few-shot batches are small, and what a small cost takes on a GPU is the host's time to launch its parts.
A function of tensors is captured, values and gradients, when it has been called often enough with inputs
of one shape, and replayed from then on. The gradient is found with the values and only scaled in the
backward pass, so that there may be any number of forwards before one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.first_order import marked

logger = logging.getLogger(__name__)

Function = Callable[..., Tensor]
"""Costs [N] of floating inputs [L, N, *] first, then the others."""

SEEN = 2
"""Calls of a key that run as they are before it is captured: shapes that come once are not worth it."""

MOST = 16
"""Graphs that are kept at a time."""

IDLE = 1000
"""Calls without it, after which a graph makes room for another: before that others run as they are."""

_KEYS = 1024  # that are counted


class GraphedCosts:
    """Captured functions by key. Copies and pickles are empty: a graph belongs to its process.

    Attributes:
        refused: why a key is not captured, once that was tried.
    """

    def __init__(self) -> None:
        self._programs: dict[Hashable, _Program] = {}
        self._seen: dict[Hashable, int] = {}
        self._calls = 0
        self._lock = threading.Lock()
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
    ) -> _Program | None:
        with self._lock:
            self._calls += 1
            program = self._programs.get(key)
            if program is None and self._is_due(key):
                try:
                    program = self._programs[key] = _Program(function, inputs, others)
                except Exception as error:  # whatever a cost does that a graph cannot hold
                    reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
                    self.refused[key] = reason
                    logger.info("a cost is not captured as a CUDA graph, it runs as it is: %s", reason)
            if program is not None:
                program.used = self._calls
        return program

    def _is_due(self, key: Hashable) -> bool:
        """Whether a key is to be captured now, and there is room."""
        if key in self.refused:
            return False
        if len(self._seen) >= _KEYS:
            self._seen.clear()
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._seen[key] <= SEEN:
            return False
        if len(self._programs) >= MOST:
            oldest = min(self._programs, key=lambda k: self._programs[k].used)
            if self._calls - self._programs[oldest].used < IDLE:
                return False
            del self._programs[oldest]
        return True


def may_capture(device: torch.device) -> bool:
    """Whether a graph can be made or replayed at this point of a program."""
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and not torch.compiler.is_compiling()
        and not torch.cuda.is_current_stream_capturing()
        # A checkpointed part that runs again inside a backward pass may be in any of autograd's threads.
        and torch._C._current_graph_task_id() == -1
    )


class _Program:
    """One graph, the memory that it reads from and writes to, and the function, for other gradients.

    Attributes:
        wanted: which inputs want a gradient.
        used: the number of the call that it was last used in.
    """

    def __init__(self, function: Function, inputs: Sequence[Tensor], others: Sequence[Tensor]) -> None:
        self.function = function
        self.used = 0
        self.wanted = tuple(x.requires_grad for x in inputs)
        device = inputs[0].device
        # What is drawn here, the first replay draws again: no number is lost.
        with torch.cuda.device(device), torch.random.fork_rng([device]), torch.no_grad():
            self._inputs = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs]
            self._others = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in others]
            self._set(inputs, others)
            current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
            aside.wait_stream(current)
            with torch.cuda.stream(aside):
                self._run()  # compiles, and makes what is made once: constants, handles, workspaces
                self._graph = torch.cuda.CUDAGraph()
                self._graph.capture_begin(capture_error_mode="thread_local")
                try:
                    self._results = self._run()
                except BaseException:
                    _abandon(self._graph)
                    raise
                self._graph.capture_end()
            current.wait_stream(aside)
            self._free = torch.cuda.Event()
            self._free.record(current)
        self._last = current
        self._lock = threading.Lock()

    def _set(self, inputs: Sequence[Tensor], others: Sequence[Tensor]) -> None:
        torch._foreach_copy_(self._inputs, list(inputs))
        if others:
            torch._foreach_copy_(self._others, list(others))

    def _run(self) -> list[Tensor]:
        """Values, then the gradients of their sum that are wanted."""
        # Casts that autocast keeps for later would be kept in the graph's memory.
        kind = self._inputs[0].device.type
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        with torch.enable_grad(), torch.autocast(kind, dtype, enabled, cache_enabled=False):
            leaves = [
                x.detach().requires_grad_(w) for x, w in zip(self._inputs, self.wanted, strict=True)
            ]
            values = self.function(*leaves, *self._others)
            asked = [leaf for leaf in leaves if leaf.requires_grad]
            ones = torch.ones_like(values)
            grads = torch.autograd.grad(values, asked, ones, materialize_grads=True)
        return [values.detach(), *grads]

    def replay(self, inputs: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
        """Values and gradients in memory of their own."""
        with self._lock, torch.cuda.device(self._inputs[0].device):
            stream = torch.cuda.current_stream()
            if stream != self._last:  # another may still be using the graph's memory
                stream.wait_event(self._free)
                self._last = stream
            self._set(inputs, others)
            self._graph.replay()
            found = [torch.empty_like(x) for x in self._results]
            torch._foreach_copy_(found, self._results)
            self._free.record(stream)
        return found


def _abandon(graph: torch.cuda.CUDAGraph) -> None:
    """End a capture that failed, so that its stream can be used again."""
    try:
        graph.capture_end()
    except RuntimeError:
        logger.debug("the capture had ended with its error")


class _Replay(torch.autograd.Function):
    """Keeps the gradients, and where they may not do, what they can be found from again."""

    @staticmethod
    def forward(ctx: Any, program: _Program, separable: bool, count: int, *tensors: Tensor) -> Tensor:
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
    program: _Program = ctx.program
    wanted = program.wanted
    grads, tensors = ctx.saved_tensors[: sum(wanted)], ctx.saved_tensors[sum(wanted) :]
    alike = grad.numel() == 1 or grad.stride(0) == 0  # that of a sum or mean over the tokens
    found: Sequence[Tensor]
    if alike and grad.numel():
        found = torch._foreach_mul(grads, grad[0])
    elif ctx.separable:
        found = [g * grad.reshape(1, -1, *[1] * (g.dim() - 2)) for g in grads]
    else:
        found = _again(program, tensors[: ctx.count], tensors[ctx.count :], grad)
    each = iter(found)
    others = len(ctx.needs_input_grad) - 3 - len(wanted)
    return *(next(each) if want else None for want in wanted), *[None] * others


def _again(
    program: _Program, inputs: Sequence[Tensor], others: Sequence[Tensor], grad: Tensor
) -> Sequence[Tensor]:
    """Where tokens share an input and weigh differently: the function as it is, with that gradient."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_(w) for x, w in zip(inputs, program.wanted, strict=True)]
        values = program.function(*leaves, *others)
        asked = [leaf for leaf in leaves if leaf.requires_grad]
        return torch.autograd.grad(values, asked, grad, materialize_grads=True)
