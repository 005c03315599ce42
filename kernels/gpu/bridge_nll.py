"""The bridge likelihood on Triton kernels: what is launched when and kept for the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.first_order import marked
from kernels.gpu import launch as run
from kernels.gpu.likelihood import likelihood
from kernels.gpu.linear import linear, linear_backward, segment_sum, weight_gradient


def _forward(
    states: Tensor,
    context: Tensor,
    rows: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    laws: tuple[Tensor, Tensor | None, Tensor, Tensor],
    *,
    gradient: bool,
) -> tuple[Tensor, list[Tensor], Tensor | None, Tensor | None]:
    """The costs [N] in float32, the activations' inputs, and what `likelihood` keeps."""
    width = context.shape[2]
    # The first layer is linear: its context part, bias included, is computed once per sequence.
    bias = linear(context, weights[0][:, :width], biases[0])
    weight, x, activation = weights[0][:, width:], states, "none"
    gather: Tensor | None = rows
    hidden = []
    for next_weight, next_bias in zip(weights[1:], biases[1:], strict=True):
        x = linear(x, weight, bias, activation, gather)
        hidden.append(x)
        weight, bias, gather, activation = next_weight, next_bias, None, "gelu"
    value, weighted, sums = likelihood(x, weight, bias, activation, gather, laws, gradient=gradient)
    return value.sum((0, 2)), hidden, weighted, sums


class _BridgeNll(torch.autograd.Function):
    """Keeps the inputs of the activations and the weighted residuals; finds the gradients asked for."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        states: Tensor,
        context: Tensor,
        end: Tensor,
        carry: Tensor | None,
        mean: Tensor,
        precision: Tensor,
        *stack: Tensor,
    ) -> Tensor:
        weights, biases = stack[: len(stack) // 2], stack[len(stack) // 2 :]
        laws = (end, carry, mean, precision)
        value, hidden, weighted, sums = _forward(
            states, context, rows, weights, biases, laws, gradient=True
        )
        ctx.save_for_backward(
            rows, states, context, carry, mean, precision, weighted, sums, *weights, *hidden
        )
        return value

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = outputs
        return _first_order(ctx, marked(grad))


@once_differentiable
def _first_order(ctx: Any, grad_value: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients, from the last layer of the stack down, as far as one is asked for."""
    rows, states, context, carry, mean, precision, weighted, sums, *rest = ctx.saved_tensors
    depth = (len(rest) + 1) // 2
    weights, hidden = rest[:depth], rest[depth:]
    found: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
    _, need_states, need_context, need_end, *need_laws = ctx.needs_input_grad[:7]
    need_weights = ctx.needs_input_grad[7 : 7 + depth]
    need_biases = ctx.needs_input_grad[7 + depth :]
    dtype = weights[0].dtype
    with run.on(states.device):
        grad = weighted * grad_value[:, None]
        if need_end:
            found[3] = -(grad * mean.float()[:, None, None]).sum(0).to(dtype)
        if any(need_laws):
            found[4:7] = _law_gradients(grad_value, precision, sums, need_laws)
        if carry is not None:
            grad[:-1] -= carry.float()[1:, None, None] * grad[1:]
        for k in reversed(range(1, depth)):
            if need_weights[k]:
                found[7 + k] = whole = _empty(weights[k])
                weight_gradient(grad, hidden[k - 1], whole, "gelu")
            if need_biases[k]:
                found[7 + depth + k] = grad.sum((0, 1)).to(dtype)
            if not any((need_states, need_context, *need_weights[:k], *need_biases[:k])):
                return tuple(found)
            grad = linear_backward(grad, weights[k], hidden[k - 1], "gelu")
        width = context.shape[2]
        if need_biases[0]:
            found[7 + depth] = grad.sum((0, 1)).to(dtype)
        if need_states:
            found[1] = linear_backward(grad, weights[0][:, width:])
        if need_context or need_weights[0]:
            per_sequence = segment_sum(grad, rows, context.shape[1])
        if need_context:
            found[2] = linear_backward(per_sequence, weights[0][:, :width])
        if need_weights[0]:
            found[7] = whole = _empty(weights[0])
            weight_gradient(per_sequence, context, whole[:, :width])
            weight_gradient(grad, states, whole[:, width:])
    return tuple(found)


def _empty(weight: Tensor) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


def _law_gradients(
    grad: Tensor, precision: Tensor, sums: Tensor, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients [L] of carry, mean, precision from sums [3, L, N, parts] and that of the costs [N]."""
    half_square, with_end, with_previous = sums.sum(3) @ (grad / sums.shape[1])
    each = (-precision.float() * with_previous, -precision.float() * with_end, half_square)
    return [g.to(precision.dtype) if need else None for g, need in zip(each, needed, strict=True)]


def bridge_nll(
    states: Tensor,
    context: Tensor,
    rows: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    end: Tensor,
    carry: Tensor | None,
    mean: Tensor,
    precision: Tensor,
) -> Tensor:
    """The cost of each token, [N] or [K, N] in float32; see `kernels.bridge_nll.bridge_nll`.

    All floats are in one dtype, any but float64.
    """
    if end.dim() == 3:  # no kernel knows several end points: the tokens are repeated
        count, targets, dim = end.shape
        repeated = states.repeat(1, count, 1), context, rows.repeat(count)
        each = end.reshape(count * targets, dim)
        values = bridge_nll(*repeated, weights, biases, each, carry, mean, precision)
        return values.view(count, targets)
    states, context, rows, end, mean, precision = (
        x.contiguous() for x in (states, context, rows, end, mean, precision)
    )
    carry = None if carry is None else carry.contiguous()
    biases = [bias.contiguous() for bias in biases]
    laws = (end, carry, mean, precision)
    with run.on(states.device):
        floats = [states, context, *weights, *biases, *(x for x in laws if x is not None)]
        if torch.is_grad_enabled() and any(x.requires_grad for x in floats):
            value: Tensor = _BridgeNll.apply(rows, states, context, *laws, *weights, *biases)
            return value
        return _forward(states, context, rows, weights, biases, laws, gradient=False)[0]
