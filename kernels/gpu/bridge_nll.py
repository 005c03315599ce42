"""The bridge likelihood on Triton kernels: what is launched when and kept for the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import pytorch
from kernels.first_order import marked
from kernels.gpu import launch as run
from kernels.gpu.likelihood import Laws, latent_gradient, likelihood
from kernels.gpu.linear import linear, linear_backward, segment_sum, weight_gradient


def _forward(
    states: Tensor,
    context: Tensor,
    rows: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    laws: Laws,
    *,
    digits: run.Digits,
    keep: bool = False,
    learned: bool = False,
) -> tuple[Tensor, list[Tensor], Tensor | None, Tensor | None]:
    """The costs [K, N] in float32, the activations' inputs, and what `likelihood` keeps."""
    width = context.shape[2]
    # The first layer is linear: its context part, bias included, is computed once per sequence.
    bias = linear(context, weights[0][:, :width], biases[0], digits=digits)
    weight, x, activation = weights[0][:, width:], states, "none"
    gather: Tensor | None = rows
    hidden = []
    for next_weight, next_bias in zip(weights[1:], biases[1:], strict=True):
        x = linear(x, weight, bias, activation, gather, digits=digits)
        hidden.append(x)
        weight, bias, gather, activation = next_weight, next_bias, None, "gelu"
    value, moved, sums = likelihood(
        x, weight, bias, activation, gather, laws, keep=keep, learned=learned, digits=digits
    )
    return value.sum((1, 3)), hidden, moved, sums


class _BridgeNll(torch.autograd.Function):
    """Keeps the inputs of the activations and the latents; finds the gradients that are asked for."""

    @staticmethod
    def forward(
        ctx: Any,
        digits: run.Digits,
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
        value, hidden, moved, sums = _forward(
            states,
            context,
            rows,
            weights,
            biases,
            laws,
            digits=digits,
            keep=True,
            learned=any(ctx.needs_input_grad[5:8]),
        )
        ctx.digits = digits
        ctx.save_for_backward(rows, states, context, *laws, moved, sums, *weights, *hidden)
        return value

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = outputs
        return _first_order(ctx, marked(grad))


@once_differentiable
def _first_order(ctx: Any, grad_value: Tensor) -> tuple[Tensor | None, ...]:
    """In full precision though it be asked for under an autocast."""
    with run.on(grad_value.device), run.full_precision(grad_value.device):
        return tuple(_gradients(ctx, grad_value.contiguous()))


def _gradients(ctx: Any, grad_value: Tensor) -> list[Tensor | None]:
    """The gradients, from the last layer of the stack down, as far as one is asked for."""
    rows, states, context, end, carry, mean, precision, moved, sums, *rest = ctx.saved_tensors
    depth = (len(rest) + 1) // 2
    weights, hidden = rest[:depth], rest[depth:]
    found: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
    _, _, need_states, need_context, need_end, *need_laws = ctx.needs_input_grad[:8]
    need_weights = ctx.needs_input_grad[8 : 8 + depth]
    need_biases = ctx.needs_input_grad[8 + depth :]
    dtype, digits = weights[0].dtype, ctx.digits
    if need_end:
        found[4] = _end_gradient(grad_value, moved, end, mean, precision).to(dtype)
    if any(need_laws):
        found[5:8] = _law_gradients(grad_value, precision, sums, need_laws)
    if not any((need_states, need_context, *need_weights, *need_biases)):
        return found
    grad = latent_gradient(grad_value, moved, (end, carry, mean, precision))
    for k in reversed(range(1, depth)):
        if need_weights[k]:
            found[8 + k] = whole = _empty(weights[k])
            weight_gradient(grad, hidden[k - 1], whole, "gelu", digits=digits)
        if need_biases[k]:
            found[8 + depth + k] = grad.sum((0, 1)).to(dtype)
        if not any((need_states, need_context, *need_weights[:k], *need_biases[:k])):
            return found
        grad = linear_backward(grad, weights[k], hidden[k - 1], "gelu", digits=digits)
    width = context.shape[2]
    if need_biases[0]:
        found[8 + depth] = grad.sum((0, 1)).to(dtype)
    if need_states:
        found[2] = linear_backward(grad, weights[0][:, width:], digits=digits)
    if need_context or need_weights[0]:
        per_sequence = segment_sum(grad, rows, context.shape[1])
    if need_context:
        found[3] = linear_backward(per_sequence, weights[0][:, :width], digits=digits)
    if need_weights[0]:
        found[8] = whole = _empty(weights[0])
        weight_gradient(per_sequence, context, whole[:, :width], digits=digits)
        weight_gradient(grad, states, whole[:, width:], digits=digits)
    return found


def _empty(weight: Tensor) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


def _end_gradient(grad: Tensor, moved: Tensor, end: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
    """Of the end points, [K, N, d]: ``-g_k sum_i precision_i mean_i (moved_i - mean_i v_k) / L``."""
    strength = (precision.float() * mean.float() / len(moved))[:, None, None]
    pull = (strength * moved).sum(0) - (strength * mean.float()[:, None, None]).sum(0) * end.float()
    return -grad[..., None] * pull


def _law_gradients(
    grad: Tensor, precision: Tensor, sums: Tensor, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients [L] of carry, mean, precision from sums [3, K, L, N, parts], of the costs [K, N]."""
    weighted = (sums.sum(4) * (grad / sums.shape[2])[:, None]).sum((1, 3))
    half_square, with_end, with_previous = weighted
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
    *,
    source: torch.dtype | None = None,
) -> Tensor:
    """The cost of each token, [N] or [K, N] in float32; see `kernels.bridge_nll.bridge_nll`.

    All floats are in one dtype, any but float64.
    """
    digits = run.digits(source)
    many = states.shape[0] * states.shape[1] >= run.MANY
    if many and digits == "tf32x3" and weights[0].dtype == torch.float32:
        # On an H100 cuBLAS's float32 products take less of the device than three TF32 ones: in a fit of
        # 15 200 rows 2.38 ms against 4.40, in a cost of 4352 rows, pooling left out, 1.25 against 1.54.
        laws = (end, carry, mean, precision)
        return pytorch.bridge_nll(states, context, rows, weights, biases, *laws, source=source)
    several = end if end.dim() == 3 else end[None]
    states, context, rows, several, mean, precision = (
        x.contiguous() for x in (states, context, rows, several, mean, precision)
    )
    carry = None if carry is None else carry.contiguous()
    biases = [bias.contiguous() for bias in biases]
    kept = (several, carry, mean, precision)
    with run.on(states.device):
        floats = [states, context, *weights, *biases, *(x for x in kept if x is not None)]
        if torch.is_grad_enabled() and any(x.requires_grad for x in floats):
            values: Tensor = _BridgeNll.apply(digits, rows, states, context, *kept, *weights, *biases)
        else:
            values = _forward(states, context, rows, weights, biases, kept, digits=digits)[0]
    return values if end.dim() == 3 else values[0]
