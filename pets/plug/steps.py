"""Which step of the optimiser a model is at, whoever runs the loop."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

Before = Callable[[torch.optim.Optimizer], None]

_watching: weakref.WeakSet[Steps] = weakref.WeakSet()


@functools.cache
def _hook() -> None:
    """Once and for good: a hook that goes while hooks are gone through would stop the optimiser."""

    def before(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for steps in list(_watching):
            steps.begin(optimizer)

    def after(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for steps in list(_watching):
            steps.end(optimizer)

    register_optimizer_step_pre_hook(before)
    register_optimizer_step_post_hook(after)


class Steps:
    """Counts the steps of the first optimiser that holds trained parameters of a model.

    A Trainer, which knows, says it itself.

    Attributes:
        count: steps taken.
        total: of the whole run; None where nobody said.
    """

    def __init__(self, count: int = 0, total: int | None = None) -> None:
        self.count, self.total = count, total
        self._model: weakref.ref[nn.Module] | None = None
        self._before: weakref.WeakMethod[Before] | None = None
        self._counted: weakref.ref[torch.optim.Optimizer] | None = None
        self._known: weakref.WeakKeyDictionary[torch.optim.Optimizer, bool] = weakref.WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[Steps], tuple[int, int | None]]:
        """A copied model has optimisers of its own."""
        return Steps, (self.count, self.total)

    def watch(self, model: nn.Module, before: Before) -> None:
        """From now on steps are counted; called at every training forward.

        Args:
            model: whose parameters they change.
            before: called before each step of any optimiser that holds some.
        """
        if self in _watching:
            return
        self._model, self._before = weakref.ref(model), weakref.WeakMethod(before)
        _watching.add(self)
        _hook()

    def remove(self) -> None:
        """No step is counted any more."""
        _watching.discard(self)

    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser, of whatever, is about to take a step."""
        before = None if self._before is None else self._before()
        if before is not None and self._holds(optimizer):
            before(optimizer)

    def end(self, optimizer: torch.optim.Optimizer) -> None:
        """It has."""
        if not self._holds(optimizer):
            return
        if self._counted is None or self._counted() is None:
            self._counted = weakref.ref(optimizer)
        self.count += self._counted() is optimizer

    def _holds(self, optimizer: torch.optim.Optimizer) -> bool:
        model = None if self._model is None else self._model()
        if model is None:
            return False
        if optimizer not in self._known:
            trained = {id(p) for p in model.parameters() if p.requires_grad}
            held = (id(p) for group in optimizer.param_groups for p in group["params"])
            self._known[optimizer] = any(p in trained for p in held)
        return self._known[optimizer]
