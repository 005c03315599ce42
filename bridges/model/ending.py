"""How a model goes on behind its encoder: which module that is, and the norm at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bridges.errors import BadInput
from bridges.model.forward import states_of
from bridges.model.probe import probing
from bridges.model.undisturbed import undisturbed


@dataclass(frozen=True)
class Ending:
    """What was seen in one forward.

    Attributes:
        path: of the encoder in the model, or of a decoder that stands behind one.
        made: the class of its output.
        pools: whether that has a pooled state beside the last ones.
        norm: that all layers' sum passes at the end; None where a layer is the end.
        last_is_normed: whether the last of its hidden states is behind that.
        states: its hidden states, L+1 of [B, S, H].
        raw: [B, S, H], the last ones before the norm.
        logits: the model's own.
    """

    path: str
    made: type
    pools: bool
    norm: nn.Module | None
    last_is_normed: bool
    states: tuple[Tensor, ...]
    raw: Tensor
    logits: Tensor


def look_at_ending(plm: Any, inputs: dict[str, Any]) -> Ending:
    """Run a transformers model and see; nothing of it stays.

    What made the encoder's result is found by looking: one of its layers did (BERT), or a module
    behind all layers (a final norm).

    Raises:
        BadInput: if it is not plain which module the head reads, or how that ends.
    """
    name = type(plm).__name__
    heard: dict[str, Any] = {}
    made: list[tuple[nn.Module, Any, Any]] = []  # alive, so that no two results share their memory

    def result(module: nn.Module, args: Any, output: Any) -> None:
        made.append((module, args, output[0] if isinstance(output, tuple) else output))

    with probing(), undisturbed(plm), torch.no_grad(), ExitStack() as stack:
        for path, module in plm.named_modules():
            if module is plm:
                continue
            if isinstance(module, PreTrainedModel):

                def keep(module: nn.Module, args: Any, output: Any, path: str = path) -> None:
                    heard[path] = output

                heard[path] = None  # in the order of the tree: outer ones first
                stack.callback(module.register_forward_hook(keep).remove)
            stack.callback(module.register_forward_hook(result).remove)
        # Not by calling it: hooks of others, and what torch.compile made of it, are not for this.
        output = plm.forward(**inputs, output_hidden_states=True, return_dict=True)
    states, logits = states_of(output), getattr(output, "logits", None)
    if states is None or not isinstance(logits, Tensor):
        raise BadInput(f"{name} returns no hidden states with logits: it has no head to read at a layer")
    path = next((path for path, said in heard.items() if _ends_in(said, states[-1])), None)
    if path is None:
        raise BadInput(
            f"{name} has no encoder of its own that yields its hidden states: its head cannot be read "
            "at other layers"
        )
    encoder, said = plm.get_submodule(path), heard[path]
    last = said.last_hidden_state
    norm, raw = _norm(encoder, last, made, name)
    return Ending(
        path=path,
        made=type(said),
        pools=getattr(said, "pooler_output", None) is not None,
        norm=norm,
        last_is_normed=torch.equal(states[-1], last),
        states=states,
        raw=raw,
        logits=logits,
    )


def _ends_in(said: Any, last: Tensor) -> bool:
    states = states_of(said)
    if states is None or not isinstance(getattr(said, "last_hidden_state", None), Tensor):
        return False
    return states[-1] is last or (states[-1].shape == last.shape and torch.equal(states[-1], last))


def _norm(
    encoder: nn.Module, last: Tensor, made: list[tuple[nn.Module, Any, Any]], name: str
) -> tuple[nn.Module | None, Tensor]:
    """The norm at the encoder's end, or None, and what it is given."""
    # Exactly this class: a list of parametrizations (BitFit's) is one of its subclasses.
    stacks = [module for module in encoder.modules() if type(module) is nn.ModuleList]
    inside = {module for stack in stacks for module in stack.modules()}
    # What holds the layers returns their result too, and is neither a layer nor a norm.
    holders = {m for m in encoder.modules() if not inside.isdisjoint(m.modules())} - inside
    own = set(encoder.modules()) - holders
    makers = [
        (module, args)
        for module, args, result in made
        if module in own
        and isinstance(result, Tensor)
        and result.data_ptr() == last.data_ptr()
        and result.shape == last.shape
    ]
    norms = [
        (module, args[0])
        for module, args in makers
        if module not in inside and len(args) == 1 and next(module.parameters(), None) is not None
    ]
    if norms:
        return norms[-1]  # of a norm in a wrapper the wrapper is what counts; it is done last
    if not any(module in inside for module, _ in makers):
        raise BadInput(
            f"the encoder of {name} ends in what is neither a layer nor a norm: its head cannot be read "
            "at other layers"
        )
    return None, last


class _Given(nn.Module):
    """What stands in an encoder's place: it returns what it is told, and is the encoder otherwise."""

    def __init__(self, encoder: nn.Module, output: Any) -> None:
        super().__init__()
        self.__dict__["encoder"] = encoder  # not as a child, which would be registered
        self.output = output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["encoder"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.output


@contextmanager
def given_output(plm: nn.Module, path: str, output: Any) -> Iterator[None]:
    """In this block the module at ``path`` is not run, nor are its hooks: it returns ``output``."""
    above, _, name = path.rpartition(".")
    parent = plm.get_submodule(above)
    encoder = parent.get_submodule(name)
    parent._modules[name] = _Given(encoder, output)  # assigning would pass through wrappers' setters
    try:
        yield
    finally:
        parent._modules[name] = encoder
