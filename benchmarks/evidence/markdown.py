"""Effects, arms and tables as they are written in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pets.study.cells.arms import VANILLA


def table(
    title: str, note: str, columns: Iterable[object], rows: Iterable[tuple[str, Sequence[str]]]
) -> str:
    """Under a title with a note in brackets: a row for each arm, an entry for each column."""
    names = [str(column) for column in columns]
    lines = [f"**{title}**{f' ({note})' if note else ''}\n", *head(("arm", *names))]
    lines += [line((code(arm), *entries)) for arm, entries in rows]
    return "\n".join(lines)


def head(columns: Sequence[str]) -> tuple[str, str]:
    """The two lines that a table begins with."""
    return line(columns), "|" + " --- |" * len(columns)


def line(entries: Iterable[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(entries)} |"


def interval(mean: float, low: float, high: float) -> str:
    """A mean and its interval, in thousandths."""
    return f"{signed(mean)} [{signed(low)}, {signed(high)}]"


def signed(value: float) -> str:
    """In thousandths, never -0."""
    return f"{round(value, 3) + 0.0:+.3f}"


def code(arm: str) -> str:
    """An arm's name as code, but for vanilla's."""
    return arm if arm == VANILLA else f"`{arm}`"
