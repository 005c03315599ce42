"""Pairs of an arm and vanilla on the selection split: the same setting, PET, seed, and restart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pets.study.cells.arms import VANILLA
from pets.study.cells.rows import Row
from pets.study.report.runs import Runs, key_of
from pets.study.statistics.intervals import Summary, summarise


@dataclass(frozen=True)
class Pair:
    """A row, vanilla's row of the same setting, PET and seed, and what both are of.

    Attributes:
        row: the arm's.
        vanilla: its partner.
    """

    row: Row
    vanilla: Row

    @property
    def setting(self) -> tuple[str, int | None]:
        return self.row["task"], self.row["shots"]


@dataclass(frozen=True)
class Difference:
    """One difference of a dev metric.

    Attributes:
        setting: task and shots.
        seed: of the pair.
        at: what it is drawn against: a strength, a step.
        value: the arm's dev metric minus vanilla's.
    """

    setting: tuple[str, int | None]
    seed: int
    at: float
    value: float


def pairs(runs: Runs, arm: str) -> list[Pair]:
    """All pairs of an arm; rows whose partner is missing have none."""
    partners = {_without_arm(row): row for row in runs.done if row["arm"] == VANILLA}
    rows = [row for row in runs.done if row["arm"] == arm]
    return [Pair(row, partners[_without_arm(row)]) for row in rows if _without_arm(row) in partners]


def by_strength(pair: Pair) -> Iterator[Difference]:
    """The difference of each try to vanilla's try with the same restart."""
    metric = pair.row["metric"]
    theirs = {found["restart"]: found["dev"][metric] for found in pair.vanilla["tries"]}
    for own in pair.row["tries"]:
        if own["strength"] is not None and own["restart"] in theirs:
            value = own["dev"][metric] - theirs[own["restart"]]
            yield Difference(pair.setting, pair.row["seed"], own["strength"], value)


def by_step(pair: Pair) -> Iterator[Difference]:
    """The difference of the selected tries at each step both were looked at."""
    metric = pair.row["metric"]
    own, theirs = (
        {look["step"]: look["dev"][metric] for look in row["tries"][row["restart"]]["curves"]}
        for row in (pair.row, pair.vanilla)
    )
    for step in own.keys() & theirs.keys():
        yield Difference(pair.setting, pair.row["seed"], step, own[step] - theirs[step])


def over_seeds(differences: Sequence[Difference]) -> list[tuple[float, Summary]]:
    """For every strength or step the summary over seeds, each of which counts with its mean once.

    What one seed did in several settings shares its splits and initial values, so it is not counted as
    several measurements.
    """
    found = []
    for at in sorted({d.at for d in differences}):
        by_seed: dict[int, list[float]] = {}
        for d in differences:
            if d.at == at:
                by_seed.setdefault(d.seed, []).append(d.value)
        found.append((at, summarise([summarise(values).mean for values in by_seed.values()])))
    return found


def means(differences: Sequence[Difference]) -> list[tuple[float, float]]:
    """For every strength or step the plain mean."""
    places = sorted({d.at for d in differences})
    return [(at, summarise([d.value for d in differences if d.at == at]).mean) for at in places]


def _without_arm(row: Row) -> tuple[object, ...]:
    task, shots, pet, _, seed = key_of(row)
    return task, shots, pet, seed
