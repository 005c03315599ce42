"""A GLUE task, read from the original tsv files or from the hub."""

from __future__ import annotations

import codecs
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from bridges.errors import BadInput, listed, shown
from pets.tasks.base import Example, Label, Task, TaskData

HUB_DATASET = "nyu-mll/glue"

_BROKEN = 20
"""Rows that may be broken however few there are in all; of more, a tenth may be."""

_log = logging.getLogger(__name__)
_Row = TypeVar("_Row")


class _BrokenRow(BadInput):
    """A row that carries no example; a task that is known to hold some skips and counts them."""


@dataclass(frozen=True)
class GlueLabel(Label):
    """One class of a GLUE task.

    Attributes:
        tsv: the value of the label column in the original tsv files.
        hub: the integer in the hub's `nyu-mll/glue`.
    """

    tsv: str
    hub: int


class GlueTask(Task):
    """One GLUE task, from the original tsv files or from the hub, where its name is a configuration.

    Attributes:
        folder: the folder of the original tsv files, e.g. "SST-2".
        tsv_texts: the one or two text columns of the tsv files.
        tsv_label: the label column of the tsv files.
        hub_texts: the text columns on the hub, in the order of `tsv_texts`.
        tsv_columns: the columns of a tsv file without a header line; None when it has one.
        train_file, reported_file: file names; the reported one is the GLUE dev set.
        reported_split: the split on the hub that equals `reported_file`.
        skips_broken_rows: the original file holds rows broken by newlines inside a text.
        stops_first: the published protocol ends the first text of a pair with a full stop where it ends
            with none of ``.?!``.
    """

    labels: tuple[GlueLabel, ...]
    folder: ClassVar[str]
    tsv_texts: ClassVar[tuple[str, ...]]
    tsv_label: ClassVar[str] = "label"
    hub_texts: ClassVar[tuple[str, ...]]
    tsv_columns: ClassVar[tuple[str, ...] | None] = None
    train_file: ClassVar[str] = "train.tsv"
    reported_file: ClassVar[str] = "dev.tsv"
    reported_split: ClassVar[str] = "validation"
    skips_broken_rows: ClassVar[bool] = False
    stops_first: ClassVar[bool] = False

    def load(self, folder: str | Path | None = None) -> TaskData:
        """Read the train set and the reported set (the GLUE dev set).

        Surrounding whitespace of a text is removed; nothing else is changed.

        Args:
            folder: holds the original GLUE tsv files, in a subfolder `self.folder` or directly.
                None reads `nyu-mll/glue` from the hub (or its local cache).

        Raises:
            BadInput: something is missing or malformed; the message names file and row.
        """
        if folder is None:
            return _load_hub(self)
        files = _find_folder(self, Path(folder))
        return TaskData(
            self,
            train=_read_tsv(self, files / self.train_file),
            reported=_read_tsv(self, files / self.reported_file),
        )


def _find_folder(task: GlueTask, folder: Path) -> Path:
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder; pass the one with the original GLUE tsv files")
    nested = folder / task.folder
    return nested if nested.is_dir() else folder


def _read_tsv(task: GlueTask, path: Path) -> tuple[Example, ...]:
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read ({error.strerror}); task {task.name} needs "
            f"{task.train_file} and {task.reported_file} in the original GLUE format"
        ) from error
    if not content:
        raise BadInput(f"{path} is empty; expected rows in the original GLUE format")
    # Bytes, split at "\n" alone: text-mode reading and str.splitlines also cut at a lone \r, \x85
    # or U+2028, which occur inside texts.
    lines = content.removesuffix(b"\n").split(b"\n")
    rows = ((number, _fields(path, number, line)) for number, line in enumerate(lines, 1))
    columns = task.tsv_columns or next(rows)[1]
    _check_line_ends(path, content)
    _require_columns(str(path), columns, (*task.tsv_texts, task.tsv_label))
    text_at = [columns.index(column) for column in task.tsv_texts]
    label_at = columns.index(task.tsv_label)
    class_of = {label.tsv: index for index, label in enumerate(task.labels)}

    def parse(fields: list[str]) -> Example:
        if len(fields) != len(columns):
            raise _BrokenRow(f"{len(fields)} tab-separated fields, expected {len(columns)}")
        texts = [fields[column] for column in text_at]
        return _example(task, task.tsv_texts, texts, fields[label_at], class_of)

    return _collect(task, str(path), rows, parse)


def _check_line_ends(path: Path, content: bytes) -> None:
    """A carriage return may stand in a text, but no file has more of them than lines."""
    returns, lines = content.count(b"\r"), content.count(b"\n")
    if returns > 1 and not lines:
        raise BadInput(
            f"{path} has {returns} line ends CR and no LF, as old Macs write them: convert it, with "
            "`tr '\\r' '\\n'` for example"
        )


def _fields(path: Path, number: int, line: bytes) -> list[str]:
    try:
        return line.removesuffix(b"\r").decode("utf-8").split("\t")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path}, row {number}: byte {line[error.start]:#04x} is not UTF-8; "
            "convert the file to UTF-8"
        ) from None


def _load_hub(task: GlueTask) -> TaskData:
    try:
        # Imported here: slow, and absent on machines that only read tsv files.
        import datasets

        splits = datasets.load_dataset(HUB_DATASET, task.name)
    except Exception as error:  # datasets, its http client and the hub all raise their own kinds
        reason = " ".join(str(error).split())
        raise BadInput(
            f"{HUB_DATASET} {task.name} could not be loaded ({type(error).__name__}: {reason}); "
            "pass --data DIR, a folder with the original GLUE tsv files"
        ) from error
    return TaskData(
        task,
        train=_read_split(task, splits, "train"),
        reported=_read_split(task, splits, task.reported_split),
    )


def _read_split(task: GlueTask, splits: Mapping[str, Any], split: str) -> tuple[Example, ...]:
    where = f"{HUB_DATASET} {task.name} {split}"
    if split not in splits:
        raise BadInput(f"{where}: no such split; there are: {', '.join(splits)}")
    needed = (*task.hub_texts, "label")
    _require_columns(where, splits[split].column_names, needed)
    columns = splits[split].select_columns(list(needed))[:]
    class_of = {label.hub: index for index, label in enumerate(task.labels)}

    def parse(row: tuple[Any, ...]) -> Example:
        *texts, label = row
        return _example(task, task.hub_texts, texts, label, class_of)

    rows = zip(*(columns[column] for column in needed), strict=True)
    return _collect(task, where, enumerate(rows, 1), parse)


def _require_columns(where: str, present: Sequence[str], needed: Sequence[str]) -> None:
    for column in needed:
        if column not in present:
            there = listed([shown(name, 40) for name in present])
            raise BadInput(f"{where}: column {column!r} is missing; the columns are {there}")


def _example(
    task: GlueTask,
    columns: Sequence[str],
    texts: Sequence[str | None],
    raw: Any,
    class_of: Mapping[Any, int],
) -> Example:
    stripped = [(text or "").strip() for text in texts]
    for column, text in zip(columns, stripped, strict=True):
        if not text:
            raise _BrokenRow(f"column {column!r} is empty, expected a text")
    if raw is None or raw == "":
        raise _BrokenRow("the label is empty")
    if raw not in class_of:
        allowed = ", ".join(repr(value) for value in class_of)
        raise BadInput(f"label {shown(raw)} is not one of {allowed}")
    first, *more = stripped
    stop = task.stops_first and not first.endswith((".", "?", "!"))
    stopped = " ".join([f"{first}.", *more]) if stop else None
    fields = tuple(zip(task.hub_texts, stripped, strict=True))
    return Example(" ".join(stripped), class_of[raw], stopped, fields)


def _collect(
    task: GlueTask,
    where: str,
    rows: Iterable[tuple[int, _Row]],
    parse: Callable[[_Row], Example],
) -> tuple[Example, ...]:
    """Parse every row; `rows` yields (row number counted from 1, row)."""
    examples: list[Example] = []
    broken: list[int] = []
    for number, row in rows:
        try:
            examples.append(parse(row))
        except BadInput as error:
            if not (task.skips_broken_rows and isinstance(error, _BrokenRow)):
                raise BadInput(f"{where}, row {number}: {error}") from None
            broken.append(number)
    if broken:
        skipped = f"{len(broken)} broken rows: {listed(broken)}"
        if len(broken) > max(_BROKEN, len(examples) // 10):
            raise BadInput(
                f"{where} has {skipped}; the original file has few, so this is another one, or a part "
                "of it is lost: get it again"
            )
        _log.warning("%s: skipped %s", where, skipped)
    if not examples:
        raise BadInput(f"{where} holds no examples; expected rows in the original GLUE format")
    return tuple(examples)
