"""The table of a comparison: one JSON line a cell, whole at any moment."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from bridges.errors import BadInput
from bridges.storage import write_text

FORMAT = 1
TABLE_FILE = "results.jsonl"
ROW_FILE = "row.json"
CELLS_FOLDER = "cells"

Row = dict[str, Any]
Kind = tuple[str, tuple[type, ...]]

_TEXT: Kind = ("text", (str,))
_TEXT_OR_NULL: Kind = ("text or null", (str, NoneType))
_COUNT: Kind = ("a whole number", (int,))
_COUNT_OR_NULL: Kind = ("a whole number or null", (int, NoneType))
_NUMBER: Kind = ("a number", (int, float))
_OBJECT: Kind = ("an object", (dict,))
_OBJECT_OR_NULL: Kind = ("an object or null", (dict, NoneType))
_LIST: Kind = ("a list", (list,))
_OF_ALL = {
    "cell": _TEXT,
    "task": _TEXT,
    "metric": _TEXT,
    "shots": _COUNT_OR_NULL,
    "pet": _TEXT,
    "arm": _TEXT,
    "seed": _COUNT,
    "settings": _OBJECT,
    "model": _TEXT,
    "code": _TEXT,
    "versions": _OBJECT,
    "device": _TEXT,
    "bridge": _OBJECT_OR_NULL,
    "control": _TEXT_OR_NULL,
    "fit": _OBJECT_OR_NULL,
}
_OF_STATUS = {
    "done": {
        "score": _NUMBER,
        "tries": _LIST,
        "restart": _COUNT,
        "examples": _OBJECT,
        "trainable_parameters": _COUNT,
    },
    "failed": {"error": _TEXT},
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
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{where} is broken ({error.msg} at character {error.pos}): {ANEW}") from error
    if not isinstance(row, dict) or "format" not in row:
        raise BadInput(f"{where} is no row of a comparison, an object with a format: {ANEW}")
    if row["format"] != FORMAT:
        raise BadInput(
            f"{where} has format {row['format']!r}, this version of bridge-pets reads format {FORMAT}: "
            "use the version that wrote it, or choose another folder"
        )
    status = row.get("status")
    if status not in ("done", "failed"):
        raise BadInput(f"{where} has status {status!r}, expected 'done' or 'failed': {ANEW}")
    for name, (expected, types) in (_OF_ALL | _OF_STATUS[status]).items():
        if name not in row or not isinstance(row[name], types):
            found = reprlib.repr(row[name]) if name in row else "missing"
            raise BadInput(f"{where}: {name} is {found}, expected {expected}: {ANEW}")
    if status == "done" and not all(map(_is_try, row["tries"])):
        raise BadInput(
            f"{where}: a try lacks some of strength, restart, dev and curves (of step, dev and "
            f"dev_loss): {ANEW}"
        )
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
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise BadInput(f"{path} is broken ({error}): {ANEW}") from error


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
