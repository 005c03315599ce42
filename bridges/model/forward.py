"""A model's forward: which arguments it takes, and the hidden states in what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def accepted_parameters(plm: nn.Module) -> Mapping[str, inspect.Parameter]:
    """What a model's forward accepts: by its own names, or of a class below, where it hands all on."""
    parameters = inspect.signature(plm.forward).parameters
    for kind in type(plm).__mro__:
        if "input_ids" in parameters or "forward" not in vars(kind):
            continue
        parameters = inspect.signature(vars(kind)["forward"]).parameters
    return parameters


def states_of(output: Any) -> tuple[Tensor, ...] | None:
    """The hidden states in a model's output: an encoder-decoder's are its decoder's."""
    for name in ("decoder_hidden_states", "hidden_states"):
        states = getattr(output, name, None)
        if isinstance(states, (tuple, list)) and states and all(isinstance(s, Tensor) for s in states):
            return tuple(states)
    return None
