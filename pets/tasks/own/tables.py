"""Tables of columns from files, from folders and from the hub, read by `datasets`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridges.errors import BadInput, listed, one_line, shown
from pets.tasks.own.table_files import FILES, quiet, read_file, unquoted

FORMS = "a .csv, .tsv, .jsonl, .json or .parquet file, a folder that save_to_disk wrote, or owner/name"

_SHEET = re.compile(r"\.(xlsx?|xlsm|ods|numbers)$", re.IGNORECASE)
_HUB = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?::([\w.-]+))?", re.ASCII)


@dataclass(frozen=True)
class Table:
    """Rows of named columns.

    Attributes:
        where: what messages call it.
        data: the `datasets.Dataset`.
        first_row: what messages call the first row: of csv and tsv 2, since the header is row 1.
        quoted: cells with quotes in them may stand in quotes: of tsv.
    """

    where: str
    data: Any
    first_row: int = 1
    quoted: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns, without those that only count the rows."""
        return tuple(name for name in self.data.column_names if not name.startswith("__index_level_"))

    def column(self, name: str) -> list[Any]:
        """The cells of a column.

        Raises:
            BadInput: there is no such column, or it was read as dates.
        """
        if name not in self.names:
            there = listed([shown(column, 40) for column in self.names])
            raise BadInput(f"{self.where} has no column {shown(name)}; there are {there}")
        kind = getattr(self.data.features[name], "dtype", "")
        if str(kind).startswith(("timestamp", "date", "time")):
            raise BadInput(
                f"{self.where}, column {shown(name)} is read as times, so their writing is lost: give "
                "the table as csv, where all is text"
            )
        cells = self.data.select_columns([name])[:][name]
        return [unquoted(cell) for cell in cells] if self.quoted else list(cells)

    def classes(self, name: str) -> tuple[str, ...] | None:
        """The names of a column's classes, where it is a `datasets.ClassLabel`."""
        names = getattr(self.data.features[name], "names", None)
        return tuple(map(str, names)) if names else None

    def row(self, index: int) -> str:
        """What messages call a row."""
        return f"{self.where}, row {index + self.first_row}"


def is_table(text: str) -> bool:
    """Whether a text says by its form where a table is: a file or folder, or one of the hub."""
    return _is_local(text) or _HUB.fullmatch(text) is not None


def is_file(text: str) -> bool:
    """Whether a text is the name of a file that would hold one table."""
    return text.lower().endswith(FILES)


def name_of(source: str) -> str:
    """What a task is called whose table is there: as the file or folder, or as the dataset."""
    if _is_local(source):
        return Path(source).resolve().stem or "own"
    return source.partition("/")[2].replace(":", "-")


def read(source: str) -> dict[str, Table]:
    """The tables of a source by the names of its splits; a file has one, without a name: "".

    Args:
        source: see `FORMS`; a configuration of a dataset of the hub stands behind a colon.

    Raises:
        BadInput: there is nothing, or it cannot be read; one line with file, row, what to do.
    """
    path = Path(source)
    if is_file(source):
        rows_below_header = path.suffix.lower() in (".csv", ".tsv")
        tabs = path.suffix.lower() == ".tsv"
        return {"": Table(source, read_file(path), 1 + rows_below_header, quoted=tabs)}
    if _is_local(source):
        return _read_folder(path)
    match = _HUB.fullmatch(source)
    if match is None:
        other = "; export the sheet as .csv" if _SHEET.search(source) else ""
        raise BadInput(f"{shown(source)} is no table that is there: expected {FORMS}{other}")
    return _read_hub(match[1], match[2])


def _is_local(text: str) -> bool:
    try:
        return is_file(text) or Path(text).is_dir()
    except (OSError, ValueError):  # longer than names are, or with a zero byte
        return False


def _read_folder(path: Path) -> dict[str, Table]:
    try:
        with quiet() as datasets:
            loaded = datasets.load_from_disk(str(path), keep_in_memory=True)
    except Exception as error:  # as above
        raise BadInput(
            f"{path} cannot be read ({one_line(str(error), 300)}): expected a folder that save_to_disk "
            "wrote; of files name one, or name them in a task file: bridge-pets task new FILE"
        ) from error
    return _tables(str(path), loaded)


def _read_hub(name: str, configuration: str | None) -> dict[str, Table]:
    where = name if configuration is None else f"{name}:{configuration}"
    try:
        import datasets  # here: it takes seconds

        loaded = datasets.load_dataset(name, configuration)
    except Exception as error:  # as above, and of the hub and its http client
        raise BadInput(
            f"{where} is no file that is there, and as a dataset of the hub it could not be loaded "
            f"({type(error).__name__}: {one_line(str(error), 400)}); check the name, owner/name or "
            "owner/name:config, and the network, or give a file"
        ) from error
    return _tables(where, loaded)


def _tables(where: str, loaded: Any) -> dict[str, Table]:
    if not hasattr(loaded, "keys"):
        return {"": Table(where, loaded)}
    return {str(split): Table(f"{where} {split}", data) for split, data in loaded.items()}
