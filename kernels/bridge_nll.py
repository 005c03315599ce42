"""Fused latent projection and Gaussian bridge log-likelihood over all layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.checks import check_stack, check_trajectory
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
        weights, biases: of g, [h_1, 2H], [h_2, h_1] ... [d, h_k] and [h_1] ... [d]; the first H
            columns of the first weight read the context.
        end: [N, d] end points v.
        carry: [L] or None for zero; carry_0 multiplies the start, which is zero.
        mean, precision: [L].
        backend: the implementation, by name; by default `kernels.dispatch` chooses.

    Returns:
        A scalar in the dtype of the weights; 0 when N is 0.

    Raises:
        ValueError: for shapes that do not fit together, or a backend that cannot run.
    """
    layers, tokens, width = check_trajectory(states, context, rows)
    _, dim = check_stack(weights, biases, 2 * width)
    if end.shape != (tokens, dim):
        raise ValueError(f"end {tuple(end.shape)}: expected {(tokens, dim)}, [N, d]")
    for name, vector in (("carry", carry), ("mean", mean), ("precision", precision)):
        if vector is not None and vector.shape != (layers,):
            raise ValueError(f"{name} {tuple(vector.shape)}: expected {(layers,)}, one per layer")
    dtype = weights[0].dtype
    with torch.autocast(states.device.type, enabled=False):
        chosen = choose(weights[0], backend).backend.operations
        value: Tensor = chosen.bridge_nll(
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
        return value
