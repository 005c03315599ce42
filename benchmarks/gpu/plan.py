"""The parts of the command, in the order in which they are worth their time."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.rows import Rows

ROWS, LOG, PROFILE = "gpu_rows.jsonl", "gpu_parts.log", "gpu_profile.txt"
"""Files of a command, beside its result file."""


@dataclass(frozen=True)
class Part:
    """What runs in a process of its own.

    Attributes:
        module: has a function ``run(context)``.
        seconds: after which it is stopped, its start included.
        least: what the parts before it leave to it; with less time left it is not begun.
    """

    name: str
    module: str
    seconds: float
    least: float = 10
    option: str = ""


PARTS = (
    Part("ceilings", "benchmarks.gpu.ceilings", 40),
    Part("odd", "benchmarks.gpu.checks", 60, 15, "odd"),
    Part("large", "benchmarks.gpu.checks", 60, 15, "large"),
    Part("times", "benchmarks.gpu.times", 60, 25, "times"),
    Part("training-bert", "benchmarks.gpu.training", 60, 35, "bert"),
    Part("training-causal", "benchmarks.gpu.training", 50, 30, "causal"),
    Part("memcheck", "benchmarks.gpu.sanitizer", 45, 20, "memcheck"),
    Part("racecheck", "benchmarks.gpu.sanitizer", 45, 20, "racecheck"),
    Part("compiled", "benchmarks.gpu.times", 150, 25, "compiled"),
)

LARGE = ("bert-large", "fit", "causal", "bert-base")


def named(name: str) -> Part:
    """A part by its name.

    Raises:
        KeyError: for a name that is none.
    """
    return {part.name: part for part in PARTS}[name]


@dataclass
class Context:
    """What a part's process knows.

    Attributes:
        folder: where its rows and files go.
        seconds: it has, from when the context is made.
        option: what the part is told apart by, where parts share a module.
    """

    part: str
    option: str
    folder: Path
    device: str
    quick: bool
    seconds: float
    start: float = field(default_factory=time.perf_counter)

    @property
    def shapes(self) -> tuple[str, ...]:
        """Names of the shapes that are measured."""
        return ("tiny",) if self.quick else LARGE

    def left(self) -> float:
        """Seconds until it is stopped."""
        return self.seconds - (time.perf_counter() - self.start)

    def add(self, kind: str, **row: Any) -> None:
        """Write a row, and ``at`` how many seconds of the part."""
        at = round(time.perf_counter() - self.start, 2)
        Rows(self.folder / ROWS).add(self.part, kind, {**row, "at": at})

    def say(self, text: str) -> None:
        """Print a line at once."""
        print(f"    {text}", flush=True)
