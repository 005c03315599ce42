"""Tensors that a cost needs at every step and that stay as they are: computed once."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from bridges.latent.label_ends import LabelEnds
from bridges.processes.snapshot import snapshot, tensor_state

_MOST = 32  # of an owner: the last ones asked for

_lock = threading.Lock()
_Made = TypeVar("_Made")
_Kept = weakref.WeakKeyDictionary[nn.Module | LabelEnds, dict[Hashable, object]]
# Beside their owners, not in them: so they are neither saved nor copied with one.
_kept: _Kept = weakref.WeakKeyDictionary()


def constant(owner: nn.Module | LabelEnds, key: Hashable, make: Callable[[], _Made]) -> _Made:
    """What ``make()`` returns, computed anew only where the owner is not as it was then.

    Args:
        owner: of whose attributes alone, and of ``key``, the result is made; see `snapshot`. While that
            cannot tell its state, as in a fit that learns parameters, nothing is kept.
        key: what else it depends on, and what it is.
        make: without side effects; its result is not to be written to.
    """
    if torch.compiler.is_compiling():
        return make()
    state = state_of(owner)
    if state is None:
        return make()
    kept = _kept.get(owner)
    if kept is None:
        kept = _kept.setdefault(owner, {})
    whole = key, state
    with _lock:
        found = kept.pop(whole, None)
    if found is None:
        with torch.inference_mode(False):  # kept, and used in training later
            found = make()
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return found  # its values come with each replay of the graph alone
    with _lock:
        while len(kept) >= _MOST:
            kept.pop(next(iter(kept)), None)
        kept[whole] = found
    return found  # type: ignore[return-value]


def all_kept(owners: Iterable[nn.Module | LabelEnds]) -> list[object]:
    """What is kept of some owners, for who has to hold it: a captured graph reads it where it lies."""
    return [found for owner in owners for found in list(_kept.get(owner, {}).values())]


def state_of(owner: nn.Module | LabelEnds) -> Hashable | None:
    """What is equal while the owner is as it was; None where that cannot be told."""
    if isinstance(owner, nn.Module):
        return snapshot(owner)
    states = tensor_state(owner.vectors), tensor_state(owner.log_weights)
    return None if None in states else states


def middle_of(labels: LabelEnds) -> Tensor:
    """The mean of the labels' mean end points, float64 [1, d]."""
    return constant(labels, "middle", lambda: labels.means().double().mean(0, keepdim=True))


def of_one_word(labels: LabelEnds) -> bool:
    """Whether each label is one word for certain, so that no mixture is to be taken."""
    return labels.vectors.shape[1] == 1 and constant(
        labels, "one word", lambda: not labels.log_weights.any().item()
    )
