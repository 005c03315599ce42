"""The file that a measurement grows in: one JSON object a line, written as it comes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.environment import finite

Row = dict[str, Any]


class Rows:
    """A file of rows; each is written at once, so that whatever ends a process leaves what it had.

    Args:
        path: created when the first row comes; what is there already is kept.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, part: str, kind: str, row: Row) -> None:
        """Append a row of a part."""
        line = json.dumps({"part": part, "kind": kind, **finite(row)}) + "\n"
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                line = "\n" + line  # a process died within its line
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def read(self) -> list[Row]:
        """Every row that is whole; of a part that was started again only those of its last start."""
        if not self.path.exists():
            return []
        rows: list[Row] = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # cut off
            if row["kind"] == "start":
                rows = [kept for kept in rows if kept["part"] != row["part"]]
            rows.append(row)
        return rows
