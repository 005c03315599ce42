"""A picture of the report: what is drawn, and what is said under it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Picture:
    """One figure of the report.

    Attributes:
        title: above the figure.
        caption: under it: what is seen and how to read it, in computed facts.
        figure: a matplotlib Figure.
    """

    title: str
    caption: str
    figure: Any
