"""The picture of scores by depth: a panel for each reader, a line for each arm."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from pets.anytime.by_layer import EXIT, PROBE
from pets.inside.images import new_figure
from pets.study.cells.arms import VANILLA
from pets.study.report.depth import NAMES, Depths, facts
from pets.study.report.document import Picture, plural
from pets.study.report.pictures import arm_styles, legend_below
from pets.study.statistics.intervals import summarise

_SHADED = 5  # arms whose areas can be told apart in one panel
_TICKS = {0.0: "0", 1 / 2: "1/2", 2 / 3: "2/3", 3 / 4: "3/4", 1.0: "1"}


def depth_picture(group: Depths) -> Picture:
    """Score against the share of the layers."""
    readers = group.readers()
    styles = arm_styles(group.arms)
    figure = new_figure(0.7 + 3.1 * len(readers), 3.2)
    axes = figure.subplots(1, len(readers), squeeze=False, sharey=True)[0]
    for axis, reader in zip(axes, readers, strict=True):
        for arm in group.arms:
            of_reader = PROBE if reader == EXIT and arm == VANILLA else reader
            _line(axis, group, arm, of_reader, styles[arm])
        _full(axis, group, styles)
        beside = f" ({VANILLA}: probe)" if reader == EXIT and group.of(VANILLA, PROBE) else ""
        axis.set_title(f"{NAMES[reader]}{beside}")
        axis.set_xlabel("share of the layers")
        axis.set_xticks(list(_TICKS), list(_TICKS.values()))
        axis.set_xlim(0, 1.02)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel(group.metric.replace("_", " "))
    legend_below(figure, *axes)
    return Picture(f"{group.name}: {group.metric} by depth", _caption(group), figure)


def _line(axis: Any, group: Depths, arm: str, reader: str, style: dict[str, Any]) -> None:
    curves = [one.by_reader[reader] or () for one in group.of(arm, reader).values()]
    if not curves:
        return
    points = [summarise(values) for values in zip(*curves, strict=True)]
    share = [k / (len(points) - 1) for k in range(len(points))]
    middle = [point.mean for point in points]
    every = max(1, len(points) // 8)
    axis.plot(share, middle, label=arm, linewidth=1.5, markersize=3.5, markevery=every, **style)
    if len(curves) > 1 and len(group.arms) <= _SHADED:
        low = [point.mean - point.interval for point in points]
        high = [point.mean + point.interval for point in points]
        axis.fill_between(share, low, high, color=style["color"], alpha=0.12, linewidth=0)


def _full(axis: Any, group: Depths, styles: Mapping[str, dict[str, Any]]) -> None:
    """The whole models, the first of which the legend names."""
    for arm, by_seed in group.arms.items():
        mean = fmean(one.full for one in by_seed.values())
        look = {"color": styles[arm]["color"], "linestyle": (0, (4, 3)), "linewidth": 0.9}
        name = "full model" if arm == next(iter(group.arms)) else "_"
        axis.axhline(mean, label=name, **look)


def _caption(group: Depths) -> str:
    count = len({seed for by_seed in group.arms.values() for seed in by_seed})
    lines = f"Lines are means over {plural(count, 'seed')}" if count > 1 else "Of one seed"
    if count > 1 and len(group.arms) <= _SHADED:
        lines += ", areas the 95 % interval of each mean by itself"
    metric = group.metric.replace("_", " ").capitalize()
    return " ".join(
        [
            f"{metric} on the reported examples, had the model stopped at a layer (0: the embeddings).",
            f"{lines}; dashed, in the arm's colour, is the full model.",
            *facts(group),
        ]
    )
