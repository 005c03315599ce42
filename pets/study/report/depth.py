"""Scores by depth: arms against vanilla with the same reader, exits against a probe on vanilla."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from pets.anytime.by_layer import EXIT, HEAD, PROBE, READERS
from pets.study.cells.arms import VANILLA
from pets.study.cells.depth import SHARES, area, at_share
from pets.study.cells.rows import Row
from pets.study.report.document import (
    Entry,
    RowGroup,
    Table,
    interval,
    listed,
    number,
    p_value,
    plural,
    signed,
)
from pets.study.report.runs import Runs
from pets.study.statistics.paired import ERROR, PairedDifference, difference, holm
from pets.study.statistics.setting import Setting
from pets.tasks.metrics import RANGES

ABOUT = (
    "The selected PETs scored on the reported examples, had the model stopped at a layer and been read "
    "there: by a linear probe (logistic regression, its ridge chosen by cross-validation), by the exit "
    "of a cost that has a lens (the bridge's posterior, the lens adapted in closed form), and by the "
    "model's own head, which learns nothing. Probe and exit learn from the same examples, those that "
    f"the PET was tuned and selected on. An exit is held against the probe on {VANILLA}, which needs no "
    "cost."
)
NAMES = {PROBE: "linear probe", EXIT: "exit of the cost", HEAD: "the model's own head"}
AREA, FULL = "area", "full model"
COLUMNS = (AREA, *SHARES, FULL)
_HELD = "3/4"  # the share of the layers that sentences are about


@dataclass(frozen=True)
class Depth:
    """One tuned PET.

    Attributes:
        full: the score of the whole model.
        by_reader: the scores of states 0 to L; None where a reader has none.
    """

    full: float
    by_reader: Mapping[str, Sequence[float] | None]

    def column(self, reader: str, name: str) -> float:
        """One of `COLUMNS`, of a reader that has scores."""
        scores = self.by_reader[reader]
        assert scores is not None
        if name == FULL:
            return self.full
        return area(scores) if name == AREA else at_share(scores, SHARES[name])


@dataclass(frozen=True)
class Against:
    """A paired difference of one column, and its p, corrected for all of a group.

    Attributes:
        difference: to vanilla with the same reader, of an exit to the probe on vanilla.
        adjusted_p: Holm's; nan for a single pair.
    """

    difference: PairedDifference
    adjusted_p: float

    @property
    def significant(self) -> bool:
        return self.adjusted_p < ERROR

    def __str__(self) -> str:
        d = self.difference
        return f"{signed(d.mean)} {interval(d.low, d.high)}" if d.count > 1 else signed(d.mean)


@dataclass(frozen=True)
class Depths:
    """One task, number of shots and PET.

    Attributes:
        name: as in titles.
        metric: of the task.
        arms: by arm and seed, vanilla first.
    """

    name: str
    metric: str
    arms: Mapping[str, Mapping[int, Depth]]

    def readers(self) -> list[str]:
        """Those that any arm has."""
        return [reader for reader in READERS if any(self.of(arm, reader) for arm in self.arms)]

    def of(self, arm: str, reader: str) -> dict[int, Depth]:
        """An arm's PETs that a reader read, by seed."""
        found = self.arms.get(arm, {})
        return {seed: one for seed, one in sorted(found.items()) if one.by_reader.get(reader)}

    def mean(self, arm: str, reader: str, column: str) -> float:
        """Over seeds."""
        return fmean(one.column(reader, column) for one in self.of(arm, reader).values())

    @cached_property
    def against(self) -> dict[tuple[str, str, str], Against]:
        """By reader, arm and column, where both have a seed; of the whole model the reader is ""."""
        found: dict[tuple[str, str, str], PairedDifference] = {}
        for arm in self.arms:
            if arm == VANILLA:
                continue
            for reader in self.readers():
                of = PROBE if reader == EXIT else reader
                own, theirs = self.of(arm, reader), self.of(VANILLA, of)
                for column in (AREA, *SHARES):
                    values = {seed: one.column(reader, column) for seed, one in own.items()}
                    base = {seed: one.column(of, column) for seed, one in theirs.items()}
                    self._compare(found, (reader, arm, column), values, base)
            full, theirs_full = (
                {seed: one.full for seed, one in self.arms.get(name, {}).items()}
                for name in (arm, VANILLA)
            )
            self._compare(found, ("", arm, FULL), full, theirs_full)
        adjusted = holm([d.p for d in found.values()])
        return {key: Against(d, p) for (key, d), p in zip(found.items(), adjusted, strict=True)}

    def _compare(
        self,
        found: dict[tuple[str, str, str], PairedDifference],
        key: tuple[str, str, str],
        values: Mapping[int, float],
        baseline: Mapping[int, float],
    ) -> None:
        if seeds := sorted(values.keys() & baseline.keys()):
            pairs = [values[seed] for seed in seeds], [baseline[seed] for seed in seeds]
            found[key] = difference(*pairs, RANGES.get(self.metric))


def depths(runs: Runs) -> list[Depths]:
    """The groups of a comparison that was scored by depth, in the table's order."""
    found = []
    for task, shots in runs.settings:
        for pet in runs.pets:
            rows = [row for row in runs.of(task, shots, pet) if row.depth is not None]
            if rows:
                arms: dict[str, dict[int, Depth]] = {arm: {} for arm in runs.kinds}
                for row in rows:
                    arms[row.arm][row.seed] = _depth(row)
                kept = {arm: by_seed for arm, by_seed in arms.items() if by_seed}
                found.append(Depths(str(Setting(task, shots, pet)), rows[0].metric, kept))
    return found


def _depth(row: Row) -> Depth:
    assert row.depth is not None
    return Depth(row.score, row.depth)


def depth_table(group: Depths) -> Table:
    """Arms by reader, and how they differ."""
    groups = []
    for reader in group.readers():
        rows = [_line(group, arm, reader) for arm in group.arms if group.of(arm, reader)]
        groups.append(RowGroup(NAMES[reader], rows))
    caption = (
        f"{group.name}: {group.metric} at shares of the layers, mean over seeds. Area: the mean over "
        f"all layers. Below: minus {VANILLA}'s with the same reader, of exits minus the probe's on "
        f"{VANILLA}, paired by seed, with the 95 % interval. Bold: p of the paired t test below 0.05, "
        "corrected by Holm for all differences of this table."
    )
    return Table(caption, ("arm", *COLUMNS, "seeds"), groups)


def _line(group: Depths, arm: str, reader: str) -> list[Entry]:
    cells = [Entry(arm)]
    for column in COLUMNS:
        against = group.against.get(("" if column == FULL else reader, arm, column))
        mean = number(group.mean(arm, reader, column))
        if against is None:
            cells.append(Entry(mean))
        else:
            cells.append(Entry(mean, against.significant, str(against)))
    return [*cells, Entry(str(len(group.of(arm, reader))))]


def facts(group: Depths) -> list[str]:
    """What is to be said of a group, a sentence or two for vanilla and for each arm with exits."""
    said = []
    if read := [reader for reader in (PROBE, HEAD) if group.of(VANILLA, reader)]:
        told = [
            f"{NAMES[reader] if reader == HEAD else 'a linear probe'} has "
            + listed([f"{number(group.mean(VANILLA, reader, share))} at {share}" for share in SHARES])
            for reader in read
        ]
        full = number(group.mean(VANILLA, read[0], FULL))
        said.append(f"On {VANILLA} {'; '.join(told)} of the layers; the full model has {full}.")
    for arm in group.arms:
        held, whole = (group.against.get((EXIT, arm, column)) for column in (_HELD, AREA))
        if held is not None and whole is not None:
            said.append(
                f"At {_HELD} of the layers the exits of {arm} have "
                f"{number(group.mean(arm, EXIT, _HELD))}, {held} against a probe on {VANILLA}: "
                f"{_verdict(held)}. Over all layers the difference is {whole}: {_verdict(whole)}."
            )
    return said


def _verdict(against: Against) -> str:
    """Whether exits are better than the probe, in words."""
    d = against.difference
    if math.isnan(against.adjusted_p):
        return "not better" if d.mean <= 0 else "one seed does not show whether they are better"
    how = f"corrected p {p_value(against.adjusted_p)}, {plural(d.count, 'seed')}"
    if against.significant:
        return f"{'better' if d.mean > 0 else 'worse'} ({how})"
    return f"{'not better' if d.mean <= 0 else 'not shown to be better'} ({how})"
