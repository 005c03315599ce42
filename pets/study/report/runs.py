"""Reads the RUNS folder of a comparison: its table, the step times and the analyses beside it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bridges.errors import BadInput
from bridges.storage.files import difference
from pets.study.cells.arms import KINDS, VANILLA
from pets.study.cells.rows import ANEW, Key, Row
from pets.study.compare.asked import read_asked
from pets.study.compare.look import read_analysis
from pets.study.compare.step_times import read_times
from pets.study.compare.table import TABLE_FILE, read_table

_AXES: dict[str, Callable[[Row], Any]] = {
    "data_sha256": lambda row: row.task,
    "cost": lambda row: row.arm,
    "cost_code": lambda row: (row.pet, row.arm),
}
"""Hashes of a row by what they may differ with: examples and words by task, costs by arm."""


@dataclass(frozen=True)
class LeftOut:
    """Rows that are not comparable with those shown.

    Attributes:
        count: how many.
        difference: between them (there) and those shown (here), ``code 'a' there, 'b' here; ...``.
    """

    count: int
    difference: str


@dataclass(frozen=True)
class Runs:
    """What one report is made of: rows of one model, data, code, one set of versions and settings.

    Attributes:
        name: of the folder.
        done: rows with a score, in the table's order.
        failed: rows with an error.
        missing: cells without a row, of those that the last command asked for and of the grid that the
            rows span.
        left_out: rows of other versions, settings, models, data or costs.
        times: PET -> arm -> what `write_step_times` measured of a step; may be empty.
        environment: where the times were measured.
        analysis: records of ``analysis.json``.
    """

    name: str
    done: Sequence[Row]
    failed: Sequence[Row] = ()
    missing: Sequence[Key] = ()
    left_out: Sequence[LeftOut] = ()
    times: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    analysis: Sequence[dict[str, Any]] = ()

    @property
    def settings(self) -> list[tuple[str, int | None]]:
        """The (task, shots) pairs, in the table's order."""
        return list(dict.fromkeys((row.task, row.shots) for row in self.done))

    @property
    def pets(self) -> list[str]:
        return list(dict.fromkeys(row.pet for row in self.done))

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(row.metric for row in self.done))

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Of all arms with a score, see `arm_kinds`."""
        return arm_kinds(self.done)

    def arms(self, kind: str) -> list[str]:
        """Those of a kind, in the rows' order."""
        return [arm for arm, its in self.kinds.items() if its == kind]

    def of(self, task: str, shots: int | None, pet: str | None = None) -> list[Row]:
        """The rows with a score of one setting."""
        rows = [row for row in self.done if (row.task, row.shots) == (task, shots)]
        return [row for row in rows if pet in (None, row.pet)]


def read_runs(folder: Path) -> Runs:
    """All that the report shows.

    Only what is comparable is shown, and the table's last row says what that is: its model, code and
    versions, of those for each PET the last row's settings (a learning rate may be the PET's own), the
    last number of tries, for each task the last examples and words, for each arm the last cost and
    strengths. Other rows are counted, never mixed in.

    Raises:
        BadInput: if the folder holds no comparison, a file in it is broken or of another version, or
            no cell has a score.
    """
    path = folder / TABLE_FILE
    rows = read_table(folder)
    expected = _expected(rows, path)
    chosen: dict[Key, Row] = {}
    others: Counter[str] = Counter()
    for row in rows:
        other_than_shown = difference(_made_with(row), expected(row))
        if other_than_shown:
            others[other_than_shown] += 1
            continue
        other = chosen.pop(row.key, None)
        if other is not None and not (row.is_done and other.is_done):
            row = row if row.is_done else other  # it was tried again
        elif other is not None:
            what = difference({"device": other.device}, {"device": row.device})
            raise BadInput(
                f"{path} holds the cell {' '.join(map(str, row.key))} twice, with the same settings, "
                f"versions and data{what and f' but {what}'}: run each into a folder of its own"
            )
        chosen[row.key] = row
    for row in chosen.values():
        if row.is_done and not 0 <= row.restart < len(row.tries):
            raise BadInput(
                f"{path}: the cell {' '.join(map(str, row.key))} has restart {row.restart} of "
                f"{len(row.tries)} tries: {ANEW}"
            )
    times = read_times(folder)
    return Runs(
        folder.resolve().name,
        [row for row in chosen.values() if row.is_done],
        [row for row in chosen.values() if not row.is_done],
        _missing(chosen, read_asked(folder)),
        [LeftOut(count, text) for text, count in others.items()],
        times.get("step_times", {}),
        times.get("environment", {}),
        read_analysis(folder),
    )


def arm_kinds(rows: Iterable[Row]) -> dict[str, str]:
    """Arm -> kind: vanilla first, then bridges, controls, regularizers, each in the rows' order."""
    by_arm = {row.arm: row for row in rows}
    kinds = {arm: row.kind for arm, row in by_arm.items()}
    return dict(sorted(kinds.items(), key=lambda item: KINDS.index(item[1])))


def panel_kinds(kinds: Mapping[str, str]) -> list[str]:
    """The kinds of arm that have panels of their own; vanilla is drawn in each, or alone."""
    return [kind for kind in KINDS[1:] if kind in kinds.values()] or [VANILLA]


def _made_with(row: Row) -> dict[str, Any]:
    """What rows that are compared have to share; what a failed row was tried with is not known."""
    facts = {**row.origin, "settings": row.settings, "by_ratio": row.by_ratio}
    facts |= {name: row.hashes.get(name) for name in _AXES}
    if row.is_done:
        facts |= {"tries": len(row.tries), "strengths": [t.strength for t in row.tries]}
    return facts


def _expected(rows: Sequence[Row], path: Path) -> Callable[[Row], dict[str, Any]]:
    """What a row has to be made with, as the last rows have it; its own of what they do not tell.

    Raises:
        BadInput: if none of the last row's kind has a score.
    """
    origin = rows[-1].origin
    same = [row for row in rows if row.origin == origin]
    done = [row for row in same if row.is_done]
    if not done:
        raise BadInput(
            f"{path}: none of the {len(same)} cells of the last row's versions has a score, so there is "
            f"nothing to report; the last failed with: {same[-1].error}"
        )
    tries = len(done[-1].tries)
    settings = {row.pet: row.settings for row in same}
    strengths = {row.arm: _made_with(row)["strengths"] for row in done if len(row.tries) == tries}
    by_ratio = {row.arm: row.by_ratio for row in done}
    hashes = {(name, of(row)): row.hashes.get(name) for row in same for name, of in _AXES.items()}

    def expected(row: Row) -> dict[str, Any]:
        own = _made_with(row)
        wanted = own | origin | {"settings": settings.get(row.pet, row.settings)}
        wanted |= {name: hashes.get((name, of(row)), own[name]) for name, of in _AXES.items()}
        if row.is_done:
            wanted["by_ratio"] = by_ratio.get(row.arm, row.by_ratio)
            wanted["tries"] = tries
            if own["tries"] == tries:
                wanted["strengths"] = strengths.get(row.arm, own["strengths"])
        return wanted

    return expected


def _missing(rows: Mapping[Key, Row], asked: Sequence[Key]) -> list[Key]:
    settings = dict.fromkeys(key[:2] for key in rows)
    axes = (dict.fromkeys(key[k] for key in rows) for k in (2, 3, 4))
    grid = itertools.product(settings, *axes)
    spanned = ((task, shots, pet, arm, seed) for (task, shots), pet, arm, seed in grid)
    return [key for key in dict.fromkeys([*asked, *spanned]) if key not in rows]
