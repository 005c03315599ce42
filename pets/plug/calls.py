"""One forward of a model with a running cost: what was called, and what it leaves for the cost."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bridges.cost.documents import Layout
from bridges.errors import BadInput
from bridges.model.positions import IGNORED

# Of each thread its innermost call: replicas of a model run side by side in threads of one process.
_threads = threading.local()


class Told(NamedTuple):
    """What a module was called with."""

    module: nn.Module | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def by_name(self) -> dict[str, Any]:
        """The arguments that are not None."""
        found = dict(self.kwargs)
        if self.module is not None and self.args:
            bound = inspect.signature(self.module.forward).bind_partial(*self.args)
            found |= bound.arguments
        return {name: value for name, value in found.items() if value is not None}


_NOTHING = Told(None, (), {})


class Call:
    """A forward on its way; gone when it ends, so that nothing of it meets another thread's.

    Args:
        owner: the regularizer whose it is.
        keeps_states: whether who called asked for the hidden states.

    Attributes:
        hidden: L+1 hidden states [B, S, H], once they are there.
        times: how often the encoder has run.
        last: [B, S, H], the encoder's own last state, which the head reads; the last of the hidden
            states may be a copy of it.
        of_decoder: whether they are those of a decoder beside an encoder.
        told: what the encoder was called with.
        inner: what the language model was called with, where another module was called around it.
    """

    def __init__(self, owner: object, *, keeps_states: bool = False) -> None:
        self.owner, self.keeps_states = owner, keeps_states
        self.hidden: tuple[Tensor, ...] | None = None
        self.last: Tensor | None = None
        self.times = 0
        self.of_decoder = False
        self.told = self.inner = _NOTHING

    @staticmethod
    def of(owner: object) -> Call | None:
        """The call that this thread is in, if it is the owner's."""
        call: Call | None = getattr(_threads, "call", None)
        return call if call is not None and call.owner is owner else None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in the call while the block runs."""
        above = enter(self)
        try:
            yield
        finally:
            leave(above)


def enter(call: Call) -> Call | None:
    """This thread is in the call from now on; returns where it was before. For what is compiled."""
    above: Call | None = getattr(_threads, "call", None)
    _threads.call = call
    return above


def leave(above: Call | None) -> None:
    """Back to where the thread was before `enter`."""
    _threads.call = above


def layout_of(states: Tensor, told: Mapping[str, Any], *, of_decoder: bool) -> Layout:
    """Where the documents are in the states [B, S, H] of an encoder that was told so much.

    Raises:
        BadInput: if that cannot be said.
    """
    side = "decoder_" if of_decoder else ""
    length = states.shape[1]
    mask, positions = told.get(f"{side}attention_mask"), told.get(f"{side}position_ids")
    if isinstance(mask, Tensor) and mask.dim() == 2:
        mask = mask[:, -length:]  # with a prefix it begins with the prefix
    if isinstance(positions, Tensor):
        positions = positions[..., -length:]
    return Layout.of(
        (len(states), length),
        mask,
        position_ids=positions,
        cu_seqlens=told.get("cu_seq_lens_q"),
        seq_idx=told.get("seq_idx"),
        device=states.device,
    )


def check_padding(encoder: nn.Module | None, told: Mapping[str, Any]) -> None:
    """Was an encoder that was told no attention_mask told of padding in another way, or finds it itself?

    Raises:
        BadInput: if so, for a running cost would count the padding.
    """
    if "attention_mask" in told:
        return
    for name in ("lengths", "input_mask"):
        if name in told:
            raise BadInput(
                f"{name} says where the padding is, which a running cost reads off attention_mask "
                "alone: pass attention_mask=..., 0 at padding"
            )
    pad, ids = getattr(getattr(encoder, "config", None), "pad_index", None), told.get("input_ids")
    if pad is not None and ids is not None and (ids == pad).any():  # XLM
        raise BadInput(
            f"{type(encoder).__name__} takes token {pad} for padding where it gets no mask: pass "
            "attention_mask=..., 0 at padding, for the running cost to leave it out too"
        )


def behind_prompt(labels: Tensor, length: int) -> Tensor:
    """Labels [B, S'] for a sequence that a soft prompt has lengthened; its positions are no targets."""
    return F.pad(labels, (max(0, length - labels.shape[1]), 0), value=IGNORED)


def unshifted(shifted: Tensor) -> Tensor:
    """Labels [B, S] at their own positions, of labels that stand where they are predicted.

    Raises:
        BadInput: if the last one's own position is not in the row.
    """
    if (shifted[:, -1] != IGNORED).any():
        raise BadInput(
            "shift_labels has a target at the last position of a row, so its token is in another part "
            "of the sequence (context parallelism): a running cost needs whole sequences"
        )
    return behind_prompt(shifted[:, :-1], shifted.shape[1])


@contextmanager
def random_kept(device: torch.device) -> Iterator[None]:
    """What the block draws, nobody else misses."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
