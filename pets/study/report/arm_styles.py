"""One look for each arm, the same in every picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pets.study.cells.arms import VANILLA
from pets.study.compare.look import FROZEN

# Okabe and Ito's colours, told apart with every kind of colour vision; black is vanilla's.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = "oDv^sPX<>"
_LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
# Of a task's labels: none of them an arm's, dark enough for print.
LABEL_COLOURS = ("#762A83", "#1B7837", "#B35806", "#2166AC", "#878787")
LABEL_MARKERS = "osD^v"


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
