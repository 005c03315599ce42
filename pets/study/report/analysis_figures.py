"""Pictures of the analyses: trajectories and tube, distances, separability and lens by layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import torch

from pets.inside import plots
from pets.inside.images import new_figure
from pets.study.report.analysis_groups import Curves, Group, Record, groups, others_end, said
from pets.study.report.document import Picture
from pets.study.report.pictures import legend_below
from pets.study.report.trajectory_figures import trajectory_figure

_BARRED = 5  # arms whose error bars can be told apart in one panel


def analysis_figures(records: Sequence[Record], *, first_only: bool = False) -> list[Picture]:
    """The pictures of every task, number of shots and PET among the records of ``analysis.json``.

    Latent trajectories against the bridge (of the first seed) and distances to the labels' end points,
    for every reader; then separability and the logit lens by layer. An arm looks the same everywhere.

    Args:
        records: of the analyses.
        first_only: whether to draw the first task, number of shots and PET alone, with its first reader.

    Raises:
        BadInput: if a record lacks a field, or matplotlib is not installed.
    """
    plots.require()
    pictures: list[Picture] = []
    most = 1 if first_only else None
    for all_arms, by_reader in groups(records)[:most]:
        for group in by_reader[:most]:
            pictures += [trajectory_figure(group), _distances(group)]
        pictures.append(_separability(all_arms))
        pictures += _lens(all_arms)
    return pictures


def _distances(group: Group) -> Picture:
    words = group.words
    figure = new_figure(1 + 3.9 * len(words), 5.8)
    axes = figure.subplots(2, len(words), squeeze=False, sharex=True, sharey="row")
    facts = []
    for k, word in enumerate(words):
        margins = group.curves(partial(_nearer, word))
        _lines(axes[0][k], group, group.curves(partial(_to_own, word)))
        _lines(axes[1][k], group, margins)
        axes[1][k].axhline(0, color="0.3", linewidth=0.8, linestyle=":")
        axes[0][k].set_title(f"examples of “{word}”", fontsize=10)
        facts.append(f"“{word}” {said(_last(margins), '+.3f')}")
    axes[0][0].set_ylabel("distance to own end point")
    axes[1][0].set_ylabel("how much less than to another")
    _layers(axes[1])
    legend_below(figure, axes[0][0])
    caption = (
        "Above: mean distance of the latent states to the end point of their own label, by layer "
        f"(0: embedding). Below: by how much that is less than to {others_end(words)}; above the dotted "
        f"line the states are on the right side. At the last layer: {'; '.join(facts)}. Read by the "
        f"{group.reader} cost.{_bars(group)} {group.count}"
    )
    title = f"{group.name}: distance to each label's end point, read by {group.reader}"
    return Picture(title, caption, figure)


def _to_own(word: str, record: Record) -> Any:
    return record["distance"][word][word]


def _nearer(word: str, record: Record) -> Any:
    to_ends = record["distance"][word]
    others = (distances for end, distances in to_ends.items() if end != word)
    return [min(theirs) - own for own, *theirs in zip(to_ends[word], *others, strict=True)]


def _separability(group: Group) -> Picture:
    figure = new_figure(9.4, 3.6)
    left, right = figure.subplots(1, 2)
    probes = group.curves(lambda r: r["separability"]["probe"])
    folds = group.curves(lambda r: r["separability"]["probe_deviation"])
    over_folds = {arm: (mean, folds[arm][0]) for arm, (mean, _) in probes.items()}
    _lines(left, group, probes if group.several_seeds else over_folds)
    chance = fmean(record["separability"]["chance"] for record in group.records)
    left.axhline(chance, color="0.3", linewidth=0.8, linestyle=":", label="most frequent label")
    left.set_ylabel("accuracy of a linear probe")
    _lines(right, group, group.curves(lambda r: r["separability"]["silhouette"]))
    right.axhline(0, color="0.3", linewidth=0.8, linestyle=":")
    right.set_ylabel("silhouette of the labels")
    _layers((left, right))
    legend_below(figure, left)
    best = {arm: float(mean.max()) for arm, (mean, _) in probes.items()}
    bars = _bars(group) if group.several_seeds else _bars(group, "the five folds")
    caption = (
        "How well the labels can be told apart in the hidden states that the answer is read from, by "
        "layer (0: embedding, which is the same for every example). Left: cross-validated accuracy of a "
        "logistic regression; "
        f"its best layer has {said(best, '.2f')}, the last {said(_last(probes), '.2f')}; the most "
        f"frequent label alone has {chance:.2f}. Right: silhouette in standardised states, 1 for "
        f"labels far apart and 0 for mixed ones.{bars} {group.count}"
    )
    return Picture(f"{group.name}: separability of the labels by layer", caption, figure)


def _lens(group: Group) -> list[Picture]:
    """None where no model's head could be read."""
    scores = group.curves(lambda r: r["lens"] and r["lens"]["score"])
    if not scores:
        return []
    words = group.words
    metric = next(r["lens"]["metric"] for r in group.records if r["lens"]).replace("_", " ")
    figure = new_figure(3.3 * (1 + len(words)) + 0.4, 3.6)
    first, *rest = figure.subplots(1, 1 + len(words))
    _lines(first, group, scores)
    first.set_title("answer among the label words", fontsize=10)
    first.set_ylabel(metric)
    for axis, word in zip(rest, words, strict=True):
        _lines(axis, group, group.curves(partial(_probability, word)), bars=False)
        axis.set_yscale("log")
        axis.sharey(rest[0])
        axis.set_title(f"where “{word}” is true", fontsize=10)
    rest[0].set_ylabel("probability of the true word")
    _layers((first, *rest))
    legend_below(figure, first)
    before = {arm: float(mean[-2]) for arm, (mean, _) in scores.items()}
    caption = (
        "The model's own language-model head asked at every layer (0: embedding), where the answer is "
        "read. Left: "
        f"{metric} had the model stopped there, the answer being the likeliest label word: "
        f"{said(before, '.2f')} one layer before the end, {said(_last(scores), '.2f')} at the end. "
        "Right: mean probability of the true label's word in the whole vocabulary, on a log scale."
        f"{_bars(group) if group.several_seeds else ''} {group.count}"
    )
    return [Picture(f"{group.name}: the language-model head read at every layer", caption, figure)]


def _probability(word: str, record: Record) -> Any:
    return record["lens"] and record["lens"]["probability"][word]


def _last(curves: Curves) -> dict[str, float]:
    return {arm: float(mean[-1]) for arm, (mean, _) in curves.items()}


def _bars(group: Group, over: str = "the seeds") -> str:
    if len(group.arms) > _BARRED or (over == "the seeds" and not group.several_seeds):
        return ""
    return f" Bars: one standard deviation over {over}."


def _lines(axis: Any, group: Group, curves: Curves, *, bars: bool = True) -> None:
    bars = bars and len(group.arms) <= _BARRED
    for k, (arm, (mean, spread)) in enumerate(curves.items()):
        style, layers = group.styles[arm], torch.arange(len(mean))
        axis.plot(layers, mean, label=arm, linewidth=1.6, markersize=4.5, **style)
        if bars and spread.any():  # side by side: on one another they could not be told apart
            places = layers + 0.06 * (k - (len(curves) - 1) / 2)
            axis.vlines(places, mean - spread, mean + spread, color=style["color"], lw=1, alpha=0.6)
    axis.grid(alpha=0.25)


def _layers(axes: Iterable[Any]) -> None:
    from matplotlib.ticker import MaxNLocator

    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("layer (0: embedding)")
