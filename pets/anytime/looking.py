"""A model's layers, seen at work: which modules yield its states, and what passes through them."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bridges.errors import BadInput
from bridges.model.forward import accepted_parameters, states_of
from bridges.model.tokens import ordinary_tokens
from bridges.model.weights import device_of
from pets.anytime.leaves import Path, leaves

_LENGTH = 6
FEW, MORE = 2, 3
"""Rows of the batches that a model is looked at with."""

Kind = Literal["rows", "one", "same", "other"]
"""Of a tensor that a block takes or yields: its first dimension is the batch's; it is 1, and may be the
batch's; the tensor is the same whatever the batch; anything else."""

Blocks = tuple[tuple[str, int], ...]
"""The paths of modules, and which of its calls in a forward each is."""


def some_inputs(plm: Any, rows: int) -> dict[str, Any]:
    """Some tokens, with padding, so that there is a mask to see."""
    device, accepted = device_of(plm), accepted_parameters(plm)
    ids = torch.tensor(ordinary_tokens(plm, rows * _LENGTH), device=device).reshape(rows, _LENGTH)
    inputs: dict[str, Any] = {"input_ids": ids}
    if "attention_mask" in accepted:
        inputs["attention_mask"] = torch.ones_like(ids)
        inputs["attention_mask"][-1, -2:] = 0
    pad = getattr(plm.config, "pad_token_id", None)
    if isinstance(pad, int):
        ids[-1, -2:] = pad
    if "position_ids" in accepted:  # else they may be made for one row alone
        inputs["position_ids"] = torch.arange(_LENGTH, device=device).repeat(rows, 1)
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    return inputs


def blocks_of(plm: Any, name: str) -> tuple[Blocks, Tensor]:
    """The modules that yield states 1 to L, and which of their calls; state 0."""
    made: list[tuple[str, int, Tensor]] = []
    calls: Counter[str] = Counter()
    with ExitStack() as stack:
        for path, module in plm.named_modules():
            if path and not isinstance(module, PreTrainedModel):

                def keep(module: nn.Module, args: Any, output: Any, path: str = path) -> None:
                    first = output[0] if isinstance(output, tuple) and output else output
                    if isinstance(first, Tensor):
                        made.append((path, calls[path], first))
                    calls[path] += 1

                stack.callback(module.register_forward_hook(keep).remove)
        # Not by calling it: hooks of others, and what torch.compile made of it, are not for this.
        output = plm.forward(**some_inputs(plm, FEW), output_hidden_states=True, return_dict=True)
    states = states_of(output)
    if states is None or states[0].dim() != 3:
        raise BadInput(f"{name} returns no states of one stack of layers that could be left on the way")
    if len(states) < 3:
        raise BadInput(f"{name} has {len(states) - 1} layer: there is none before the last to leave at")
    found = []
    for k, state in enumerate(states[1:-1], 1):
        yielding = [(path, turn) for path, turn, x in made if is_same(x, state)]
        if not yielding:
            raise BadInput(f"no module of {name} yields its state {k}: its layers cannot be told apart")
        found.append(min(yielding, key=lambda one: one[0].count(".")))
    first, again = found[0]
    count = len(states) - 1
    if all(one == (first, again + k) for k, one in enumerate(found)) and calls[first] == count:
        return tuple((first, k) for k in range(count)), states[0]
    parent, _, number = first.rpartition(".")
    expected = [f"{parent}.{int(number) + k}" for k in range(count)] if number.isdigit() else []
    if [path for path, _ in found] != expected[:-1] or calls[expected[-1]] != 1:
        raise BadInput(f"the layers of {name} are not called one after another, each once")
    return tuple((path, 0) for path in expected), states[0]


def is_same(x: Tensor, state: Tensor) -> bool:
    return x.shape == state.shape and torch.equal(x, state)


def kind_of(few: Tensor, more: Tensor | None) -> Kind:
    """Of a tensor in a forward of few rows, and of more."""
    if more is None or few.shape[1:] != more.shape[1:]:
        return "other"
    if few.shape == more.shape:
        return "one" if few.dim() and len(few) == 1 else "same"
    return "rows" if (len(few), len(more)) == (FEW, MORE) else "other"


def tensors_of(plm: Any, blocks: Blocks, rows: int) -> list[dict[Path, Tensor]]:
    """Of each block's call all tensors that it takes and yields."""
    seen: list[dict[Path, Tensor]] = [{} for _ in blocks]
    turns: Counter[str] = Counter()

    def note(k: int, what: Any) -> None:
        for path, value in leaves(what):
            if isinstance(value, Tensor):
                seen[k][path] = value

    with ExitStack() as stack:
        for path in dict.fromkeys(path for path, _ in blocks):

            def keep(module: nn.Module, args: Any, kwargs: Any, output: Any, path: str = path) -> None:
                k = blocks.index((path, turns[path]))
                turns[path] += 1
                note(k, (args, kwargs))
                note(k, ("output", output))

            hook = plm.get_submodule(path).register_forward_hook(keep, with_kwargs=True)
            stack.callback(hook.remove)
        plm.forward(**some_inputs(plm, rows), return_dict=True)
    return seen
