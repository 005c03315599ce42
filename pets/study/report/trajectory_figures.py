"""Latent trajectories by label, a column for each arm, against the bridge."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from torch import tensor

from pets.inside.images import new_figure
from pets.study.report.analysis_groups import Group, Record, said
from pets.study.report.document import Picture
from pets.study.report.pictures import LABEL_COLOURS, LABEL_MARKERS, legend_below

_COLUMNS = 4


def trajectory_figure(group: Group) -> Picture:
    """Each arm's first seed: above progress in the bridge's tube, below which label it is made to."""
    firsts = {arm: records[0] for arm, records in group.arms.items()}
    columns = min(_COLUMNS, len(firsts))
    blocks = -(-len(firsts) // columns)
    figure = new_figure(3.1 * columns + 0.5, 5.2 * blocks + 0.3)
    axes = figure.subplots(2 * blocks, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_visible(False)
    shown = []
    for number, (arm, record) in enumerate(firsts.items()):
        block, column = divmod(number, columns)
        above, below = pair = axes[2 * block][column], axes[2 * block + 1][column]
        shown.append(pair)
        _tube(above, record["tube"])
        for k, word in enumerate(group.words):
            _paths(above, record["times"], record["progress"][word], word, k, 1)
            _paths(below, record["times"], record["contrast"][word], word, k, _side(group, k))
            _mean(below, record, word, k, _side(group, k))
        above.set_title(arm, fontsize=10)
        above.tick_params(labelbottom=False)
        if number + columns >= len(firsts):  # none below
            below.set_xlabel("depth t (0: start, 1: label)")
        else:
            below.tick_params(labelbottom=False)
        for axis, label in zip(pair, ("progress to own end point", _axis_name(group)), strict=True):
            axis.set_visible(True)
            axis.set_xlim(0, 1)
            axis.grid(alpha=0.25)
            if column == 0:
                axis.set_ylabel(label)
            else:
                axis.tick_params(labelleft=False)
    for same in zip(*shown, strict=True):  # all above on one scale, all below on one
        limits = [axis.get_ylim() for axis in same]
        for axis in same:
            axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    legend_below(figure, shown[0][0])
    title = f"{group.name}: latent trajectories read by {group.reader}"
    return Picture(title, _caption(group, firsts), figure)


def _side(group: Group, k: int) -> int:
    """Two labels share one axis, the first on its lower side."""
    return -1 if len(group.words) == 2 and k == 0 else 1


def _axis_name(group: Group) -> str:
    if len(group.words) == 2:
        return "“{}” ←    → “{}”".format(*group.words)
    return "from other end points to own"


def _tube(axis: Any, tube: Record | None) -> None:
    if tube is None:
        return
    mean, spread = tensor(tube["mean"]), 2 * tensor(tube["deviation"])
    axis.fill_between(
        tube["t"], mean - spread, mean + spread, color="0.9", lw=0, label="bridge, mean ± 2 sd"
    )
    axis.plot(tube["t"], mean, color="0.35", linestyle="--", linewidth=1.2, label="bridge, mean")


def _paths(axis: Any, times: Sequence[float], paths: Record, word: str, k: int, side: int) -> None:
    color, marker = LABEL_COLOURS[k % len(LABEL_COLOURS)], LABEL_MARKERS[k % len(LABEL_MARKERS)]
    low, high, mean = (side * tensor(paths[key]) for key in ("low", "high", "mean"))
    axis.fill_between(times, low, high, color=color, alpha=0.15, lw=0)
    axis.plot(times, side * tensor(paths["examples"]).T, color=color, linewidth=0.5, alpha=0.35)
    axis.plot(times, mean, color=color, linewidth=2.2, marker=marker, markersize=4.5, label=word)


def _mean(axis: Any, record: Record, word: str, k: int, side: int) -> None:
    """The bridge's mean up to the last layer, on a label's own axis."""
    if record["tube"] is None:
        return
    t, mean = (tensor(record["tube"][key]) for key in ("t", "mean"))
    inside = t <= record["times"][-1]
    axis.plot(
        t[inside],
        side * mean[inside] * record["contrast"][word]["end"],
        color=LABEL_COLOURS[k % len(LABEL_COLOURS)],
        linestyle="--",
        linewidth=1.2,
    )


def _at(t: float, tube: Record, key: str) -> float:
    """A curve of the tube between its points."""
    times, values = tube["t"], tube[key]
    right = min(max(1, bisect_left(times, t)), len(times) - 1)
    share = (t - times[right - 1]) / (times[right] - times[right - 1])
    return float(values[right - 1] + share * (values[right] - values[right - 1]))


def _caption(group: Group, firsts: dict[str, Record]) -> str:
    record, words = group.records[0], group.words
    tube, last = record["tube"], record["times"][-1]
    two = len(words) == 2
    axis = (
        "the component along the line from the one label's end point to the other's"
        if two
        else "the component along the line from the middle of the other labels' end points to the own"
    )
    parts = [
        "States that the answer is read from, layer by layer, in the latent space of the "
        f"{group.reader} cost. Above: the component along the end point of the example's own label",
        "; in grey the bridge, mean and two standard deviations. " if tube else ". ",
        f"Below: {axis}",
        "; dashed the bridge's mean for each label. " if tube else ". ",
        "Thin lines are single examples, thick ones means, coloured areas hold the middle 80 % of "
        f"examples. At the last layer, t = {last:.2f}, ",
    ]
    if tube:
        mean, spread = (_at(last, tube, key) for key in ("mean", "deviation"))
        ends = [
            f"{_side(group, k) * mean * record['contrast'][word]['end']:+.3f} for “{word}”"
            for k, word in enumerate(words)
        ]
        parts.append(
            f"the bridge is at {mean:.2f} ± {spread:.2f} above and, below, at {' and '.join(ends)} with "
            "the same deviation; "
        )
    means = []
    for k, word in enumerate(words):
        above = said({arm: r["progress"][word]["mean"][-1] for arm, r in firsts.items()}, ".2f")
        side = _side(group, k)
        below = said({arm: side * r["contrast"][word]["mean"][-1] for arm, r in firsts.items()}, "+.3f")
        means.append(f"for “{word}” {above} above and {below} below")
    parts.append(f"the means are {'; '.join(means)}. ")
    seeds = sorted({r["seed"] for r in firsts.values()})
    parts.append(
        f"Seed {', '.join(map(str, seeds))}; {record['examples']} examples from the train set, none of "
        "them tuned on."
    )
    return "".join(parts)
