"""Calls before and after the steps of all optimisers, that may end while they are being made."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

Hook = Callable[[torch.optim.Optimizer], None]

_BEFORE: OrderedDict[int, Hook] = OrderedDict()
_AFTER: OrderedDict[int, Hook] = OrderedDict()


def before_steps(hook: Hook) -> RemovableHandle:
    """From now on the hook is called with each optimiser that is about to step."""
    return _added(_BEFORE, hook)


def after_steps(hook: Hook) -> RemovableHandle:
    """The same, with each that has stepped."""
    return _added(_AFTER, hook)


def _added(hooks: OrderedDict[int, Hook], hook: Hook) -> RemovableHandle:
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    return handle


# torch goes through its own hooks as they are, so that one that takes itself out is an error there.
def _call_before(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for hook in list(_BEFORE.values()):
        hook(optimizer)


def _call_after(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for hook in list(_AFTER.values()):
        hook(optimizer)


register_optimizer_step_pre_hook(_call_before)
register_optimizer_step_post_hook(_call_after)
