"""A picture of the zoo: how each bridge looks, and which layers each cost holds on to."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bridges import Posterior
from bridges.errors import BadInput
from bridges.storage.files import new_file
from pets.inside import images
from pets.inside.plots import SOFTWARE, check_picture
from pets.inside.zoo_axes import COST, draw_paths, draw_weights, say, share_of
from pets.inside.zoo_entries import LAYERS, Entry, Example, example, group_of, told
from pets.regularizers import Objective

_PAIRS = 2  # beside each other
_DPI, _COLOURS = 110, 96
_NO_SHAPE = {
    "sigma",
    "likelihood",
    "learn",
    "steps",
    "reads",
    "rest",
    "layers",
    "until",
    "since",
    "weight",
}
"""Parameters not worth a place in a title."""
_SUFFIXES = {".png": SOFTWARE, ".svg": f"<dc:title>{SOFTWARE}</dc:title>"}
"""With the mark of a picture of ours."""
_NOT_DRAWN = "other-regularizers"


def check_place(path: Path) -> None:
    """Whether the picture may be written there.

    Raises:
        BadInput: for another suffix, and where something other than a picture of this project is.
    """
    check_picture(path, _SUFFIXES[path.suffix.lower()])


def plot_zoo(path: Path, entries: Sequence[Entry]) -> None:
    """Draw what was asked for into one PNG or SVG file.

    Args:
        path: of the file.
        entries: bridges and regularizers; those that read no hidden states have no picture.

    Raises:
        BadInput: if matplotlib is not installed, nothing of it has a picture, or something other than a
            picture of this project is there.
    """
    check_place(path)
    entries = [entry for entry in entries if group_of(entry.record) != _NOT_DRAWN]
    if not entries:
        raise BadInput("nothing of it has layers to draw: expected bridges, or regularizers on states")
    with images.style():
        figure = draw([example(entry) for entry in entries])
        if path.suffix.lower() == ".svg":
            data = images.svg(figure, SOFTWARE)
        else:
            data = images.png(figure, _DPI, _COLOURS, SOFTWARE)
    with new_file(path) as temporary:
        temporary.write_bytes(data)


def draw(examples: Sequence[Example]) -> Any:
    """The figure: two examples in a row, a process with its paths beside its weights."""
    columns = min(_PAIRS, len(examples))
    rows = math.ceil(len(examples) / columns)
    figure = images.new_figure(7 * columns, 2.45 * rows + 1.35)
    grid = figure.add_gridspec(rows, 2 * columns, width_ratios=[1.7, 1] * columns)
    named: dict[str, Any] = {}
    for k, found in enumerate(examples):
        row, column = divmod(k, columns)
        is_last = k + columns >= len(examples)
        left, right = grid[row, 2 * column], grid[row, 2 * column + 1]
        if not found.draws_paths:
            _one(figure.add_subplot(grid[row, 2 * column : 2 * column + 2]), found, is_last)
            continue
        paths = figure.add_subplot(left)
        _title(paths, found)
        if is_last:
            paths.set_xlabel("depth (0: start, 1: label)")
        paths.set_ylabel("latent towards v")
        _tried(paths, draw_paths, found)
        named |= {name: line for line, name in zip(*paths.get_legend_handles_labels(), strict=True)}
        beside = figure.add_subplot(right)
        _weights(beside, found, is_last)
        if found.weights is not None:
            beside.set_title(share_of(found), loc="left", color=COST)
    if named:
        figure.legend(named.values(), named, loc="outside lower center", ncols=len(named))
    figure.suptitle(_text(examples), fontsize=12)
    return figure


def _one(axis: Any, found: Example, is_last: bool) -> None:
    """Of a cost that is no process, the weights alone; of what cannot be made, the reason."""
    _title(axis, found)
    _weights(axis, found, is_last)
    if found.weights is not None:
        share = {"transform": axis.transAxes, "va": "top", "color": COST}
        axis.text(0.01, 0.97, share_of(found), **share)


def _weights(axis: Any, found: Example, is_last: bool) -> None:
    if is_last:
        axis.set_xlabel(f"layer (0: embedding, {LAYERS}: last)")
    if found.weights is None:
        axis.set(xticks=[], yticks=[])
        _excuse(axis, found.reason)
        return
    axis.set_ylabel("share" if isinstance(found.made, Objective) else "weight")
    _tried(axis, draw_weights, found)


def _tried(axis: Any, drawing: Any, found: Example) -> None:
    try:
        drawing(axis, found)
    except Exception as error:  # of a plug-in's own methods: the others are drawn
        _excuse(axis, told(error))


def _excuse(axis: Any, reason: str) -> None:
    say(axis, textwrap.fill(textwrap.shorten(reason, 120, placeholder=" ..."), 40))


def _title(axis: Any, found: Example) -> None:
    axis.set_title(found.entry.record.name, fontsize=12, fontweight="bold", loc="left")
    values = {**found.entry.record.defaults, **found.shown}
    given = found.entry.given
    shown = [
        f"{k}={v}" for k, v in values.items() if k in given or (k not in _NO_SHAPE and v is not None)
    ]
    axis.set_title(", ".join(shown), loc="right")


def _text(examples: Sequence[Example]) -> str:
    first = [f"Bars: what each state of a {LAYERS}-layer model weighs in the cost."]
    if any(e.draws_paths for e in examples):
        first.insert(0, "Left: a latent's way through depth, from 0 to the label's end point v.")
    second = ["Dashed: brownian, with sigma 1."]
    if any(isinstance(e.made, Posterior) for e in examples):
        second.append("Colour: which label a path seen there tells.")
    if any(isinstance(e.made, Objective) for e in examples):
        second.append("Of regularizers: how their pull is shared out.")
    return f"{' '.join(first)}\n{' '.join(second)}"
