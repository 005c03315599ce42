"""Fused latent projection and Gaussian bridge log-likelihood over all layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

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
        weights, biases: of g, [h_1, 2H], [h_2, h_1] ... [d, h_k] and [h_1] ... [d]; the first H
            columns of the first weight read the context.
        end: [N, d] end points v.
        carry: [L] or None for zero; carry_0 multiplies the start, which is zero.
        mean, precision: [L].

    Returns:
        A scalar in the dtype of the weights; 0 when N is 0.

    Raises:
        ValueError: for shapes that do not fit together.
    """
    if states.dim() != 3 or rows.shape != states.shape[1:2]:
        raise ValueError(
            f"states {tuple(states.shape)} and rows {tuple(rows.shape)}: expected [L, N, H] and [N]"
        )
    layers, tokens, width = states.shape
    shapes = [tuple(w.shape) for w in weights]
    chained = all(w[1] == before[0] for before, w in pairwise(shapes))
    if not shapes or not chained or [tuple(b.shape) for b in biases] != [w[:1] for w in shapes]:
        raise ValueError(
            f"weights {shapes} and biases {[tuple(b.shape) for b in biases]} are no stack of layers: "
            "expected [h_1, 2H], [h_2, h_1] ... and [h_1], [h_2] ..."
        )
    if context.dim() != 3 or context.shape[0] != layers or context.shape[2] != width:
        raise ValueError(
            f"context {tuple(context.shape)} does not fit states {tuple(states.shape)}: "
            f"expected [{layers}, B, {width}]"
        )
    if weights[0].shape[1] != 2 * width:
        raise ValueError(
            f"the first weight is {tuple(weights[0].shape)}: expected [*, {2 * width}] for H={width}"
        )
    if end.shape != (tokens, weights[-1].shape[0]):
        raise ValueError(f"end {tuple(end.shape)}: expected {(tokens, weights[-1].shape[0])}, [N, d]")
    for name, vector in (("carry", carry), ("mean", mean), ("precision", precision)):
        if vector is not None and vector.shape != (layers,):
            raise ValueError(f"{name} {tuple(vector.shape)}: expected {(layers,)}, one per layer")
    dtype = weights[0].dtype
    with torch.autocast(states.device.type, enabled=False):
        return choose(states.device).bridge_nll(
            states.to(dtype),
            context.to(dtype),
            rows,
            weights,
            biases,
            end.to(dtype),
            None if carry is None else carry.to(dtype),
            mean.to(dtype),
            precision.to(dtype),
        )
