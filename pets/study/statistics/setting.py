"""Where arms are compared: only within a setting does a pair of scores mean the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """Where arms are compared: a task, its shots (None: the full train set), a PET."""

    task: str
    shots: int | None
    pet: str

    def __str__(self) -> str:
        shots = "full set" if self.shots is None else f"{self.shots} shots"
        return f"{self.task}, {shots}, {self.pet}"


def together(settings: Sequence[Setting]) -> str:
    """The setting, or of several their tasks and number."""
    if len(settings) == 1:
        return str(settings[0])
    *most, last = sorted({setting.task for setting in settings})
    tasks = f"{', '.join(most)} and {last}" if most else last
    return f"{tasks}, {len(settings)} settings together"
