"""A task in a file, TOML or YAML: what is read of it, and a first one from the columns of a table."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bridges.errors import BadInput, listed, one_line, shown, unknown, writing
from pets.tasks.base import CHOICE, GENERATION
from pets.tasks.metrics import BY_KIND
from pets.tasks.own.guess import Guess, guess
from pets.tasks.own.labels import LabelColumn, classes
from pets.tasks.own.settings import OwnSettings
from pets.tasks.own.tables import Table, is_file, is_table, name_of, read
from pets.tasks.own.task import TRAIN, OwnTask, has_labels, reported_split

TASK_FILES = (".toml", ".yaml", ".yml")
_COLUMNS = ("template", "label", "choices", "answers")
KEYS = ("name", "kind", "source", *_COLUMNS, "chat", "words", "answer_tokens", "metric", "splits")
SPLITS = ("train", "reported", "share", "seed")
"""What a task file says, and its part ``splits``; see `OwnSettings`."""
_MISSING = ("-", "--", "?", "n/a", "na", "nan", "none", "null", "unknown")
_NO_LABEL = "  # if it means that there is no label, empty these cells: such rows are left out"


def read_task(path: Path) -> OwnTask:
    """The task that a file describes; places in it are seen from the file's folder.

    Raises:
        BadInput: it cannot be read, has a key that there is not, or a value that is none; one line.
    """
    said = _parsed(path)
    splits = said.pop("splits", {})
    try:
        if not isinstance(splits, Mapping):
            raise BadInput(f"splits {shown(splits)}: expected some of {listed(SPLITS)}")
        for known, found in ((KEYS, said), (SPLITS, splits)):
            for key in found:
                if key not in known:
                    raise unknown("key", key, known)
        values: dict[str, Any] = {"name": path.stem}
        for key, value in {**said, **splits}.items():
            values[key] = _value(key, value)
        for key in ("source", "train", "reported"):
            values[key] = _placed(values.get(key), path.parent, name_of_split=key != "source")
        return OwnTask(OwnSettings(**values))
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def _parsed(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadInput(f"task file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"task file {path} is not UTF-8 at byte {error.start}: convert it") from error
    toml = path.suffix.lower() == ".toml"
    try:
        parsed = parse_toml(text) if toml else _yaml(text)
    except Exception as error:  # of the one or the other library
        raise BadInput(
            f"task file {path} is no {'TOML' if toml else 'YAML'}: {one_line(str(error), 300)}"
        ) from error
    if not isinstance(parsed, dict) or not parsed:
        raise BadInput(
            f"task file {path} says nothing: expected keys such as source, template and label"
        )
    return {str(key): value for key, value in parsed.items()}


def parse_toml(text: str) -> dict[str, Any]:
    """What a text of TOML says.

    Raises:
        ValueError: if it is none.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def _yaml(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


def _value(key: str, value: Any) -> Any:
    if key in ("choices", "answers"):
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
            raise BadInput(f"{key} {shown(value)}: expected the name of a column, or a list of names")
        return tuple(names)
    if key == "words":
        if not isinstance(value, Mapping):
            raise BadInput(f"words {shown(value)}: expected a word for each class, as in 0 = 'bad'")
        return {_class(name): _word(name, word) for name, word in value.items()}
    if key in ("share", "seed", "chat", "answer_tokens"):
        return value  # `OwnSettings` checks them
    if not isinstance(value, str) or not value.strip():
        raise BadInput(f"{key} {shown(value)}: expected a text")
    return value


def _class(name: Any) -> str:
    """YAML reads true and 1 as what they are."""
    return str(name).lower() if isinstance(name, bool) else str(name)


def _word(name: Any, word: Any) -> str:
    words = [word] if isinstance(word, str) else word
    if (
        not isinstance(words, list)
        or not all(isinstance(w, str) and w.strip() for w in words)
        or not words
    ):
        raise BadInput(f"words of {shown(name)}: {shown(word)}; expected a word in quotes, or a list")
    return ",".join(words)


def _placed(place: str | None, folder: Path, *, name_of_split: bool) -> str | None:
    """Where something is, seen from here: files and folders are named from the task file's folder."""
    if place is None:
        return None
    beside = folder / place
    if is_file(place) or (not name_of_split and beside.is_dir()):
        return str(beside)
    if not name_of_split and not is_table(place):
        raise BadInput(
            f"source {shown(place)} is no file or folder beside the task file, and no dataset of "
            "the hub, owner/name"
        )
    return place


def write_first(source: str, path: Path) -> Guess:
    """Write a first task file for a table, from the columns that it has; returns what it says.

    Args:
        source: see `pets.tasks.own.tables.read`.
        path: of the file, which is not there yet.

    Raises:
        BadInput: there is a file already, or the table cannot be read.
    """
    if path.exists() or path.is_symlink():
        raise BadInput(f"{path} is there already: name another file with --out, or remove that one")
    if path.suffix.lower() != ".toml":
        raise BadInput(f"{path}: a task file is written in TOML; expected a name that ends in .toml")
    there = read(source)
    train = TRAIN if TRAIN in there else next(iter(there))
    table = there[train]
    local = is_file(source) or Path(source).is_dir()
    found = guess(OwnSettings(name_of(source), source), table)
    place = os.path.relpath(source, path.parent) if local else source
    splits = _splits(found.settings, train, there)
    text = _written(replace(found.settings, source=place), found.doubts, table, splits)
    with writing(path):
        part = path.with_name(f"{path.name}.part")
        try:
            part.write_text(text, encoding="utf-8")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    return found


def _written(settings: OwnSettings, doubts: Sequence[str], table: Table, splits: Sequence[str]) -> str:
    columns = ", ".join(one_line(name, 60) for name in table.names)
    kind = str(settings.kind)
    lines = [
        f"# The columns are {columns}.",
        *(f"# In doubt: {one_line(doubt)}." for doubt in doubts),
        f"name = {_quoted(settings.name)}",
        f"kind = {_quoted(kind)}  # classes, choice (of answers that come with each row), generation",
        f"source = {_quoted(str(settings.source))}  # seen from this file, or owner/name of the hub",
        "",
        "# Columns and the answer's place in braces; {mask} and {answer} are the same.",
        f"template = {_quoted(str(settings.template))}",
        "chat = false  # true: asked as a user in the model's chat template",
    ]
    if settings.choices:
        lines.append(f"choices = {_list(settings.choices)}  # a column of lists, or a column for each")
    if settings.answers:
        lines.append(f"answers = {_list(settings.answers)}  # the first answer is trained on")
        lines.append(f"answer_tokens = {settings.answer_tokens}  # of a written answer, at most")
    if settings.label is not None:
        what = "which choice is right" if kind == CHOICE else "the classes"
        lines.append(f"label = {_quoted(settings.label)}  # {what}")
    lines.append(f"metric = {_quoted(BY_KIND[kind][0])}  # one of {', '.join(BY_KIND[kind])}")
    if kind not in (CHOICE, GENERATION):
        lines += _words(settings, table)
    return "\n".join([*lines, "", *splits, ""])


def _words(settings: OwnSettings, table: Table) -> list[str]:
    try:
        labels = classes(table.where, LabelColumn.of(table, str(settings.label)), None)
    except BadInput as error:
        return [f"# {one_line(str(error), 300)}"]
    lines = [
        "",
        "[words]  # what the model answers for each class, rather words than numbers; or a list",
    ]
    return lines + [
        f"{_quoted(label.name)} = {_quoted(label.name)}{_NO_LABEL * (label.name.lower() in _MISSING)}"
        for label in labels
    ]


def _splits(settings: OwnSettings, train: str, there: Mapping[str, Table]) -> list[str]:
    """The splits of a source as they are taken, in comments where that needs not be said."""
    others = {name: table for name, table in there.items() if name != train}
    if others:
        labelled = [name for name, table in others.items() if has_labels(settings, table)]
        reported = reported_split(settings, others) or next(iter(labelled), None)
        sign = "# " if train == TRAIN else ""
        lines = ["[splits]", f"train = {_quoted(train)}"]
        lines += ["share = 0.25"] if reported is None else [f"reported = {_quoted(reported)}"]
        what = "scored once" if reported else "of train, set aside"
        notes = [f"there are {', '.join(there)}", "", what]
        return [
            f"{sign}{line}{f'  # {note}' if note else ''}"
            for line, note in zip(lines, notes, strict=True)
        ]
    return [
        "[splits]  # or files: train = 'a.csv', reported = 'b.csv'",
        "share = 0.25  # of the texts of each class, set aside to report on",
        "seed = 0",
    ]


def _list(names: Sequence[str]) -> str:
    return _quoted(names[0]) if len(names) == 1 else f"[{', '.join(map(_quoted, names))}]"


def _quoted(text: str) -> str:
    """A text as a basic string of TOML."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
