"""How the report's pictures look: one look for each arm, empty figures, drawings as bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from pets.inside.images import Image, drawn, new_figure
from pets.study.cells.arms import VANILLA
from pets.study.compare.look import FROZEN
from pets.study.report.document import Picture

# Okabe and Ito's colours, told apart with every kind of colour vision; black is vanilla's.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = "oDv^sPX<>"
_LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
# Of a task's labels: none of them an arm's, dark enough for print.
LABEL_COLOURS = ("#762A83", "#1B7837", "#B35806", "#2166AC", "#878787")
LABEL_MARKERS = "osD^v"

_LONGEST = 160_000  # characters of an SVG


def draw(picture: Picture) -> Image:
    """The picture's figure as a file's content."""
    return drawn(picture.figure, _LONGEST)


def legend_below(figure: Any, *axes: Any) -> None:
    """The legend of some axes, under all of them, in as many columns as fit; the figure grows by it.

    What several of the axes name is there once.
    """
    shown: dict[str, Any] = {}
    for axis in axes:
        handles, names = axis.get_legend_handles_labels()
        shown |= {n: h for n, h in zip(names, handles, strict=True) if n not in shown}
    names = [textwrap.shorten(name, 40, placeholder=" ...") for name in shown]
    fit = int(figure.get_figwidth() / (0.09 * max(map(len, names)) + 0.7))  # inches an entry takes
    columns = max(1, min(len(names), fit))
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(names) // columns))
    look = {"loc": "outside lower center", "ncols": columns, "frameon": False, "fontsize": 9}
    figure.legend(shown.values(), names, **look)


def panels(count: int, columns: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure of small panels, ``columns`` beside each other, each so many inches; and its axes."""
    columns = min(columns, count)
    lines = -(-count // columns)
    figure = new_figure(0.7 + width * columns, 0.4 + height * lines)
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    for axis in axes[:count]:
        axis.grid(alpha=0.25)
    return figure, axes[:count]


def same_scale(axes: Sequence[Any]) -> None:
    """All on the scale that the one with the widest needs."""
    limits = [axis.get_ylim() for axis in axes]
    for axis in axes:
        axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def in_order(arms: Iterable[str]) -> list[str]:
    """Frozen, vanilla, then the others by name, each once."""
    first = {FROZEN: 0, VANILLA: 1}
    return sorted(set(arms), key=lambda arm: (first.get(arm, 2), arm))


def arm_styles(arms: Iterable[str]) -> dict[str, dict[str, Any]]:
    """How matplotlib draws each arm's line: colour, marker and dashes.

    More arms than colours differ in dashes too, and neighbours always in their markers, so that a print
    in greys can be read.
    """
    styles: dict[str, dict[str, Any]] = {
        FROZEN: {"color": "0.55", "linestyle": (0, (2, 1)), "marker": "x"},
        VANILLA: {"color": "black", "linestyle": "-", "marker": "s"},
    }
    names = in_order(arms)
    for k, arm in enumerate(arm for arm in names if arm not in styles):
        styles[arm] = {
            "color": _COLOURS[k % len(_COLOURS)],
            "linestyle": _LINES[k // len(_COLOURS) % len(_LINES)],
            "marker": _MARKERS[k % len(_MARKERS)],
        }
    return {arm: styles[arm] for arm in names}
