"""What a module's results depend on beside their arguments: its state, as something to compare."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}
_SURE = (str, type(None))
_NUMBERS = (bool, int, float)


class _Unknown(Exception):
    """A state that cannot be told."""


class TensorState:
    """Which tensor it is and how often it was written to; equal while nothing of that has changed.

    It holds the memory, so that no other tensor can come to lie there.
    """

    __slots__ = ("_memory", "_told")

    def __init__(self, tensor: Tensor) -> None:
        self._memory = tensor.untyped_storage()
        place = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device
        self._told = (tensor._version, *place)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorState) and self._told == other._told

    def __hash__(self) -> int:
        return hash(self._told)


def tensor_state(tensor: Tensor) -> TensorState | None:
    """Of a tensor; None where it cannot be told, or the tensor requires a gradient.

    What is written through ``tensor.data`` in place is not seen, as autograd does not see it.
    """
    # A subclass may have no memory of its own, and an inference tensor counts no writes.
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
    if not plain or tensor.requires_grad or tensor.is_inference():
        return None
    return TensorState(tensor)


def snapshot(module: nn.Module) -> Hashable | None:
    """The state of a module and of those in it: classes, attributes, tensors.

    Two that are equal mean that what is computed from the module's attributes alone is the same.

    Returns:
        None where that cannot be told: an attribute is something else than text, numbers, tensors, None,
        or tuples and lists of these, or a tensor requires a gradient.
    """
    try:
        return _of_module(module)
    except _Unknown:
        return None


def _of_module(module: nn.Module) -> Hashable:
    kind: Any = type(module)
    told: list[Hashable] = [kind]
    for name, value in vars(module).items():
        if name not in _OF_EVERY_MODULE:
            told.append(name)
            told.append(value if isinstance(value, _SURE) else _of_value(value))
    for tensors in (module._parameters, module._buffers):
        for name, tensor in tensors.items():
            told.append(name)
            told.append(None if tensor is None else _of_value(tensor))
    for name, child in module._modules.items():
        told.append(name)
        told.append(None if child is None else _of_module(child))
    return tuple(told)


def _of_value(value: Any) -> Hashable:
    if isinstance(value, _SURE):
        return value
    if isinstance(value, _NUMBERS):
        return type(value), value  # 1, 1.0 and True are equal
    if isinstance(value, (tuple, list)):
        return (type(value), *map(_of_value, value))
    state = tensor_state(value) if isinstance(value, Tensor) else None
    if state is None:
        raise _Unknown
    return state
