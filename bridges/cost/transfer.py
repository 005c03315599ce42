"""Small tensors between the host and a CUDA device, all of them in one copy."""

from __future__ import annotations

from collections.abc import Sequence

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
