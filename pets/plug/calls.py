"""One forward of a model with a running cost: what was called, and what it leaves for the cost."""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bridges.transfer import Ahead

# Of each thread its innermost call: replicas of a model run side by side in threads of one process.
_threads = threading.local()


class Told(NamedTuple):
    """What a module was called with."""

    module: nn.Module | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def by_name(self) -> dict[str, Any]:
        """The arguments that are not None."""
        named = dict(self.kwargs)
        if self.module is not None and self.args:
            names, signature = _signature(self.module)
            if names is not None and len(self.args) <= len(names):
                named.update(zip(names, self.args, strict=False))
            else:
                named |= signature.bind_partial(*self.args).arguments
        return {name: value for name, value in named.items() if value is not None}


_Signature = tuple[tuple[str, ...] | None, inspect.Signature]
_signatures: weakref.WeakKeyDictionary[Any, _Signature] = weakref.WeakKeyDictionary()


def _signature(module: nn.Module) -> _Signature:
    """Of its forward, which takes long to find out: kept by the function.

    Before it the names of what is given by position; None where that takes any number.
    """
    forward: Any = module.forward
    function = getattr(forward, "__func__", None)
    found = None if function is None else _signatures.get(function)
    if found is None:
        signature = inspect.signature(forward)
        kinds = {name: parameter.kind for name, parameter in signature.parameters.items()}
        by_place = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
        names = tuple(name for name, kind in kinds.items() if kind in by_place)
        found = None if inspect.Parameter.VAR_POSITIONAL in kinds.values() else names, signature
        if function is not None:
            _signatures[function] = found
    return found


_NOTHING = Told(None, (), {})


class Call:
    """A forward on its way; gone when it ends, so that nothing of it meets another thread's.

    Args:
        owner: the `Forward` whose it is.
        keeps_states: whether who called asked for the hidden states.
        ahead: what another call of the same inputs has sent.

    Attributes:
        hidden: L+1 hidden states [B, S, H], once they are there.
        times: how often the encoder has run.
        last: [B, S, H], the encoder's own last state, which the head reads; the last of the hidden
            states may be a copy of it.
        of_decoder: whether they are those of a decoder beside an encoder.
        ahead: what says where targets are, on its way to the host.
        told: what the encoder was called with.
        inner: what the language model was called with, where another module was called around it.
    """

    def __init__(self, owner: object, *, keeps_states: bool = False, ahead: Ahead | None = None) -> None:
        self.owner, self.keeps_states = owner, keeps_states
        self.hidden: tuple[Tensor, ...] | None = None
        self.last: Tensor | None = None
        self.times = 0
        self.ahead = Ahead() if ahead is None else ahead
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


@contextmanager
def random_kept(device: torch.device) -> Iterator[None]:
    """What the block draws, nobody else misses."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
