"""Pooling whose gradient is added where the model's own arrives, not held for all states at once.

A running cost reads all L+1 hidden states, and its gradient to them is known before a backward pass has
reached the last of them. Given to autograd as it is, the gradients of all layers would lie side by side
until their turn, as large together as the states. So autograd is given a placeholder, 0 at every element
and without memory, and a hook on each state adds its layer's share when the model's gradient is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.first_order import marked
from kernels.pytorch_pooling import Shares

LEAST_BYTES = 2**26
"""Of all states, on a CUDA device: below it one launch for all layers beats a hook for each."""


def may_defer(hidden_states: Sequence[Tensor]) -> bool:
    """Whether there are gradients that can wait for a model's, and that are large enough for it."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return False
    if _is_launched_on(hidden_states[0]) and sum(h.nbytes for h in hidden_states) < LEAST_BYTES:
        return False
    return any(map(_waits, hidden_states))


def _is_launched_on(hidden: Tensor) -> bool:
    return hidden.is_cuda


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


class _Later:
    """What a backward pass has found for the states, until the turn of each comes."""

    def __init__(self) -> None:
        self._shares: Shares | None = None
        self._placeholder: Tensor | None = None
        self._left, self._task = 0, -1

    def put(self, shares: Shares, placeholder: Tensor, layers: int) -> None:
        """From the backward pass that is running; so many layers wait."""
        self._shares, self._placeholder, self._left = shares, placeholder, layers
        self._task = torch._C._current_graph_task_id()

    def add(self, layer: int, grad: Tensor) -> Tensor | None:
        """Called with the gradient that has arrived at a state."""
        # Another pass, which the cost is no part of, may go over a graph that was kept.
        shares, placeholder = self._shares, self._placeholder
        if shares is None or placeholder is None or self._task != torch._C._current_graph_task_id():
            return None
        self._left -= 1
        if not self._left:  # whoever keeps the loss keeps the graph, and this
            self._shares = self._placeholder = None
        # The placeholder alone is every state's. A sum with the model's is the engine's own.
        if grad.data_ptr() == placeholder.data_ptr():
            return shares.of_layer(layer)
        return shares.add(layer, grad)


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
        # A pass for some tensors' gradients alone may take that of a state before its hook.
        whole = torch._C._will_engine_execute_node(ctx.next_functions[0][0])
        return _gradients(ctx, *grads, wait=whole)


@once_differentiable
def _first_order(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    return _gradients(ctx, *grads, wait=False)


def _gradients(ctx: Any, *grads: Any, wait: bool) -> tuple[Tensor | None, ...]:
    mask, rows, columns = ctx.saved_tensors
    shares = Shares(mask, rows, columns, *grads, like=ctx.like)
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
        ctx.later.put(shares, placeholder, waiting)
    return tuple(found)
