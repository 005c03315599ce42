"""Where a running cost enters a model: its forward, whichever way it is called."""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Callable
from types import MethodType
from typing import Any, Protocol

from torch import nn

_MARK = "_bridge_pets_regularizer"
_OWN_FORWARD = "_bridge_pets_forward"


class Around(Protocol):
    """What a module's forwards pass through once it was entered."""

    def run(
        self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        """A forward of the module, called so, given its own."""


def entered(module: nn.Module) -> Around | None:
    """What this very module's forwards pass through, if anything."""
    around: Around | None = module.__dict__.get(_MARK)
    return around


def enter(module: nn.Module, around: Around) -> None:
    """From now on every forward of the module passes through ``around.run``.

    The module gets a subclass of its class, of the same name, with another forward: unlike a hook it is
    also there for who calls ``forward`` itself, as peft does, and unlike an attribute it goes along into
    a deep copy and into the replicas of ``nn.DataParallel``. A module whose forward is an attribute
    already (accelerate puts it there) gets one around that.
    """
    module.__dict__[_MARK] = around
    if "forward" in module.__dict__:
        # A name of its own: an earlier one may lie under what others put around it, and still be called.
        name = f"{_OWN_FORWARD}_{sum(key.startswith(_OWN_FORWARD) for key in module.__dict__)}"
        module.__dict__[name] = module.__dict__["forward"]
        module.__dict__["forward"] = MethodType(_through(module.__dict__[name], own=name), module)
    else:
        kind: Any = type(module)
        module.__class__ = _entered(kind)


def leave(module: nn.Module) -> None:
    """Undo `enter`. What others have put around it since stays, and finds the plain forward inside."""
    module.__dict__.pop(_MARK, None)
    name = getattr(module.__dict__.get("forward"), "_bridge_pets", None)
    if name:
        module.__dict__["forward"] = module.__dict__.pop(name)
    base = getattr(type(module), "__bridge_pets_base__", None)
    if base is not None and "__bridge_pets_base__" in vars(type(module)):
        module.__class__ = base


def is_replaced(module: nn.Module) -> bool:
    """Whether another forward has been put in the module's place since it was entered."""
    forward = module.__dict__.get("forward")
    return forward is not None and not hasattr(forward, "_bridge_pets")


def _through(forward: Callable[..., Any], *, own: str = "", kind: Any = None) -> Callable[..., Any]:
    """A method that passes a module's own forward, or its class's, through what has entered it.

    Args:
        forward: what it looks like.
        own: the attribute that holds the module's own.
        kind: else its class.
    """

    @functools.wraps(forward)
    def entered(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        around: Around | None = self.__dict__.get(_MARK)
        # A deep copy has its own; the class's is as it is now, for kernels are put there later too.
        inner = self.__dict__[own] if own else functools.partial(kind.forward, self)
        if around is None:
            return inner(*args, **kwargs)
        return around.run(self, inner, args, kwargs)

    entered._bridge_pets = own  # type: ignore[attr-defined]
    return entered


@functools.cache
def _entered(kind: Any) -> Any:
    return type(
        kind.__name__,
        (kind,),
        {
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__doc__": kind.__doc__,
            "__bridge_pets_base__": kind,
            "forward": _through(kind.forward, kind=kind),
            "__reduce_ex__": _reduced,
        },
    )


def _reduced(self: Any, protocol: Any) -> Any:
    """No module holds the class by its name, so it is pickled as how it is made."""
    kind = type(self).__bridge_pets_base__
    how, arguments, *state = kind.__reduce_ex__(self, protocol)
    # What others have put on top knows how to do it itself.
    return (_new, (kind,), *state) if how is copyreg.__newobj__ else (how, arguments, *state)  # type: ignore[attr-defined]


def _new(kind: Any) -> nn.Module:
    entered: Any = _entered(kind)
    new: nn.Module = entered.__new__(entered)
    return new
