"""A picture of the zoo: how each registered bridge looks, and which layers its cost holds on to."""

from __future__ import annotations

import inspect
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bridges
from bridges import (
    AboutLabel,
    Axis,
    Cost,
    GaussianBridge,
    LabelEnds,
    LatentMap,
    Posterior,
    Process,
    RandomEndBridge,
    SDEBridge,
    Trajectory,
)
from bridges.latent.trajectory import layer_times
from bridges.processes.sde import path_grid
from pets.inside.plots import check_picture, load_pyplot, save_picture

LAYERS = 24  # of the model whose cost is drawn, as BERT-large
SHOWN: dict[str, dict[str, Any]] = {
    "alpha": {"alpha": 3.0},
    "clock": {"clock": [0.2, 0.6, 2.0, 1.2]},
    "fractional": {"hurst": 0.25},
    "ou": {"theta": 5.0},
    "posterior": {"over": "prefixes"},
    "random": {"keep": 0.7},
    "student": {"nu": 3.0},
}
"""Parameters that show a process's character better than its defaults do."""

_PATHS = 10  # drawn for each process, two of them darker
_NO_SHAPE = {"sigma", "likelihood", "learn", "steps", "rest", "layers", "until", "since"}
"""Parameters not worth a place in a title."""
_GRID = 161  # times of a path
_PAIRS = 2  # processes beside each other
_REFERENCE = {"color": "0.25", "linewidth": 1.0, "linestyle": (0, (4, 2))}
_COST, _LAW, _MEAN = "#c2410c", "#2c82c9", "#0b3c63"


def layer_weights(bridge: Cost, num_states: int) -> Tensor:
    r"""How much the cost of a bridge makes of each layer: ``cost = mean_i w_i |p_i - v|^2``, [L+1].

    Here :math:`z_i = m(t_i) p_i`, so that p_i is the end point as layer i tells it. Every layer is moved
    a little off the mean path by itself; for a Gaussian bridge, layer by layer, that is
    :math:`m(t_i)^2 / 2 s^2(t_i)`. A cost without a mean path counts as m = 1. Of the "sde" cost p is the
    network's guess, and w its quadrature weight. A cost about the label has one between labels at 1 and
    -1; w is how much it falls with p_i, where no layer tells anything, in comparison with that sum.
    """
    times = layer_times(num_states)
    if isinstance(bridge, AboutLabel):
        return _slopes(bridge, times)
    if isinstance(bridge, SDEBridge):
        return path_grid(bridge.process, num_states).weight[1:] * num_states / 2
    end = torch.ones(1, 1, dtype=torch.float64)
    if isinstance(bridge, Process):
        mean, step = bridge.mean(times, end)[:, 0, 0], 1e-3 * bridge.variance(times).sqrt()
    else:
        mean = step = torch.ones_like(times)
    moves = torch.diag(step)
    z = mean[:, None] + torch.cat([moves, -moves, torch.zeros_like(moves[:, :1])], 1)
    cost = bridge.cost(_identity(), _paths(z), end.expand(z.shape[1], 1))
    curvature = (cost[:num_states] + cost[num_states:-1] - 2 * cost[-1]) / step.square()
    return mean.square() * curvature * num_states / 2


def _slopes(bridge: AboutLabel, times: Tensor) -> Tensor:
    """`layer_weights` of a cost about the label; one of `mean_i w_i (p_i - 1)^2` is 2 w_i / (L+1)."""
    labels = LabelEnds(torch.tensor([[[1.0]], [[-1.0]]]).double(), torch.zeros(2, 1).double())
    with torch.enable_grad():
        z = torch.zeros(len(times), 1, dtype=torch.float64, requires_grad=True)
        cost = bridge.of_labels(_identity(), _paths(z), torch.tensor([0]), labels)
        (slope,) = torch.autograd.grad(cost.sum(), z)
    scale = len(times[bridge.counted(len(times))]) if isinstance(bridge, Axis) else 1
    return -slope[:, 0] * bridge.mean_factor(times) * scale / 2


def _identity() -> LatentMap:
    """Reads latents that are the states themselves, in one dimension."""
    identity = LatentMap(1, (1,)).double().requires_grad_(False)
    identity.weights[0].copy_(torch.tensor([[0.0, 1.0]]))
    identity.biases[0].zero_()
    return identity


def _paths(z: Tensor) -> Trajectory:
    """Latent paths [L+1, N] as such states."""
    context = torch.zeros(len(z), 1, 1, dtype=z.dtype)
    return Trajectory(z[..., None], context, torch.zeros(z.shape[1], dtype=torch.int64))


def plot_zoo(path: str | os.PathLike[str]) -> None:
    """Draw every registered bridge, as `SHOWN` or with its default parameters, into one PNG file.

    Raises:
        BadInput: if matplotlib is not installed, or something other than a picture of this project is
            there.
    """
    check_picture(Path(path))
    plt = load_pyplot()
    records = [bridges.info(name) for name in bridges.available()]
    rows = math.ceil(len(records) / _PAIRS)
    figure, axes = plt.subplots(
        rows,
        2 * _PAIRS,
        figsize=(14, 2.4 * rows + 1.2),
        squeeze=False,
        layout="constrained",
        width_ratios=[1.7, 1] * _PAIRS,
    )
    pairs = axes.reshape(rows * _PAIRS, 2)
    for record, (left, right) in zip(records, pairs, strict=False):
        _draw(record, left, right)
    for left, right in pairs[len(records) :]:
        left.set_axis_off()
        right.set_axis_off()
    figure.suptitle(
        "Left: paths from 0 to an end point 1 over depth, mean (thick) and two-sigma tube.   Right: "
        f"weight of the cost on each state of a {LAYERS}-layer model.\n"
        "Dashed: tube and weights of brownian. Sigma is 1. random may end at -1 instead; axis and "
        "posterior tell 1 from -1.\nColour: how likely 1 is, as far as a path that is seen there tells.",
        fontsize=12,
    )
    save_picture(figure, Path(path), 110)
    plt.close(figure)


@torch.no_grad()
def _draw(record: bridges.BridgeInfo[bridges.Cost], left: Any, right: Any) -> None:
    left.set_title(record.name, fontsize=12, fontweight="bold", loc="left")
    left.set_title(_settings(record), fontsize=10, loc="right")
    left.set(xlim=(0, 1), ylim=(-1.4, 2.4), yticks=[-1, 0, 1, 2])
    right.set(xlim=(0, 1), ylim=(1e-3, 3e3), yscale="log", yticks=[1e-2, 1, 1e2])
    if any(default is inspect.Parameter.empty for default in record.defaults.values()):
        _say(left, "has no default parameters")
        return
    bridge = bridges.get(record.name, **SHOWN.get(record.name, {}))
    law = bridge.inner if isinstance(bridge, AboutLabel) else bridge
    reference = bridges.BrownianBridge()
    fine, end = torch.linspace(0, 1, _GRID, dtype=torch.float64), torch.ones(_PATHS, 1).double()
    if isinstance(bridge, (RandomEndBridge, AboutLabel)):
        end = torch.stack([end, -end])
        left.set(ylim=(-2.4, 2.4), yticks=[-2, -1, 0, 1, 2])
    for edge in _tube(reference, fine, 1.0):
        left.plot(fine, edge, **_REFERENCE)
    if isinstance(bridge, Posterior):
        _shade(left, bridge.inner, fine)
    if isinstance(law, Process):
        for v in end[..., 0, 0].reshape(-1).tolist():
            low, high = _tube(law, fine, v)
            if not isinstance(bridge, Posterior):
                left.fill_between(fine, low, high, color=_LAW, alpha=0.16, linewidth=0)
            left.plot(fine, (low + high) / 2, color=_MEAN, linewidth=2.6)
    else:
        _say(left, "a cost, no process")
    if isinstance(bridge, Process) and bridge.joint:
        sample = bridge.sample(fine, end, generator=torch.Generator().manual_seed(5))[..., 0]
        left.plot(fine, sample[:, 2:], color=_LAW, linewidth=0.6, alpha=0.6)
        left.plot(fine, sample[:, :2], color=_MEAN, linewidth=0.9, alpha=0.9)
    elif isinstance(bridge, Process):
        _say(left, "no joint law")
    times = layer_times(LAYERS + 1)
    right.plot(times, layer_weights(reference, LAYERS + 1), **_REFERENCE)
    weights = layer_weights(bridge, LAYERS + 1)
    right.bar(times.tolist(), weights.clamp(min=1e-9).tolist(), width=0.028, color=_COST, alpha=0.85)
    if (total := weights.sum()) > 0:
        share = weights[times > 0.75].sum() / total
        right.set_title(f"{share:.0%} on the last quarter", fontsize=10, loc="left", color=_COST)
    else:
        right.set_title("none", fontsize=10, loc="left", color=_COST)


def _shade(axis: Any, bridge: GaussianBridge, t: Tensor) -> None:
    """The probability that a path ends at 1, not at -1, given that it is at z at time t."""
    inside, z = t[1:-1], torch.linspace(-2.4, 2.4, _GRID, dtype=torch.float64)
    at = z.expand(len(inside), -1)[..., None]
    towards = [bridge.log_prob(at, inside, torch.full((_GRID, 1), v).double()) for v in (1.0, -1.0)]
    chance = torch.sigmoid(towards[0] - towards[1])
    grid = (x.numpy() for x in (inside, z, chance.T))
    axis.pcolormesh(*grid, cmap="RdBu", vmin=-0.3, vmax=1.3)


def _tube(bridge: Process, t: Tensor, end: float) -> tuple[Tensor, Tensor]:
    mean = bridge.mean(t, torch.full((1, 1), end, dtype=torch.float64))[:, 0, 0]
    spread = 2 * bridge.variance(t).sqrt()
    return mean - spread, mean + spread


def _settings(record: bridges.BridgeInfo[bridges.Cost]) -> str:
    """The parameters that give the process its shape, as ``alpha=3.0``."""
    chosen = {**record.defaults, **SHOWN.get(record.name, {})}
    return ", ".join(f"{k}={v}" for k, v in chosen.items() if k not in _NO_SHAPE)


def _say(axis: Any, text: str) -> None:
    axis.text(0.5, 0.1, text, ha="center", transform=axis.transAxes, color="0.35")
