"""Fused latent projection and Gaussian bridge log-likelihood over all layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.checks import (
    Reduction,
    check_devices,
    check_end,
    check_stack,
    check_trajectory,
    reduce_tokens,
)
from kernels.dispatch import choose


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
    reduction: Reduction = "mean",
    source: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """Mean over layers and tokens of ``sum_d precision_i (z_i - carry_i z_{i-1} - mean_i v)^2 / 2``.

    ``z_i = g([context_i ; state_i])`` with g a linear-GELU stack shared by all layers and no final
    activation (arXiv 2305.17670, section 3). Every Gaussian bridge is a choice of the three vectors:
    the marginal cost has no carry-over and precision 1/s2(t_i); a Markov path likelihood carries the
    previous layer's latent over.

    Args:
        states: [L, N, H] from `kernels.pooling.pool_trajectory`.
        context: [L, B, H] from the same.
        rows: int64 [N], the sequence each target belongs to.
        weights: of g, [h_1, 2H], [h_2, h_1] ... [d, h_k]; the first H columns of the first one read
            the context.
        biases: of g, [h_1] ... [d].
        end: [N, d] end points v, or [K, N, d]: K of them for each token, whose latents are shared.
        carry: [L] or None for zero; carry_0 multiplies the start, which is zero.
        mean: [L], the factor of v at each layer.
        precision: [L], one over the variance.
        reduction: "mean" over tokens, or "none".
        source: dtype of the hidden states that were pooled. On tensor cores float32 products are made of
            three TF32 products, and where that dtype is of 16 bits, which has fewer digits, of one. By
            default that of the states.
        backend: the implementation, by name; by default `kernels.dispatch` chooses.

    Returns:
        In the dtype of the weights, a mean over layers and tokens: a scalar, 0 when N is 0; with
        ``reduction="none"`` over layers alone: [N]. With K end points [K] and [K, N].

    Raises:
        ValueError: for shapes or devices that do not fit together, an unknown reduction, or a backend
            that cannot run.
    """
    layers, tokens, width = check_trajectory(states, context, rows)
    _, dim = check_stack(weights, biases, 2 * width, width)
    check_end(end, tokens, dim)
    for name, vector in (("carry", carry), ("mean", mean), ("precision", precision)):
        if vector is not None and vector.shape != (layers,):
            raise ValueError(f"{name} {tuple(vector.shape)}: expected {(layers,)}, one per layer")
    check_devices(
        states=states,
        context=context,
        rows=rows,
        weights=weights,
        biases=biases,
        end=end,
        carry=carry,
        mean=mean,
        precision=precision,
    )
    dtype = weights[0].dtype
    with torch.autocast(states.device.type, enabled=False):
        chosen = choose(weights[0], backend).backend.operations
        values: Tensor = chosen.bridge_nll(
            states.to(dtype),
            context.to(dtype),
            rows,
            weights,
            biases,
            end.to(dtype),
            None if carry is None else carry.to(dtype),
            mean.to(dtype),
            precision.to(dtype),
            source=source or states.dtype,
        )
        return reduce_tokens(values, reduction).to(dtype)
