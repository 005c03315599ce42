"""The two panels of a picture of the zoo: a bridge's paths, and the weights of the layers."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

import bridges
from bridges import AboutLabel, GaussianBridge, Posterior, Process, RandomEndBridge
from bridges.latent.trajectory import layer_times
from pets.inside.zoo_entries import LAYERS, Example
from pets.inside.zoo_weights import layer_weights
from pets.regularizers import Objective

_PATHS = 10  # drawn for each process, two of them darker
_GRID = 121  # times of a path
_REFERENCE = {"color": "0.25", "linewidth": 1.0, "linestyle": (0, (4, 2))}
COST = "#c2410c"
_LAW, _MEAN, _SOFT = "#2c82c9", "#0b3c63", "0.35"
_ROOM = 2.4  # the highest latent drawn
_LEAST = 1e-4  # where bars on a logarithmic scale begin, below what is seen


@torch.no_grad()
def draw_paths(axis: Any, example: Example) -> None:
    """Paths, mean and tube of a process, or what a cost about the label makes of them; and brownian's.

    Args:
        axis: of matplotlib; lines that are to be named have a label.
        example: one that `Example.draws_paths`.
    """
    bridge = example.made
    law: Any = bridge.inner if isinstance(bridge, AboutLabel) else bridge
    fine, end = torch.linspace(0, 1, _GRID, dtype=torch.float64), torch.ones(_PATHS, 1).double()
    several = isinstance(bridge, (RandomEndBridge, AboutLabel))
    if several:
        end = torch.stack([end, -end])
    axis.set(xlim=(0, 1), ylim=(-_ROOM if several else -1.4, _ROOM))
    axis.set_yticks([-2, -1, 0, 1, 2] if several else [-1, 0, 1, 2])
    if isinstance(bridge, Posterior):
        _shade(axis, bridge.inner, fine)
    for edge, name in zip(_tube(bridges.BrownianBridge(), fine, 1.0), ("brownian", "_"), strict=True):
        axis.plot(fine, edge, label=name, **_REFERENCE)
    if isinstance(bridge, Process) and bridge.joint:
        sample = bridge.sample(fine, end, generator=torch.Generator().manual_seed(5))[..., 0]
        axis.plot(fine, sample[:, 2:], color=_LAW, linewidth=0.6, alpha=0.6)
        axis.plot(fine, sample[:, :1], color=_MEAN, linewidth=0.9, alpha=0.9, label="paths")
        axis.plot(fine, sample[:, 1:2], color=_MEAN, linewidth=0.9, alpha=0.9)
    elif isinstance(bridge, Process):
        say(axis, "no joint law, so no paths")
    ends = end[..., 0, 0].reshape(-1).tolist()
    for k, v in enumerate(ends):
        low, high = _tube(law, fine, v)
        name = "_" * (k > 0)
        if not isinstance(bridge, Posterior):
            tube = {
                "color": _LAW,
                "alpha": 0.16,
                "linewidth": 0,
                "label": name or "± 2 standard deviations",
            }
            axis.fill_between(fine, low, high, **tube)
        axis.plot(fine, (low + high) / 2, color=_MEAN, linewidth=2.6, label=name or "mean")
        axis.plot([1], [v], "o", color=_MEAN, markersize=6, clip_on=False, zorder=5)
        if k == 0:
            beside = {"ha": "left", "va": "center", "fontweight": "bold"}
            axis.annotate("v", (1, v), (7, 0), textcoords="offset points", color=_MEAN, **beside)
        else:
            below = {"ha": "right", "va": "top"}
            axis.annotate(
                "another label", (1, v), (-7, -6), textcoords="offset points", color=_MEAN, **below
            )


def draw_weights(axis: Any, example: Example) -> None:
    """A bar for each layer; brownian's weights as a dashed line, where they are of the same kind.

    Args:
        axis: of matplotlib.
        example: one that has weights.
    """
    weights = example.weights
    assert weights is not None
    layers = range(LAYERS + 1)
    axis.set(xlim=(-0.8, LAYERS + 0.8), xticks=range(0, LAYERS + 1, LAYERS // 4))
    if isinstance(example.made, Objective):
        axis.bar(layers, weights.tolist(), width=0.7, color=COST, alpha=0.85)
        axis.set_ylim(0, max(1.25 * weights.max().item(), 0.1))
        axis.yaxis.set_major_formatter(lambda x, _: f"{100 * x:.3g}%")
    else:
        axis.set(ylim=(1e-3, 3e3), yscale="log", yticks=[1e-2, 1, 1e2])
        axis.minorticks_off()
        axis.plot(layers, _brownian(), label="brownian", **_REFERENCE)
        heights = weights.clamp(min=_LEAST) - _LEAST
        name = example.entry.record.name
        look = {"width": 0.7, "color": COST, "alpha": 0.85, "label": "_" if name == "brownian" else name}
        axis.bar(layers, heights.tolist(), bottom=_LEAST, **look)


def share_of(example: Example) -> str:
    """How late the weights are, in words."""
    weights = example.weights
    assert weights is not None
    if not (total := weights.sum()) > 0:
        return "no layer has a weight"
    return f"{weights[layer_times(LAYERS + 1) > 0.75].sum() / total:.0%} on the last quarter"


def weight_of(example: Example) -> str:
    """What the bars are, in words."""
    if isinstance(example.made, Objective):
        return "share of the pull on the states"
    if isinstance(example.made, AboutLabel):
        return "pull of the layer towards v"
    return "weight on the layer's distance to v"


def say(axis: Any, text: str) -> None:
    axis.text(0.5, 0.06, text, ha="center", transform=axis.transAxes, color=_SOFT)


@functools.cache
def _brownian() -> Tensor:
    return layer_weights(bridges.BrownianBridge(), LAYERS + 1)


def _shade(axis: Any, bridge: GaussianBridge, t: Tensor) -> None:
    """The probability that a path ends at 1, not at -1, given that it is at z at time t."""
    inside, z = t[1:-1], torch.linspace(-_ROOM, _ROOM, _GRID, dtype=torch.float64)
    at = z.expand(len(inside), -1)[..., None]
    towards = [bridge.log_prob(at, inside, torch.full((_GRID, 1), v).double()) for v in (1.0, -1.0)]
    chance = torch.sigmoid(towards[0] - towards[1]).T
    look = {"cmap": "RdBu", "vmin": -0.3, "vmax": 1.3, "interpolation": "none"}
    axis.imshow(chance.numpy(), extent=(0, 1, -_ROOM, _ROOM), origin="lower", aspect="auto", **look)


def _tube(bridge: Process, t: Tensor, end: float) -> tuple[Tensor, Tensor]:
    mean = bridge.mean(t, torch.full((1, 1), end, dtype=torch.float64))[:, 0, 0]
    spread = 2 * bridge.variance(t).sqrt()
    return mean - spread, mean + spread
