"""A file with a table: its shape is checked, then `datasets` reads it.

A file's cells are what is written in it. So csv and tsv are read as texts: "NA", "None" and "007" stay
what they are; and what pandas would mend in silence, such as a row with a cell too many, is refused.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bridges.errors import BadInput, listed, one_line, shown

FILES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
"""How the names of files end that hold a table."""
_CELL = 40  # characters of a cell in a message
_TAB = "\t"
_INSTEAD = (";", _TAB)  # of commas, as spreadsheets of many languages write csv


def read_file(path: Path) -> Any:
    """The `datasets.Dataset` of a file, in memory; nothing is left on the disk.

    Raises:
        BadInput: it cannot be read, or a row is not as the others are.
    """
    content = _content(path)
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _loaded(path, "parquet")
    text = _decoded(path, content)
    if kind in (".csv", ".tsv"):
        tabs = kind == ".tsv"
        # Where the header stands in quotes, so may any cell, tabs and line ends in it.
        bare = tabs and not text.lstrip().startswith('"')
        separator = _TAB if tabs else _separator(text)
        names = _shape(path, text, separator, bare)
        return _loaded(
            path,
            "csv",
            sep=separator,
            quoting=csv.QUOTE_NONE if bare else csv.QUOTE_MINIMAL,
            column_names=names,
            header=0,
            keep_default_na=False,
            encoding="utf-8-sig",
            features=lambda d: d.Features({name: d.Value("string") for name in names}),
        )
    _check_objects(path, text)
    return _loaded(path, "json")


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"{path} cannot be read ({reason}): check its name and its rights") from error
    if not content.removeprefix(codecs.BOM_UTF8).strip():
        raise BadInput(f"{path} is empty: expected columns with names, and rows")
    return content


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadInput(
            f"{path}, line {line}: byte {content[error.start]:#04x} is not UTF-8; convert the file, "
            "with `iconv -f WINDOWS-1252 -t UTF-8` for example, or what it is written in"
        ) from None


def _separator(text: str) -> str:
    """What stands between the cells of a csv file: commas, or what its header has instead of any."""
    header = re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0]
    return next((sign for sign in (",", *_INSTEAD) if sign in header), ",")


def _shape(path: Path, text: str, separator: str, bare: bool) -> list[str]:
    """The names of the columns, once every row has as many cells.

    Raises:
        BadInput: otherwise, or for two columns of one name, or for no rows.
    """
    lines = io.StringIO(text, newline=None)  # ends of all kinds, as pandas takes them
    if bare:
        reader = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, delimiter=separator, strict=True)
    number, remedy = 0, _remedy(separator, bare)
    broken, first = [], ""
    with _any_length():
        try:
            names: list[str] = []
            for cells in reader:
                if not cells:
                    continue  # an empty line, which pandas skips too
                number += 1
                if number == 1:
                    names = _names(path, cells, separator)
                elif len(cells) != len(names):
                    broken.append(number)
                    first = first or (
                        f"{path}, row {number} (line {reader.line_num}): {len(cells)} cells, expected "
                        f"{len(names)}, one for each of the columns {listed(names)}; read as "
                        f"{listed([shown(cell, _CELL) for cell in cells], 6)}; {remedy}"
                    )
        except csv.Error as error:
            raise BadInput(
                f"{path}, row {number + 1} (line {reader.line_num}): {error}; {remedy}"
            ) from None
    if broken:
        raise BadInput(first + so_are(broken[1:]))
    if number < 2:
        raise BadInput(f"{path} has a header and no rows: expected at least one row for each class")
    return names


def so_are(rows: Sequence[int]) -> str:
    """What a message about a row says of others that are broken in the same way, so that all are mended
    at once."""
    what = "row is" if len(rows) == 1 else "rows are"
    return f". {len(rows)} more {what} so: {listed(rows)}" if rows else ""


def _remedy(separator: str, bare: bool) -> str:
    if bare:
        return "a text with a tab or a line end in it needs another form, csv or jsonl"
    signs = {",": "commas", ";": "semicolons", _TAB: "tabs"}[separator]
    return (
        f"a text with {signs}, quotes or line ends stands in quotes, quotes in it doubled: "
        f'"a ""b""{"," if separator == _TAB else separator} c"'
    )


def _names(path: Path, cells: Sequence[str], separator: str) -> list[str]:
    stripped = [cell.strip() for cell in cells]
    names = [name or f"unnamed {place}" for place, name in enumerate(stripped, 1)]
    if len(names) < 2:
        raise BadInput(
            f"{path} has one column, {shown(names[0])}, where a task has texts and answers: cells are "
            f"separated by {'tabs' if separator == _TAB else 'commas, semicolons or tabs'}"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInput(
            f"{path} has several columns of the name {shown(twice[0])}: the first row has to name the "
            "columns, each by a name of its own"
        )
    return names


@contextmanager
def _any_length() -> Iterator[None]:
    """The csv module takes cells of any length, not of 131,072 characters at most."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def unquoted(cell: str) -> str:
    """A cell of a tsv file: quotes are text there, unless they enclose others, each of those doubled.

    A program quotes what has quotes in it; a cell like ``"Never."`` is a quotation.
    """
    inner = cell[1:-1]
    if cell == '""':
        return ""
    encloses = len(cell) > 1 and cell[0] == cell[-1] == '"' and '""' in inner
    return inner.replace('""', '"') if encloses and '"' not in inner.replace('""', "") else cell


def _check_objects(path: Path, text: str) -> None:
    """Whether a JSON text begins as objects do, in a list or one a line."""
    start = text.lstrip()
    if start.startswith("["):
        start = start[1:].lstrip()
    if not start.startswith("{"):
        raise BadInput(
            f"{path} holds no objects: expected one a line, or a list of them, such as "
            '{"text": "a film", "label": 1}'
        )


def _loaded(path: Path, kind: str, features: Callable[[Any], Any] | None = None, **options: Any) -> Any:
    """A file as a dataset in memory; what `datasets` writes meanwhile is removed."""
    try:
        with quiet() as datasets, tempfile.TemporaryDirectory() as cache:
            if features is not None:
                options["features"] = features(datasets)
            read_it = getattr(datasets.Dataset, f"from_{kind}")
            data = read_it(str(path), cache_dir=cache, keep_in_memory=True, **options)
    except Exception as error:  # of datasets, pandas and pyarrow, each their own kinds
        raise BadInput(f"{path} cannot be read as {kind}: {_reason(path, kind, error)}") from error
    if not len(data):
        raise BadInput(f"{path} has no rows: expected at least one for each class")
    return data


def _reason(path: Path, kind: str, error: Exception) -> str:
    if kind == "json":
        broken, first = [], ""
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
            if path.suffix.lower() == ".json" or not line.strip():
                continue
            try:
                if isinstance(json.loads(line), dict):
                    continue
                fault = "no object"
            except ValueError as error_there:
                fault = str(error_there)
            broken.append(number)
            first = first or f"line {number}: {fault}; expected one object a line"
        if broken:
            return first + so_are(broken[1:])
    reason = error.__cause__ or error
    return one_line(f"{type(reason).__name__}: {reason}", 300) + f"; write the table anew as {kind}"


@contextmanager
def quiet() -> Iterator[Any]:
    """`datasets`, without bars and without messages beside the one line that is said here."""
    import datasets  # here: it takes seconds, and not every machine has it

    bars = not datasets.are_progress_bars_disabled()
    level = datasets.utils.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(60)
    try:
        yield datasets
    finally:
        datasets.utils.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()
