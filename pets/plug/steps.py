"""Which step of the optimiser a model is at, whoever runs the loop."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from pets.plug.around_steps import after_steps, before_steps

Before = Callable[[torch.optim.Optimizer], None]


class Steps:
    """Counts the steps of the first optimiser that holds trained parameters of a model.

    A Trainer, which knows, says it itself.

    Attributes:
        count: steps taken.
        total: of the whole run; None where nobody said.
    """

    def __init__(self, count: int = 0, total: int | None = None) -> None:
        self.count, self.total = count, total
        self._hooks: list[RemovableHandle] = []
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
        if self._hooks:
            return
        of_model, told = weakref.ref(model), weakref.WeakMethod(before)

        def early(optimizer: torch.optim.Optimizer) -> None:
            call = told()
            if call is not None and self._holds(optimizer, of_model()):
                call(optimizer)

        def late(optimizer: torch.optim.Optimizer) -> None:
            if self._holds(optimizer, of_model()) and self._is_counted(optimizer):
                self.count += 1

        self._hooks = [before_steps(early), after_steps(late)]

    def remove(self) -> None:
        """No step is counted any more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _holds(self, optimizer: torch.optim.Optimizer, model: nn.Module | None) -> bool:
        if model is None:
            self.remove()
            return False
        if optimizer not in self._known:
            trained = {id(p) for p in model.parameters() if p.requires_grad}
            held = (id(p) for group in optimizer.param_groups for p in group["params"])
            self._known[optimizer] = any(p in trained for p in held)
        return self._known[optimizer]

    def _is_counted(self, optimizer: torch.optim.Optimizer) -> bool:
        counted = None if self._counted is None else self._counted()
        if counted is None:
            self._counted = weakref.ref(optimizer)
            return True
        return counted is optimizer
