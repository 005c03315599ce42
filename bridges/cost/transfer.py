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
    copied = iter(_unpacked(_packed(remote).cpu(), remote))
    return [next(copied) if x is not None and is_remote(x.device) else x for x in tensors]


def to_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """From the host to a device, without a wait; what is there already as it is."""
    if not is_remote(device) or any(x.device.type != "cpu" for x in tensors):
        return [x.to(device) for x in tensors]
    # Pinned, else the copy waits; the allocator keeps it until the copy has been made.
    size, pinned = sum(x.nbytes for x in tensors), device.type == "cuda"
    packed = _packed(tensors, out=torch.empty(size, dtype=torch.uint8, pin_memory=pinned))
    return _unpacked(packed.to(device, non_blocking=True), tensors)


def _packed(tensors: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """Their bytes, uint8 [*], the widest numbers first, so that each is where it may be read."""
    parts = [tensors[i].reshape(-1).view(torch.uint8) for i in _order(tensors)]
    return torch.cat(parts) if out is None else torch.cat(parts, out=out)


def _unpacked(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of shapes and dtypes as the tensors that were packed."""
    order = _order(like)
    parts = packed.split([like[i].nbytes for i in order])
    views = {
        i: part.view(like[i].dtype).view(like[i].shape) for i, part in zip(order, parts, strict=True)
    }
    return [views[i] for i in range(len(like))]


def _order(tensors: Sequence[Tensor]) -> list[int]:
    return sorted(range(len(tensors)), key=lambda i: -tensors[i].itemsize)
