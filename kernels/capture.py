"""One captured CUDA graph of a function of tensors and its gradient, and what graphs share."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Function = Callable[..., Tensor]
"""Costs [N] of floating inputs [L, N, *] first, then the others."""


def may_capture(device: torch.device) -> bool:
    """Whether a graph can be made or replayed at this point of a program."""
    return (
        _is_cuda(device)
        and not torch.compiler.is_compiling()
        and not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())
        # A checkpointed part runs again inside a backward pass, and has to save the same tensors there.
        and torch._C._current_graph_task_id() == -1
        and torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    )


def _is_cuda(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.hip is None


class Turns:
    """Graphs of a device that are replayed one after the other, and so share their memory in between."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: torch.cuda.Stream | None = None
        self._free: torch.cuda.Event | None = None
        self.pool = torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None

    @contextmanager
    def taken(self, device: torch.device) -> Iterator[None]:
        """Nobody else replays meanwhile, in no thread and on no stream."""
        with self._lock, torch.cuda.device(device):
            stream = torch.cuda.current_stream()
            if self._free is not None and stream != self._last:
                stream.wait_event(self._free)
            yield
            if self._free is None:
                self._free = torch.cuda.Event()
            self._free.record(stream)
            self._last = stream


class Program:
    """One graph, the memory that it reads from and writes to, and the function, for other gradients.

    Attributes:
        wanted: which inputs want a gradient.
        draws: whether the function draws noise.
        used: the number of the call that it was last used in.
        size: bytes of what it reads from and writes to.
    """

    def __init__(
        self, function: Function, inputs: Sequence[Tensor], others: Sequence[Tensor], turns: Turns
    ) -> None:
        self.function, self._turns = function, turns
        self.used, self.size = 0, size_of(inputs)
        self.wanted = tuple(x.requires_grad for x in inputs)
        device = inputs[0].device
        # What is drawn here, the first replay draws again: no number is lost.
        with turns.taken(device), torch.random.fork_rng([device]), torch.no_grad():
            self._inputs = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs]
            self._others = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in others]
            self._set(inputs, others)
            current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
            aside.wait_stream(current)
            with torch.cuda.stream(aside):
                before = noise_state(device)
                self._run()  # compiles, and makes what is made once: constants, handles, workspaces
                self.draws = not torch.equal(before, noise_state(device))
                self._graph = torch.cuda.CUDAGraph()
                self._graph.capture_begin(turns.pool, capture_error_mode="thread_local")
                try:
                    self._results = self._run()
                except BaseException:
                    _abandon(self._graph)
                    raise
                self._graph.capture_end()
            current.wait_stream(aside)

    def _set(self, inputs: Sequence[Tensor], others: Sequence[Tensor]) -> None:
        torch._foreach_copy_(self._inputs, list(inputs))
        if others:
            torch._foreach_copy_(self._others, list(others))

    def _run(self) -> list[Tensor]:
        """Values, then the gradients of their sum that are wanted."""
        # Casts that autocast keeps for later would be kept in the graph's memory.
        kind = self._inputs[0].device.type
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        with torch.autocast(kind, dtype, enabled, cache_enabled=False):
            return self.differentiated(self._inputs, self._others)

    def differentiated(
        self, inputs: Sequence[Tensor], others: Sequence[Tensor], grad: Tensor | None = None
    ) -> list[Tensor]:
        """The function run as it is: values, and the gradients that are wanted.

        Args:
            grad: of the values [N]; 1 for each by default.
        """
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_(w) for x, w in zip(inputs, self.wanted, strict=True)]
            values = self.function(*leaves, *others)
            asked = [leaf for leaf in leaves if leaf.requires_grad]
            of_values = torch.ones_like(values) if grad is None else grad
            grads = torch.autograd.grad(values, asked, of_values, materialize_grads=True)
        return [values.detach(), *grads]

    def replay(self, inputs: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
        """Values and gradients in memory of their own."""
        with self._turns.taken(self._inputs[0].device):
            self._set(inputs, others)
            self._graph.replay()
            found = [torch.empty_like(x) for x in self._results]
            torch._foreach_copy_(found, self._results)
        return found


def _abandon(graph: torch.cuda.CUDAGraph) -> None:
    """End a capture that failed, so that its stream can be used again."""
    try:
        graph.capture_end()
    except RuntimeError:
        logger.debug("the capture had ended with its error")


def noise_state(device: torch.device) -> Tensor:
    """Of the generator that noise on a device is drawn from by default; no device waits for it."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


@contextmanager
def drawing_from(state: Tensor | None, device: torch.device) -> Iterator[None]:
    """Noise is drawn as it was in a state, if one is given; afterwards as if none had been drawn."""
    if state is None:
        yield
        return
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        if cuda:
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)
        yield


def size_of(inputs: Sequence[Tensor]) -> int:
    """Bytes of inputs and of gradients that are as large."""
    return 2 * sum(x.nbytes for x in inputs)
