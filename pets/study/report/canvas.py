"""An empty figure, and a legend under it."""

from __future__ import annotations

import textwrap
from typing import Any


def new_figure(width: float, height: float) -> Any:
    """A matplotlib Figure in inches that belongs to no window and no global list."""
    from matplotlib.figure import Figure  # an optional dependency

    return Figure(figsize=(width, height), layout="constrained")


def legend_below(figure: Any, axis: Any) -> None:
    """The legend of one axis, under all of them, in as many columns as fit; the figure grows by it."""
    handles, names = axis.get_legend_handles_labels()
    names = [textwrap.shorten(name, 40, placeholder=" ...") for name in names]
    fit = int(figure.get_figwidth() / (0.09 * max(map(len, names)) + 0.7))  # inches an entry takes
    columns = max(1, min(len(names), fit))
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(names) // columns))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
