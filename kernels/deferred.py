"""Pooling whose gradient is added where the model's own arrives, not held for all states at once.

A running cost reads all L+1 hidden states, and its gradient to them is known before a backward pass has
reached the last of them. Given to autograd as it is, the gradients of all layers would lie side by side
until their turn, as large together as the states. So autograd is given a placeholder, 0 at every element
and without memory, and a hook on each state adds its layer's share when the model's gradient is there.
Hooks of others on the states see the whole; one on the pooling's own node sees the placeholders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.first_order import marked
from kernels.pytorch_pooling import Shares, mean_weights

LEAST_BYTES = 2**26
"""Of the gradients, unless on a CPU: below it one launch for all layers beats a hook for each."""

MOST_TARGETS = 0.25
"""Of all positions. What a backward pass has found for a target it keeps until the turn of the layer."""


def may_defer(hidden_states: Sequence[Tensor], targets: int) -> bool:
    """Whether gradients can wait for a model's, and memory is saved by it.

    Args:
        hidden_states: L+1 tensors [B, S, H].
        targets: how many.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return False
    first = hidden_states[0]
    if targets > MOST_TARGETS * first.shape[0] * first.shape[1]:
        return False
    waiting = sum(h.nbytes for h in hidden_states if _waits(h))
    return waiting > 0 and (first.device.type == "cpu" or waiting >= LEAST_BYTES)


def pool_deferred(
    operations: Any, hidden_states: Sequence[Tensor], mask: Tensor | None, rows: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor | None]:
    """See `kernels.pooling.pool_trajectory`.

    Args:
        operations: of the backend whose forward it is.
        mask: None where no mean is read.
        rows, columns: in order.
    """
    later, end = _Later(), rows.new_empty(0, dtype=torch.float32).requires_grad_()
    states, context = _Pool.apply(end, operations, later, mask, rows, columns, *hidden_states)
    for layer, hidden in enumerate(hidden_states):
        if _waits(hidden):
            _hook_first(hidden, partial(later.add, layer))
    return states, context


def _waits(hidden: Tensor) -> bool:
    # A leaf would keep its hook for good, and a subclass may be no memory that can be added to.
    return hidden.requires_grad and not hidden.is_leaf and type(hidden) is Tensor


def _hook_first(hidden: Tensor, hook: Callable[[Tensor], Tensor | None]) -> None:
    """Called before the hooks that are there, for whoever looks at a gradient sees all of it."""
    handle = hidden.register_hook(hook)
    hooks: Any = hidden._backward_hooks
    if len(hooks) > 1:  # autograd goes by the order in which a plain dict has them
        others = {key: other for key, other in hooks.items() if key != handle.id}
        hooks.clear()
        hooks.update({handle.id: hook, **others})


@dataclass
class _Found:
    """What one backward pass has found, for so many layers still."""

    shares: Shares
    placeholder: Tensor
    layers: int


class _Later:
    """What backward passes have found for the states, until the turn of each comes."""

    def __init__(self) -> None:
        self._found: dict[int, _Found] = {}  # by pass: one may run within another, or in another thread

    def put(self, found: _Found) -> None:
        """From the pass that is running."""
        self._found[torch._C._current_graph_task_id()] = found

    def add(self, layer: int, grad: Tensor) -> Tensor | None:
        """Called with the gradient that has arrived at a state."""
        task = torch._C._current_graph_task_id()
        found = self._found.get(task)
        if found is None:  # the cost is no part of this pass
            return None
        found.layers -= 1
        if not found.layers:  # whoever keeps the loss keeps the graph, and this
            del self._found[task]
        # The placeholder alone is every state's. A sum with the model's is the engine's own.
        if grad.data_ptr() == found.placeholder.data_ptr():
            return found.shares.of_layer(layer)
        return found.shares.add(layer, grad)


class _Pool(torch.autograd.Function):
    """The forward of a backend; of its gradient, what waits is left to a hook."""

    @staticmethod
    def forward(
        ctx: Any,
        end: Tensor,  # a leaf that is read by nobody else
        operations: Any,
        later: _Later,
        mask: Tensor | None,
        rows: Tensor,
        columns: Tensor,
        *hidden_states: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        # Not the mask, which may be the caller's, to be written to before the backward pass.
        weights, scale = (None, None) if mask is None else mean_weights(mask, hidden_states[0].dtype)
        ctx.save_for_backward(weights, scale, rows, columns)
        ctx.like = hidden_states[0].shape, hidden_states[0].dtype
        ctx.later, ctx.waits = later, [_waits(hidden) for hidden in hidden_states]
        if mask is None:
            return operations.target_states(hidden_states, rows, columns, in_order=True), None
        states, context = operations.pool_trajectory(hidden_states, mask, rows, columns, in_order=True)
        return states, context

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # for a second derivative, which is refused
            return _first_order(ctx, *(None if grad is None else marked(grad) for grad in grads))
        # A pass for some tensors' gradients alone may take that of a state before its hook.
        whole = torch._C._will_engine_execute_node(ctx.next_functions[0][0])
        return _gradients(ctx, *grads, wait=whole)


@once_differentiable
def _first_order(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    return _gradients(ctx, *grads, wait=False)


def _gradients(ctx: Any, *grads: Any, wait: bool) -> tuple[Tensor | None, ...]:
    shares = Shares(*ctx.saved_tensors, *grads, like=ctx.like)
    shape, dtype = ctx.like
    placeholder = grads[0].new_zeros((), dtype=dtype).expand(shape)
    others = len(ctx.needs_input_grad) - len(ctx.waits)
    found: list[Tensor | None] = [None] * others
    waiting = 0
    for layer, (waits, needed) in enumerate(zip(ctx.waits, ctx.needs_input_grad[others:], strict=True)):
        if wait and waits:
            found.append(placeholder)
            waiting += 1
        else:
            found.append(shares.of_layer(layer) if needed else None)
    if waiting:
        ctx.later.put(_Found(shares, placeholder, waiting))
    return tuple(found)
