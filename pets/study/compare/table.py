"""The table of a comparison: one JSON line a cell, whole at any moment."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from bridges.errors import BadInput
from bridges.storage.files import write_text
from bridges.storage.shapes import (
    COUNT,
    FINITE,
    NUMBER,
    OBJECT,
    TEXT,
    Each,
    Maybe,
    Optional,
    Shape,
    misfit,
)

FORMAT = 1
TABLE_FILE = "results.jsonl"
ROW_FILE = "row.json"
CELLS_FOLDER = "cells"

Row = dict[str, Any]
_OF_ALL: dict[str, Shape | Optional] = {
    "cell": TEXT,
    "task": TEXT,
    "metric": TEXT,
    "shots": COUNT.or_null(),
    "pet": TEXT,
    "arm": TEXT,
    "seed": COUNT,
    "settings": OBJECT,
    "model": TEXT,
    "code": TEXT,
    "versions": OBJECT,
    "hashes": Optional(OBJECT),
    "shared_texts": Optional(Maybe(OBJECT)),
    "device": TEXT,
    "bridge": Maybe(OBJECT),
    "control": TEXT.or_null(),
    "fit": Maybe({"first": NUMBER, "best": NUMBER, "steps": COUNT}),
}
_FAILED: dict[str, Shape] = {"error": TEXT}


def _done(metric: str) -> dict[str, Shape]:
    """What a row with a score has besides, where that is of this metric."""
    look = {"step": COUNT, "dev": {metric: FINITE}, "dev_loss": FINITE}
    tried = {"strength": FINITE.or_null(), "restart": COUNT, "dev": {metric: FINITE}, "curves": [look]}
    return {
        "score": NUMBER,
        "tries": [tried],
        "restart": COUNT,
        "examples": Each(COUNT),
        "trainable_parameters": COUNT,
    }


ANEW = "delete it; the same `bridge-pets compare` writes it anew"
"""What to do about a file or a line of a comparison that cannot be right."""


def read_rows(folder: Path) -> dict[str, Row]:
    """The rows of the cells that are finished, by cell, from the cells' folders.

    Raises:
        BadInput: if one cannot be read, or for what `parse_row` refuses.
    """
    paths = sorted((folder / CELLS_FOLDER).glob(f"*/{ROW_FILE}"))
    rows = [parse_row(read_text(path), str(path)) for path in paths]
    return {row["cell"]: row for row in rows}


def read_all(folder: Path) -> dict[str, Row]:
    """What the table is made of: the rows of the cells' folders, and those that it alone has.

    Of the latter the cells' folders were deleted, to save space say, or the table alone was copied.

    Raises:
        BadInput: if one cannot be read, or for what `parse_row` refuses.
    """
    path = folder / TABLE_FILE
    there = read_table(folder) if path.exists() and path.stat().st_size else []
    return {row["cell"]: row for row in there} | read_rows(folder)


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


def parse_row(text: str, where: str) -> Row:
    """A row as a line of the table and a cell's file hold it: with all that is read of it, anywhere.

    Args:
        text: the JSON.
        where: what it is, for errors: the file, of a table the line too.

    Raises:
        BadInput: if it is broken or lacks something, or was written by a version with another format.
    """
    row = _parsed(text, where)
    if not isinstance(row, dict) or "format" not in row:
        raise BadInput(f"{where} is no row of a comparison, an object with a format: {ANEW}")
    if row["format"] != FORMAT:
        raise BadInput(
            f"{where} has format {reprlib.repr(row['format'])}, this version of bridge-pets reads "
            f"format {FORMAT}: use the version that wrote it, or choose another folder"
        )
    status = row.get("status")
    if status not in ("done", "failed"):
        raise BadInput(f"{where} has status {reprlib.repr(status)}, expected 'done' or 'failed': {ANEW}")
    wrong = misfit(row, _OF_ALL)
    if not wrong and status == "done":
        if isinstance(row.get("tries"), list) and not all(map(_is_try, row["tries"])):
            raise BadInput(
                f"{where}: a try lacks some of strength, restart, dev and curves (of step, dev and "
                f"dev_loss): {ANEW}"
            )
        wrong = misfit(row, _done(row["metric"]))
    elif not wrong:
        wrong = misfit(row, _FAILED)
    if wrong:
        raise BadInput(f"{where}: {wrong}: {ANEW}")
    return row


def _is_try(found: object) -> bool:
    return (
        isinstance(found, dict)
        and {"strength", "restart", "dev", "curves"} <= found.keys()
        and isinstance(found["curves"], list)
        and all(
            isinstance(look, dict) and {"step", "dev", "dev_loss"} <= look.keys()
            for look in found["curves"]
        )
    )


def read_json(path: Path) -> Any:
    """What a JSON file of a comparison holds.

    Raises:
        BadInput: if it cannot be read, or is broken.
    """
    return _parsed(read_text(path), str(path))


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{where} is broken ({error.msg} at character {error.pos}): {ANEW}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, endless nesting
        raise BadInput(f"{where} is broken ({error}): {ANEW}") from error


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
