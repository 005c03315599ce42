"""The questions that are asked of a study's cells: each is of one number of a cell."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from benchmarks.evidence.records import Cell
from pets.study.cells.arms import VANILLA
from pets.study.cells.depth import SHARES, at_share
from pets.study.statistics.intervals import Summary, summarise
from pets.study.statistics.paired import PairedDifference, difference, holm
from pets.study.statistics.setting import Setting

T = TypeVar("T")
Value = Callable[[Cell], float | None]
By = dict[Setting, dict[str, dict[int, T]]]
"""By setting, arm and seed."""


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        title: of its table.
        value: of a cell; None where it was not read.
        span: the lowest and the highest value.
    """

    title: str
    value: Value
    span: tuple[float, float] | None = (0.0, 1.0)


def read(*names: str) -> Callable[[Cell], Any]:
    """What was read of a cell under these names."""
    return lambda cell: cell.reading(*names)


def at_depth(reader: str, share: str) -> Value:
    """The accuracy of a reader at a share of the layers."""

    def value(cell: Cell) -> float | None:
        layers = cell.reading("depth", reader)
        if layers is None:
            return None
        return at_share([float(layer["accuracy"]) for layer in layers], SHARES[share])

    return value


ACCURACY = Question("Accuracy", lambda cell: float(cell.line["score"]))
QUESTIONS = (
    ACCURACY,
    Question("Expected calibration error (less is better)", read("calibration", "ece")),
    Question("Brier score (less is better)", read("calibration", "brier"), span=(0.0, 2.0)),
    Question("Accuracy in another domain (reviews)", read("shift", "accuracy")),
    *(
        Question(f"Accuracy at {share} of the layers, read by {what}", at_depth(reader, share))
        for share in ("1/2", "3/4")
        for reader, what in (
            ("exit", "the bridge's posterior"),
            ("probe", "a probe"),
            ("head", "the head"),
        )
    ),
)


@dataclass(frozen=True)
class Effect:
    """An arm against a baseline in one setting.

    Attributes:
        difference: paired by seed.
        adjusted_p: Holm's, among all that was compared with it.
    """

    difference: PairedDifference
    adjusted_p: float


@dataclass(frozen=True)
class Answer:
    """What a study says to a question.

    Attributes:
        settings: where it was asked.
        values: of each arm in each setting.
        effects: of each arm but vanilla, against that.
    """

    settings: tuple[Setting, ...]
    values: Mapping[tuple[Setting, str], Summary]
    effects: Mapping[tuple[Setting, str], Effect]


def answer(cells: Sequence[Cell], question: Question) -> Answer | None:
    """A question's answer; None where no cell has what is asked."""
    by = values_of(cells, question.value)
    if not by:
        return None
    names = dict.fromkeys(arm for arms in by.values() for arm in arms)
    asked = [(arm, VANILLA) for arm in names if arm != VANILLA]
    effects = {(key[0], key[1]): effect for key, effect in compared(by, asked, question.span).items()}
    return Answer(
        tuple(by),
        {
            (setting, arm): summarise([v for _, v in sorted(values.items())])
            for setting, arms in by.items()
            for arm, values in arms.items()
        },
        effects,
    )


def compared(
    by: By[float], asked: Sequence[tuple[str, str]], span: tuple[float, float] | None
) -> dict[tuple[Setting, str, str], Effect]:
    """Arms minus their baselines, paired by seed, in each setting that has both.

    Args:
        by: the values.
        asked: an arm and its baseline, each.
        span: the lowest and the highest value that there can be.

    Returns:
        By setting, arm and baseline; corrected for all of them.
    """
    found: dict[tuple[Setting, str, str], PairedDifference] = {}
    for setting, arms in by.items():
        for arm, baseline in asked:
            ours, theirs = pairs(arms, arm, baseline)
            if ours:
                found[setting, arm, baseline] = difference(ours, theirs, span)
    adjusted = holm([d.p for d in found.values()])
    return {key: Effect(d, p) for (key, d), p in zip(found.items(), adjusted, strict=True)}


def family(effects: Iterable[Effect]) -> int:
    """How many tests there were: a single pair is none."""
    return sum(not math.isnan(effect.adjusted_p) for effect in effects)


def values_of(cells: Sequence[Cell], value: Callable[[Cell], T | None]) -> By[T]:
    """The values that there are, in the order of the cells."""
    by: By[T] = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        found = value(cell)
        if found is not None:
            by[cell.setting][cell.arm][cell.seed] = found
    return {setting: dict(arms) for setting, arms in by.items()}


def pairs(arms: Mapping[str, Mapping[int, T]], arm: str, baseline: str) -> tuple[list[T], list[T]]:
    """The values of an arm and of its baseline in the seeds that both have, in order."""
    ours, theirs = arms.get(arm, {}), arms.get(baseline, {})
    seeds = sorted(ours.keys() & theirs.keys())
    return [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]


def steps_to(cells: Sequence[Cell]) -> dict[tuple[Setting, str], list[int | None]]:
    """Steps until an arm's selected try scores on dev what vanilla's scores at its last step.

    Of each seed; None where it does not come to that.
    """
    goals = {(cell.setting, cell.seed): cell.chosen["curve"][-1][1] for cell in cells if cell.is_vanilla}
    found: dict[tuple[Setting, str], list[int | None]] = defaultdict(list)
    for cell in cells:
        goal = goals.get((cell.setting, cell.seed))
        if goal is not None:
            reached = [step for step, score in cell.chosen["curve"] if score >= goal]
            found[cell.setting, cell.arm].append(min(reached, default=None))
    return dict(found)
