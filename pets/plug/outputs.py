"""The outputs of a model that carries a running cost."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

_STATES = ("hidden_states", "decoder_hidden_states", "encoder_hidden_states")


def drop_states(output: Any) -> None:
    """Take the hidden states out of an encoder's output."""
    for name in _STATES:
        if getattr(output, name, None) is not None:
            setattr(output, name, None)


def note(output: Any, running_cost: Tensor | None) -> Any:
    """The output with a running cost that is no item of it, so that predictions stay as they are."""
    if not isinstance(output, ModelOutput):
        return output
    if getattr(output, "loss", None) is not None and not torch.compiler.is_compiling():
        output = declared(output)  # accelerate builds outputs anew, by their class
    object.__setattr__(output, "running_cost", running_cost)
    return output


def declared(output: Any) -> Any:
    """The output in a class that knows a running cost: DDP takes outputs apart and builds them anew."""
    fields = getattr(type(output), "__dataclass_fields__", None)
    if not isinstance(output, ModelOutput) or fields is None or "running_cost" in fields:
        return output
    # An output keeps what was taken out of it among its items.
    return _with_cost(type(output), {k: v for k, v in output.items() if getattr(output, k) is not None})


def _with_cost(kind: Any, values: dict[str, Any]) -> Any:
    return _class_with_cost(kind)(**values)


@functools.cache
def _class_with_cost(kind: type[Any]) -> type[Any]:
    return dataclasses.make_dataclass(
        kind.__name__,
        [("running_cost", Tensor | None, None)],
        bases=(kind,),
        # No module holds the class by its name, so it is pickled as how it is made.
        namespace={"__reduce__": lambda self: (_with_cost, (kind, dict(self)))},
    )
