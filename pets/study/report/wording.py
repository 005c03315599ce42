"""Names and numbers as the report writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

MINUS = "\u2212"


def setting_name(task: str, shots: int | None) -> str:
    """``sst2, 16 shots``."""
    if shots is None:
        return f"{task}, full train set"
    return f"{task}, {plural(shots, 'shot')}"


def plural(count: int, word: str) -> str:
    """``1 cell``, ``2 cells``."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def number(value: float) -> str:
    """Three decimals; a dash where there is none."""
    return "-" if math.isnan(value) else _zero(f"{value:.3f}").replace("-", MINUS)


def signed(value: float) -> str:
    """A difference: three decimals with its sign."""
    return "-" if math.isnan(value) else _zero(f"{value:+.3f}").replace("-", MINUS)


def _zero(text: str) -> str:
    """What rounds to zero has no sign."""
    return text if float(text) else text.lstrip("+-")


def interval(low: float, high: float) -> str:
    """``[-0.010, +0.030]``; a dash where there is none."""
    return "-" if math.isnan(low) or math.isnan(high) else f"[{signed(low)}, {signed(high)}]"


def p_value(value: float) -> str:
    """Three decimals, ``<0.001`` below, a dash where no test could be made."""
    if math.isnan(value):
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
