"""Small tensors between the host and a CUDA device, all of them in one copy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor


def is_remote(device: torch.device) -> bool:
    """Whether the host waits for what has run there before it can read a number."""
    return device.type == "cuda"


def to_host(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """On the host, for one wait; what is there already, and what is None, as it is."""
    remote = [x for x in tensors if x is not None and is_remote(x.device)]
    if not remote or len({x.device for x in remote}) > 1:
        return [None if x is None else x.cpu() if is_remote(x.device) else x for x in tensors]
    found = [remote[0].cpu()] if len(remote) == 1 else _unpacked(_packed(remote).cpu(), remote)
    copied = iter(found)
    return [next(copied) if x is not None and is_remote(x.device) else x for x in tensors]


class Ahead:
    """Copies to the host that are begun before a device is given other work, and read after it.

    Who reads one waits for what the device had to do before the copy, and for nothing that came later.
    What is written to through ``.data`` meanwhile is not seen, as autograd does not see it.
    """

    def __init__(self) -> None:
        self._copies: list[_Copy] = []

    def send(self, tensors: Iterable[Tensor]) -> None:
        """Begin to copy what is on a device, and not on its way already; nobody waits.

        Nothing where they are on several: what is not sent, `to_host` copies.
        """
        fresh = [x for x in tensors if is_remote(x.device) and self._find(x) is None]
        # Whether an inference tensor was written to since cannot be told.
        fresh = [x for x in fresh if not x.is_inference()]
        if fresh and len({x.device for x in fresh}) == 1:
            self._copies.append(_Copy(fresh))

    def to_host(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """As `to_host`; what was sent, and not written to since, is not copied again."""
        found = [None if x is None else self._find(x) for x in tensors]
        others = to_host([x if copy is None else None for x, copy in zip(tensors, found, strict=True)])
        sent = [None if copy is None else copy() for copy in found]
        return [x if other is None else other for x, other in zip(sent, others, strict=True)]

    def _find(self, tensor: Tensor) -> Callable[[], Tensor] | None:
        for copy in self._copies:
            for i, (given, version) in enumerate(copy.given):
                if given is tensor and given._version == version:
                    return partial(copy.read, i)
        return None


class _Copy:
    """Tensors of one device on their way to the host.

    Attributes:
        given: they, and how often each had been written to.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        device = tensors[0].device
        self.given = [(x, x._version) for x in tensors]
        packed = _packed(tensors)
        # Pinned, else the copy waits.
        self._there = torch.empty_like(packed, device="cpu", pin_memory=device.type == "cuda")
        self._there.copy_(packed, non_blocking=True)
        self._found: list[Tensor] | None = None
        self._arrived: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(device))

    def read(self, index: int) -> Tensor:
        """One of them, once it is there."""
        if self._found is None:
            if self._arrived is not None:
                self._arrived.synchronize()
            self._found = _unpacked(self._there, [x for x, _ in self.given])
        return self._found[index]


def to_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """From the host to a device, without a wait; what is there already as it is."""
    if not tensors or not is_remote(device) or any(x.device.type != "cpu" for x in tensors):
        return [x.to(device) for x in tensors]
    # Pinned, else the copy waits; the allocator keeps it until the copy has been made.
    if len(tensors) == 1:
        only = tensors[0].pin_memory() if device.type == "cuda" else tensors[0]
        return [only.to(device, non_blocking=True)]
    alike, pinned = _alike(tensors), device.type == "cuda"
    size = sum(x.numel() if alike else x.nbytes for x in tensors)
    dtype = tensors[0].dtype if alike else torch.uint8
    packed = _packed(tensors, out=torch.empty(size, dtype=dtype, pin_memory=pinned))
    return _unpacked(packed.to(device, non_blocking=True), tensors)


def _packed(tensors: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """Their numbers, [*]: as they are where all are of one dtype, else as bytes, the widest first.

    So each is where it may be read.
    """
    parts = [tensors[i].reshape(-1) for i in _order(tensors)]
    if not _alike(tensors):
        parts = [part.view(torch.uint8) for part in parts]
    return torch.cat(parts) if out is None else torch.cat(parts, out=out)


def _unpacked(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of shapes and dtypes as the tensors that were packed."""
    order = _order(like)
    alike = _alike(like)
    parts = packed.split([like[i].numel() if alike else like[i].nbytes for i in order])
    views = dict(zip(order, parts, strict=True))
    if not alike:
        views = {i: part.view(like[i].dtype) for i, part in views.items()}
    return [views[i] if x.dim() == 1 else views[i].view(x.shape) for i, x in enumerate(like)]


def _alike(tensors: Sequence[Tensor]) -> bool:
    """Whether all are of one dtype."""
    return all(x.dtype == tensors[0].dtype for x in tensors)


def _order(tensors: Sequence[Tensor]) -> list[int]:
    return sorted(range(len(tensors)), key=lambda i: -tensors[i].itemsize)
