"""What is kept of a study in the repository: a line for each cell, with what the tables are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.evidence.readings import read_so_far
from bridges.errors import BadInput
from bridges.storage.files import write_text
from bridges.storage.shapes import COUNT, FINITE, OBJECT, TEXT, Maybe, Optional, misfit
from pets.study.cells.arms import VANILLA
from pets.study.cells.cell import describe
from pets.study.cells.context import Context
from pets.study.cells.right import unpacked
from pets.study.cells.rows import Row
from pets.study.compare.step_times import read_times
from pets.study.compare.table import read_all, read_json
from pets.study.statistics.setting import Setting

_KEPT = (
    *("cell", "task", "metric", "shots", "pet", "arm", "seed", "score", "dev", "strength"),
    *("restart", "best_step", "bridge", "control", "regularizer", "by_ratio", "settings"),
    *("trainable_parameters", "examples", "model", "code", "versions"),
)

_LINE = {
    **dict.fromkeys(("task", "metric", "pet", "arm"), TEXT),
    **dict.fromkeys(("seed", "restart"), COUNT),
    **{"shots": Maybe(COUNT), "score": FINITE, "readings": OBJECT},
    "right": Optional(TEXT),
    "tries": [{"curve": [(COUNT, FINITE)]}],
}
"""What tables are made of."""
_ANEW = "take the file as it was, or delete it and run its study"


def write_records(path: Path, context: Context) -> None:
    """A line for each cell of a study that is done, in the order of its grid, with what was read of it.

    What all rows have alike, or no table is made of, is left out.
    """
    rows = read_all(context.folder)
    cells = {describe(context, cell).cell: cell for cell in context.grid.cells()}
    done = [(rows[name], cell) for name, cell in cells.items() if name in rows and rows[name].is_done]
    lines = [json.dumps(_line(row, read_so_far(context, cell)), sort_keys=True) for row, cell in done]
    write_text(path, "".join(f"{line}\n" for line in lines))


def _line(row: Row, found: Mapping[str, Any]) -> dict[str, Any]:
    told = row.to_dict()
    tries = [
        {
            **{key: tried[key] for key in ("strength", "weight", "dev", "best_step")},
            "curve": [[look["step"], look["dev"][row.metric]] for look in tried["curves"]],
        }
        for tried in told["tries"]
    ]
    kept = {key: told[key] for key in (*_KEPT, "right") if key in told}
    return kept | {"tries": tries, "readings": dict(found)}


@dataclass(frozen=True)
class Cell:
    """A line as it is read again.

    Attributes:
        line: what it says.
    """

    line: Mapping[str, Any]

    @property
    def setting(self) -> Setting:
        return Setting(self.line["task"], self.line["shots"], self.line["pet"])

    @property
    def arm(self) -> str:
        return str(self.line["arm"])

    @property
    def seed(self) -> int:
        return int(self.line["seed"])

    @property
    def is_vanilla(self) -> bool:
        return self.arm == VANILLA

    @property
    def is_accuracy(self) -> bool:
        return bool(self.line["metric"] == "accuracy")

    @property
    def right(self) -> tuple[bool, ...] | None:
        """Of each reported example whether it is right on it; None where that was not kept."""
        if "right" not in self.line:
            return None
        return unpacked(self.line["right"], self.line["examples"]["reported"])

    @property
    def chosen(self) -> Mapping[str, Any]:
        """The try that was selected."""
        return dict(self.line["tries"][self.line["restart"]])

    def reading(self, *names: str) -> Any:
        """What was read, by the names on the way to it; None where it was not."""
        value: Any = self.line["readings"]
        for name in names:
            value = None if value is None else value.get(name)
        return value


def write_facts(path: Path, context: Context, untuned: Mapping[str, float]) -> None:
    """What a step took with each arm, by the comparison, and what the model is at untuned."""
    facts = {**read_times(context.folder), "untuned": untuned}
    write_text(path, json.dumps(facts, indent=1) + "\n")


def read_facts(folder: Path) -> dict[str, Any]:
    """Of all studies of a folder, by name."""
    return {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}


def read_records(folder: Path) -> dict[str, list[Cell]]:
    """Of all studies of a folder, by name.

    Raises:
        BadInput: for a line that is none of `write_records`, or a cell that is there twice.
    """
    return {path.stem: _read(path) for path in sorted(folder.glob("*.jsonl"))}


def _read(path: Path) -> list[Cell]:
    found: dict[tuple[Setting, str, int], Cell] = {}
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is no result of a study: {error}") from error
    for number, line in enumerate(lines, 1):
        if wrong := misfit(line, _LINE):
            raise BadInput(f"{path}, line {number}: {wrong}; {_ANEW}")
        cell = Cell(line)
        if found.setdefault((cell.setting, cell.arm, cell.seed), cell) is not cell:
            raise BadInput(
                f"{path}, line {number}: {cell.arm}, seed {cell.seed} is there twice; {_ANEW}"
            )
    return list(found.values())
