"""How much a forward pass keeps for the backward pass, counted as autograd saves it."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def kept_for_backward(at_rest: Iterable[nn.Module] = ()) -> Iterator[Kept]:
    """Within this context, the bytes of all tensors that are saved for a backward pass.

    A storage counts once, however many tensors of it are saved, and as long as one of them is. On a CPU
    the count is the same each time, unlike what the system says of the process.

    Args:
        at_rest: modules whose parameters and buffers do not count, as they are there anyway.
    """
    kept = Kept(at_rest)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda saved: saved.tensor):
        yield kept


class Kept:
    """The count.

    Attributes:
        most: bytes at one time, the largest number so far: a step's, at the end of its forward pass.
    """

    def __init__(self, at_rest: Iterable[nn.Module]) -> None:
        self.most = 0
        self._now = 0
        self._saved: Counter[int] = Counter()  # storages by address: those in use differ in it
        self._own = {
            tensor.untyped_storage().data_ptr()
            for module in at_rest
            for tensor in (*module.parameters(), *module.buffers())
        }

    def pack(self, tensor: Tensor) -> _Saved:
        """Count what is saved, until autograd lets go of what is returned."""
        saved = _Saved(tensor)
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if address not in self._own:
            self._saved[address] += 1
            if self._saved[address] == 1:
                self._now += size
                self.most = max(self.most, self._now)
            weakref.finalize(saved, self._freed, address, size)
        return saved

    def _freed(self, address: int, size: int) -> None:
        self._saved[address] -= 1
        if not self._saved[address]:
            self._now -= size


class _Saved:
    """Lives as long as the graph has the tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # autograd knows its node; one here would keep the graph alive
