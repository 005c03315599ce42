"""Pooling whose gradient is added where the model's own arrives: that of all states is never held at once.

A running cost reads all L+1 hidden states, and its gradient to them is known before a backward pass has
reached the last of them. Given to autograd as it is, the gradients of all layers would lie side by side
until their turn, as large together as the states. So autograd is given a placeholder, 0 at every element
and without memory, and a hook on each state adds its layer's share when the model's gradient is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.first_order import marked
from kernels.pytorch_pooling import Shares


def may_defer(hidden_states: Sequence[Tensor]) -> bool:
    """Whether some of the states are what a model computed, and a gradient is to come back to them."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling() and any(map(_waits, hidden_states))


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
            handle = hidden.register_hook(partial(later.add, layer))
            # Before whoever else looks at the gradient, so that all of it is seen.
            hidden._backward_hooks.move_to_end(handle.id, last=False)  # type: ignore[attr-defined]
    return states, context


def _waits(hidden: Tensor) -> bool:
    # A leaf would keep its hook for good, and a subclass may be no memory that can be added to.
    return hidden.requires_grad and not hidden.is_leaf and type(hidden) is Tensor


class _Later:
    """What a backward pass has found for the states, until the turn of each comes."""

    def __init__(self) -> None:
        self._shares: Shares | None = None
        self._placeholder: Tensor | None = None
        self._task = -1

    def put(self, shares: Shares, placeholder: Tensor) -> None:
        """From the backward pass that is running."""
        self._shares, self._placeholder = shares, placeholder
        self._task = torch._C._current_graph_task_id()

    def add(self, layer: int, grad: Tensor) -> Tensor | None:
        """Called with the gradient that has arrived at a state."""
        # Another pass, which the cost is no part of, may go over a graph that was kept.
        if self._shares is None or self._task != torch._C._current_graph_task_id():
            return None
        assert self._placeholder is not None
        # That of the cost alone: the placeholder is everybody's. A sum with the model's is the engine's own.
        if grad.data_ptr() == self._placeholder.data_ptr():
            return self._shares.of_layer(layer)
        return self._shares.add(layer, grad)


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
        ctx.save_for_backward(mask, rows, columns)
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
        # Who asks for the gradients of some tensors alone may get that of a state as it was before its hook.
        return _gradients(ctx, *grads, wait=torch._C._will_engine_execute_node(ctx.next_functions[0][0]))


@once_differentiable
def _first_order(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    return _gradients(ctx, *grads, wait=False)


def _gradients(ctx: Any, *grads: Any, wait: bool) -> tuple[Tensor | None, ...]:
    shares = Shares(*ctx.saved_tensors, *grads, ctx.like)
    shape, dtype = ctx.like
    placeholder = grads[0].new_zeros((), dtype=dtype).expand(shape)
    others = len(ctx.needs_input_grad) - len(ctx.waits)
    found: list[Tensor | None] = [None] * others
    for layer, waits in enumerate(ctx.waits):
        if not ctx.needs_input_grad[others + layer]:
            found.append(None)
        else:
            found.append(placeholder if wait and waits else shares.of_layer(layer))
    if wait:
        ctx.later.put(shares, placeholder)
    return tuple(found)
