"""A row: what a comparison keeps of a cell, and what a line of JSON has to be to be one."""

from __future__ import annotations

import json
import reprlib
from typing import Any

from bridges.errors import BadInput
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


def parse_row(text: str, where: str) -> Row:
    """A row as a line of the table and a cell's file hold it: with all that is read of it, anywhere.

    Args:
        text: the JSON.
        where: what it is, for errors: the file, of a table the line too.

    Raises:
        BadInput: if it is broken or lacks something, or was written by a version with another format.
    """
    row = parse_json(text, where)
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


def parse_json(text: str, where: str) -> Any:
    """What a text that a comparison wrote holds.

    Raises:
        BadInput: if it is broken.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{where} is broken ({error.msg} at character {error.pos}): {ANEW}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, endless nesting
        raise BadInput(f"{where} is broken ({error}): {ANEW}") from error
