"""A model that is only looked at: what a forward leaves behind is put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """In eval mode, and what a forward leaves behind is put back: modes, hooks, attributes, generators.

    transformers leaves hooks where states were asked for, BigBird gives up its attention on short rows.
    """
    before = [_Attributes(module) for module in model.modules()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=list(devices)):
        model.eval()
        try:
            yield
        finally:
            for attributes in before:
                attributes.restore()
            np.random.set_state(numpy_state)
            random.setstate(python_state)


class _Attributes:
    """A module's own attributes, and what is in those that are dicts, such as its children and hooks."""

    def __init__(self, module: nn.Module) -> None:
        own = vars(module)
        dicts = [own, *(value for value in own.values() if isinstance(value, dict))]
        self._kept = [(attributes, list(attributes.items())) for attributes in dicts]

    def restore(self) -> None:
        for attributes, items in self._kept:
            same = len(attributes) == len(items) and all(
                key in attributes and attributes[key] is value for key, value in items
            )
            if not same:
                attributes.clear()
                attributes.update(items)


@contextmanager
def with_gradients(plm: nn.Module) -> Iterator[None]:
    """A graph from the embeddings on, though every parameter may be frozen."""

    def cut(module: nn.Module, args: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        return output.detach().requires_grad_().clone()  # a clone may be changed in place

    tables = {m for m in plm.modules() if isinstance(m, nn.Embedding)}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for module in tables:
            stack.callback(module.register_forward_hook(cut).remove)
        yield
