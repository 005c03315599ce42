"""The running cost of a learned-drift SDE: path-space KL to a pinned process, no long time loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.checks import (
    Reduction,
    check_devices,
    check_end,
    check_stack,
    check_trajectory,
    reduce_tokens,
)
from kernels.dispatch import choose
from kernels.path.picard import FixedSweeps
from kernels.path.solver import SolvePath, Solver, SolverReport, SolverSettings

LIPSWISH = 0.909
"""Times SiLU: an activation whose slope is at most 1, as in the published drift network."""

LAYER_NORM_EPS = 1e-5

_PER_STEP = ("decay", "gain", "spread")


@dataclass(frozen=True)
class PathGrid:
    """A discretised SDE and the quadrature of its cost, all float64, for T steps and L layers.

        y_(j+1) = decay_j y_j + gain_j p_j + spread_j epsilon_j
        r_j = of_net_j p_j + of_state_j y_j - of_end_j v
        cost = 1/2  sum over j of weight_j |r_j|^2

    with the network's value ``p_j = p(t_j, y_j, LayerNorm(X(t_j)))``.

    Attributes:
        times: [T+1], t_0 = 0.
        spline: [T+1, L], the states of the layers to X at the nodes.
        decay, gain, spread: [T].
        of_net, of_state, of_end, weight: [T+1].
    """

    times: Tensor
    spline: Tensor
    decay: Tensor
    gain: Tensor
    spread: Tensor
    of_net: Tensor
    of_state: Tensor
    of_end: Tensor
    weight: Tensor

    def to(self, like: Tensor) -> PathGrid:
        """On the device and in the dtype of a tensor."""
        return PathGrid(*(getattr(self, f.name).to(like) for f in fields(self)))


def drift_inputs(
    states: Tensor,
    context: Tensor | None,
    rows: Tensor,
    time_weight: Tensor,
    weight: Tensor,
    bias: Tensor,
    grid: PathGrid,
) -> Tensor:
    """The first layer's value on ``[t, LayerNorm(X(t))]`` at every node: [T+1, N, h_1].

    X is linear in the layers' states and the layer is linear, so the product with the weight is taken
    once per layer, and for the context once per sequence, not once per node. The variance that
    LayerNorm divides by is a quadratic form in the same spline coefficients, by the layers' Gram matrix.
    Both halves of X are centred by themselves first: no large numbers are subtracted later. Without a
    context X is the states alone.
    """
    width = states.shape[-1]
    mean_states = states.mean(-1)
    states = states - mean_states[..., None]

    def gram(x: Tensor) -> Tensor:
        per_token = x.transpose(0, 1)
        return torch.bmm(per_token, per_token.transpose(1, 2))

    if context is None:
        value, second = F.linear(states, weight), gram(states) / width
        return _at_nodes(value, second, time_weight, bias, grid)
    mean_context = context.mean(-1)
    context = context - mean_context[..., None]
    apart = (mean_context[:, rows] - mean_states) / 2  # from each half's mean to that of both
    of_context, of_states = weight[:, :width], weight[:, width:]
    value = F.linear(states, of_states) + F.linear(context, of_context)[:, rows]
    value = value + apart[..., None] * (of_context - of_states).sum(1)
    second = (gram(states) + gram(context)[rows]) / (2 * width)
    second = second + torch.einsum("in,kn->nik", apart, apart)
    return _at_nodes(value, second, time_weight, bias, grid)


def _at_nodes(
    value: Tensor, second: Tensor, time_weight: Tensor, bias: Tensor, grid: PathGrid
) -> Tensor:
    """The layers' values [L, N, h_1], normed by their second moments [N, L, L], at every node."""
    variance = ((grid.spline @ second) * grid.spline).sum(-1).T.clamp(min=0)
    scale = torch.rsqrt(variance + LAYER_NORM_EPS)[..., None]
    at_nodes: Tensor = torch.tensordot(grid.spline, value, 1)
    return at_nodes * scale + (torch.outer(grid.times, time_weight) + bias)[:, None]


def sde_cost(
    states: Tensor,
    context: Tensor | None,
    rows: Tensor,
    path_weight: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    end: Tensor,
    noise: Tensor,
    grid: PathGrid,
    *,
    reduction: Reduction = "mean",
    solver: Solver | None = None,
    tolerance: float = 1e-4,
    max_sweeps: int = 12,
    fixed: FixedSweeps | None = None,
    backend: str | None = None,
) -> tuple[Tensor, SolverReport]:
    """Path-space KL of a learned drift to a pinned process on a grid, mean over tokens.

    The drift network is a linear stack with 0.909 SiLU between; its first layer reads t, y and
    LayerNorm(X(t)), X the spline through the states ``[context_i ; state_i]`` (arXiv 2305.17670,
    section 3.3). See `PathGrid` for the path and the cost.

    Args:
        states: [L, N, H] from `kernels.pooling.pool_trajectory`.
        context: [L, B, H] from the same; None where X is the spline through the states alone, the
            published form.
        rows: int64 [N], the sequence each target belongs to; of no use without a context.
        path_weight: [h_1, 1+d], the first layer's weight on [t; y].
        weights: of the stack, [h_1, 2H], [h_2, h_1] ... [d, h_k]; the first H columns of the first one
            read the context, without which it is [h_1, H].
        biases: of the stack, [h_1] ... [d].
        end: [N, d] end points v, or [K, N, d]: K of them for each token, whose path is shared, for it
            does not depend on v.
        noise: [T, N, d] standard normal: the same noise gives the same path.
        grid: T steps, in the dtype of the weights or any other.
        reduction: "mean" over tokens, or "none".
        solver: "sequential" or "picard"; by default Picard on CUDA, where arithmetic is cheap and
            launches are not, and the sequential one elsewhere.
        tolerance: Picard's: it stops when a sweep changes every token's path by less, relative RMS.
        max_sweeps: Picard's: after so many the path is solved sequentially.
        fixed: Picard's sweeps where the host cannot look whether they are enough.
        backend: of the sequential solver, by name; by default `kernels.dispatch` chooses.

    Returns:
        In the dtype of the weights, computed in float32 at least: a scalar, 0 when N is 0, or with
        ``reduction="none"`` [N]; with K end points [K] and [K, N]. And what the solve took.

    Differentiable once, with respect to everything but rows; the gradient is that of the discrete path.

    Raises:
        ValueError: for shapes or devices that do not fit together, an unknown reduction or solver, or a
            backend that cannot run.
    """
    _check(states, context, rows, path_weight, weights, biases, end, noise, grid)
    if solver is None:
        solver = "picard" if states.is_cuda else "sequential"
    given = weights[0].dtype
    dtype = torch.promote_types(given, torch.float32)  # a path of many small steps needs the digits
    path_weight = path_weight.to(dtype)
    weights, biases = [w.to(dtype) for w in weights], [b.to(dtype) for b in biases]
    # Chosen once: the gradient may be asked for in another thread or outside of use_backend.
    named = choose(weights[0], backend).backend.name
    settings = SolverSettings(solver, tolerance, max_sweeps, named, fixed)
    report = SolverReport()
    with torch.autocast(states.device.type, enabled=False):
        grid = grid.to(weights[0])
        inputs = drift_inputs(
            states.to(dtype),
            None if context is None else context.to(dtype),
            rows,
            path_weight[:, 0],
            weights[0],
            biases[0],
            grid,
        )
        y, p = SolvePath.apply(
            settings,
            report,
            grid.spread[:, None, None] * noise.to(dtype),
            grid.decay,
            grid.gain,
            inputs,
            path_weight[:, 1:],
            *(LIPSWISH * weight for weight in weights[1:]),
            *biases[1:],
        )

        def at_nodes(vector: Tensor) -> Tensor:
            return vector[:, None, None]

        residual = at_nodes(grid.of_net) * p + at_nodes(grid.of_state) * y
        residual = residual - at_nodes(grid.of_end) * end.to(dtype).unsqueeze(-3)
        # No product of matrices, whose gradient autocast would take in 16 bits.
        values = (grid.weight[:, None] * residual.square().sum(-1)).sum(-2) / 2
        return reduce_tokens(values, reduction).to(given), report


def _check(
    states: Tensor,
    context: Tensor | None,
    rows: Tensor,
    path_weight: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    end: Tensor,
    noise: Tensor,
    grid: PathGrid,
) -> None:
    layers, tokens, width = check_trajectory(states, context, rows)
    first, dim = check_stack(weights, biases, width if context is None else 2 * width, width)
    check_end(end, tokens, dim)
    check_devices(
        states=states,
        context=context,
        rows=rows,
        path_weight=path_weight,
        weights=weights,
        biases=biases,
        end=end,
        noise=noise,
    )
    steps = len(grid.decay)
    expected = {
        "path_weight": (path_weight, (first, 1 + dim)),
        "noise": (noise, (steps, tokens, dim)),
        "grid.spline": (grid.spline, (steps + 1, layers)),
        **{
            f"grid.{f.name}": (getattr(grid, f.name), (steps + (f.name not in _PER_STEP),))
            for f in fields(grid)
            if f.name != "spline"
        },
    }
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}: expected {shape}")
