"""The table of a comparison: one JSON line a cell, whole at any moment."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from bridges.errors import BadInput
from bridges.storage.files import write_text
from pets.study.cells.cell import CELLS_FOLDER
from pets.study.cells.rows import Row, parse_json, parse_row

TABLE_FILE = "results.jsonl"
ROW_FILE = "row.json"


def read_rows(folder: Path) -> dict[str, Row]:
    """The rows of the cells that are finished, by cell, from the cells' folders.

    Raises:
        BadInput: if one cannot be read, or for what `parse_row` refuses.
    """
    paths = sorted((folder / CELLS_FOLDER).glob(f"*/{ROW_FILE}"))
    rows = [parse_row(read_text(path), str(path)) for path in paths]
    return {row.cell: row for row in rows}


def read_all(folder: Path) -> dict[str, Row]:
    """What the table is made of: the rows of the cells' folders, and those that it alone has.

    Of the latter the cells' folders were deleted, to save space say, or the table alone was copied.

    Raises:
        BadInput: if one cannot be read, or for what `parse_row` refuses.
    """
    path = folder / TABLE_FILE
    there = read_table(folder) if path.exists() and path.stat().st_size else []
    return {row.cell: row for row in there} | read_rows(folder)


def read_table(folder: Path) -> list[Row]:
    """The rows of the table, in its order; there is at least one.

    Raises:
        BadInput: if the folder holds no table or an empty one, if it cannot be read, or for what
            `parse_row` refuses.
    """
    path = folder / TABLE_FILE
    if not path.is_file():
        what = "holds no " + TABLE_FILE if folder.is_dir() else "is no folder"
        raise BadInput(f"{folder} {what}: give the folder that `bridge-pets compare --out` wrote")
    lines = read_text(path).splitlines()
    if not lines:
        raise BadInput(f"{path} is empty: run `bridge-pets compare` first")
    return [parse_row(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def read_json(path: Path) -> Any:
    """What a JSON file of a comparison holds.

    Raises:
        BadInput: if it cannot be read, or is broken.
    """
    return parse_json(read_text(path), str(path))


def read_text(path: Path) -> str:
    """The text of a file of a comparison.

    Raises:
        BadInput: if it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read ({error})") from error


def write_row(folder: Path, row: Row) -> None:
    """Keep a finished cell's row, in one step; an earlier one of the cell goes."""
    write_text(folder / CELLS_FOLDER / row.cell / ROW_FILE, _line(row))


def write_table(folder: Path, rows: Iterable[Row], last: Collection[str]) -> None:
    """Write the whole table in one step, sorted: equal rows are equal bytes, whoever came first.

    The rows of the cells ``last`` come last, which tells a reader what the folder was last used for.
    """
    ordered = sorted(
        rows, key=lambda r: (r.cell in last, r.task, r.shots or 0, r.pet, r.arm, r.seed, r.cell)
    )
    write_text(folder / TABLE_FILE, "".join(map(_line, ordered)))


def _line(row: Row) -> str:
    return json.dumps(row.to_dict()) + "\n"
