"""A task of a user's own: rows of a table, asked with a template."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bridges.errors import BadInput, listed, shown
from pets.tasks.base import CHOICE, CLASSES, GENERATION, Example, Task, TaskData
from pets.tasks.metrics import BY_KIND
from pets.tasks.own import guess, rows, tables
from pets.tasks.own.labels import MISSING, NONE, LabelColumn, classes
from pets.tasks.own.settings import OwnSettings
from pets.tasks.own.tables import Table
from pets.tasks.splits import set_aside
from pets.tasks.templates import Template

TRAIN = "train"
REPORTED = ("test", "validation", "dev")
"""Splits that are reported where nothing is said, the first one that is there and has labels."""

_log = logging.getLogger(__name__)


IN_BOTH = "train rows whose text is reported too"


class OwnTask(Task):
    """A task whose examples are rows of a table: a file, a folder, a dataset of the hub.

    Its classes are known once the rows are read: `load` returns them with `TaskData.task`, whose kind,
    template, labels and metric are settled. Before, they are what the settings say.

    Args:
        settings: where the rows are, and what their columns mean.
    """

    natural = None

    def __init__(self, settings: OwnSettings) -> None:
        super().__init__()
        self.settings = settings
        self.name, self.template, self.chat = settings.name, settings.template, settings.chat
        self.kind = settings.kind or CLASSES
        self.answer_tokens = settings.answer_tokens
        self.metric = settings.metric or BY_KIND[self.kind][0]
        self.later_words: tuple[str, ...] | None = None  # one for each class, in class order

    def with_words(self, words: Sequence[str]) -> OwnTask:
        """See `Task.with_words`; where the classes are not known yet, `load` checks the number."""
        if self.labels or self.settings.kind not in (None, CLASSES):
            return super().with_words(words)  # type: ignore[return-value]
        if isinstance(words, str) or not words or not all(isinstance(word, str) for word in words):
            raise BadInput(f"label words {shown(words)}: expected one for each class, in class order")
        other = copy.copy(self)
        other.later_words = tuple(words)
        return other

    @property
    def identity(self) -> dict[str, Any]:
        told = super().identity
        return told if self.later_words is None else {**told, "words": list(self.later_words)}

    def load(self, folder: str | Path | None = None) -> TaskData:
        """Read the rows, and set some aside to report on where there is no split for that.

        Rows without a label, or with an empty text, are left out and counted.

        Args:
            folder: not looked into: where the rows are is said in the settings.

        Raises:
            BadInput: something is missing or malformed; the message names file, row or column.
        """
        said = replace(self.settings, template=self.template, chat=self.chat)
        train, others = _splits(said)
        settings = said if guess.is_complete(said) else guess.completed(said, train)
        task = self._settled(settings, train)
        fields = Template.parse(str(settings.template)).fields
        reported = _reported(settings, others)
        examples, left_out = _read(task, settings, fields, train)
        if reported is not None:
            scored, more = _read(task, settings, fields, reported)
            left_out += more
        else:
            kept, aside = set_aside(examples, task, settings.share, settings.seed)
            examples, scored = tuple(kept), tuple(aside)
        if settings != said:
            _log.info("task %s: %s", task.name, guess.described(settings))
        data = TaskData(task, examples, scored)
        if both := len(examples) - len(data.apart.train):
            left_out[IN_BOTH] += both
        if left_out:
            _log.warning("task %s: rows that are left out: %s", task.name, _counted(left_out))
        return replace(data.apart, left_out=dict(left_out))

    def _settled(self, settings: OwnSettings, train: Table) -> OwnTask:
        task = OwnTask(settings)
        if task.kind != CLASSES:
            if self.later_words is not None:
                return task.with_words(self.later_words)  # refused
            return task
        column = LabelColumn.of(train, str(settings.label))
        later = self.later_words
        if later is None:
            labels = classes(train.where, column, settings.words)
        else:
            listed_in_one = later[0].split(",") if len(later) == 1 else later  # "bad,so,good"
            labels = classes(train.where, column, None, len(listed_in_one))
        task.labels = tuple(labels)
        return task if later is None else task.with_words(later)


def _splits(settings: OwnSettings) -> tuple[Table, dict[str, Table]]:
    """The table to train on, and the others that are there, by the names of their splits."""
    there = {} if settings.source is None else tables.read(settings.source)
    if settings.train is not None:
        train = _split(settings.train, there, settings)
    elif len(there) == 1:
        (train,) = there.values()
    else:
        train = _split(TRAIN, there, settings)
    others = {name: table for name, table in there.items() if table is not train}
    return train, others


def _split(name: str, there: dict[str, Table], settings: OwnSettings) -> Table:
    if tables.is_file(name):
        return tables.read(name)[""]
    if name in there:
        return there[name]
    splits = listed([shown(split, 40) for split in there if split])
    what = f"{settings.source} has the splits {splits}" if splits else "files have none"
    raise BadInput(
        f"task {settings.name}: there is no split {shown(name)}: {what}; expected a split or a file"
    )


def _reported(settings: OwnSettings, others: dict[str, Table]) -> Table | None:
    if settings.reported is not None:
        return _split(settings.reported, others, settings)
    name = reported_split(settings, others)
    return None if name is None else others[name]


def reported_split(settings: OwnSettings, others: Mapping[str, Table]) -> str | None:
    """Of the splits beside the one to train on that which is reported where nothing is said."""
    return next((n for n in REPORTED if n in others and has_labels(settings, others[n])), None)


def has_labels(settings: OwnSettings, table: Table) -> bool:
    """Whether not all of its labels are missing or -1, as those of tests that others keep."""
    if settings.kind == GENERATION:
        cells = [cell for name in settings.answers if name in table.names for cell in table.column(name)]
        return any(cells)
    if settings.label not in table.names:
        return False
    return bool(set(LabelColumn.of(table, str(settings.label)).values) - {MISSING, NONE})


def _read(
    task: OwnTask, settings: OwnSettings, fields: Sequence[str], table: Table
) -> tuple[tuple[Example, ...], Counter[str]]:
    Template.parse(str(settings.template)).check(table.names)
    if task.kind == CHOICE:
        answer = rows.among_choices(table, settings.choices, str(settings.label))
    elif task.kind == GENERATION:
        answer = rows.in_words(table, settings.answers)
    else:
        column = LabelColumn.of(table, str(settings.label))
        answer = rows.in_classes(table, column, [label.name for label in task.labels])
    examples, left_out = rows.examples(table, fields, answer)
    if not examples:
        raise BadInput(
            f"{table.where} has no example: all rows are left out, {_counted(left_out)}; expected "
            "rows with a text and an answer"
        )
    return examples, left_out


def _counted(left_out: Counter[str]) -> str:
    return listed([f"{reason} ({count})" for reason, count in left_out.most_common()])
