"""The table of a comparison: one JSON line a cell, whole at any moment."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from bridges.errors import BadInput
from bridges.storage import write_text

FORMAT = 1
TABLE_FILE = "results.jsonl"
ROW_FILE = "row.json"
CELLS_FOLDER = "cells"

Row = dict[str, Any]


def read_rows(folder: Path) -> dict[str, Row]:
    """The rows of the cells that are finished, by cell.

    Raises:
        BadInput: if a row is broken, or was written by a version with another format.
    """
    found = {}
    for path in sorted((folder / CELLS_FOLDER).glob(f"*/{ROW_FILE}")):
        row = _row(path.read_text(encoding="utf-8"), str(path))
        found[row["cell"]] = row
    return found


def write_row(folder: Path, row: Row) -> None:
    """Keep a finished cell's row, in one step; an earlier one of the cell goes."""
    write_text(folder / CELLS_FOLDER / row["cell"] / ROW_FILE, json.dumps(row) + "\n")


def write_table(folder: Path, rows: Iterable[Row], last: Collection[str]) -> None:
    """Write the whole table in one step, sorted: equal rows are equal bytes, whoever came first.

    The rows of the cells ``last`` come last, which tells a reader what the folder was last used for.
    """
    ordered = sorted(rows, key=lambda row: (row["cell"] in last, *_order(row)))
    write_text(folder / TABLE_FILE, "".join(json.dumps(row) + "\n" for row in ordered))


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("task", "shots", "pet", "arm", "seed", "cell")
    return tuple(row[name] or 0 if name == "shots" else row[name] for name in names)


def _row(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
        found = row["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{where} is no row of a comparison ({error!r}): delete it") from error
    if found != FORMAT:
        raise BadInput(
            f"{where} has format {found!r}, this version of bridge-pets reads format {FORMAT}: it was "
            "written by another version; use that one, or choose another folder"
        )
    return dict(row)
