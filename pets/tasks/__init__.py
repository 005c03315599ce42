"""Tasks: their examples, prompts, label words, splits and metrics.

Importing this room registers all of them.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from bridges.errors import BadInput, shown
from bridges.registry import Info
from pets.tasks.base import Example, Label, Task, TaskData, catalogue
from pets.tasks.data import GlueTask
from pets.tasks.glue import MNLI, MRPC, QNLI, QQP, RTE, SST2, CoLA
from pets.tasks.own import tables
from pets.tasks.own.settings import OwnSettings
from pets.tasks.own.task import OwnTask
from pets.tasks.own.task_file import TASK_FILES, read_task

__all__ = [
    "MNLI",
    "MRPC",
    "QNLI",
    "QQP",
    "RTE",
    "SST2",
    "CoLA",
    "Example",
    "GlueTask",
    "Label",
    "OwnSettings",
    "OwnTask",
    "Task",
    "TaskData",
    "available",
    "catalogue",
    "get",
    "info",
    "parse",
]

_LONGEST = 100  # characters of a name that others are compared with


def available(pattern: str = "*") -> list[str]:
    """The names of the tasks that `get` takes, sorted.

    Args:
        pattern: shell-style, of the names that are wanted: ``"m*"``.
    """
    return catalogue.available(pattern)


def get(name: str, **parameters: Any) -> Task:
    """The task of that name; case, dashes and underscores do not matter ("SST-2" is "sst2").

    Args:
        name: of those `available`, see `info`.
        **parameters: ``words=["terrible", "great"]`` are other label words.

    Raises:
        BadInput: there is no such task, or it does not take that.
    """
    return catalogue.get(_registered(name), **parameters)


def parse(text: str) -> Task:
    """A task in one word: ``"sst2"``, ``"sst2:words=[terrible,(good,great)]"``, or one of a user's own.

    These are ``"reviews.csv"``, also .tsv, .jsonl, .json, .parquet or a folder that save_to_disk wrote,
    ``"owner/name:config"`` of the hub, and a task file, ``"reviews.toml"`` or .yaml. A name comes first.

    Raises:
        BadInput: as `get`, and for a text that is none of these.
    """
    name, colon, rest = text.partition(":") if isinstance(text, str) else (text, "", "")
    if isinstance(text, str) and _key(name) not in map(_key, available()):
        if text.lower().endswith(TASK_FILES):
            return read_task(Path(text))
        if tables.is_table(text):
            return OwnTask(OwnSettings(tables.name_of(text), text))
    return catalogue.parse(f"{_registered(name)}{colon}{rest}")


def info(name: str) -> Info[Task]:
    """What is known of a task.

    Raises:
        BadInput: there is no such task.
    """
    return catalogue.info(_registered(name))


def _registered(name: str) -> str:
    known = {_key(name): name for name in available()}
    key = _key(name) if isinstance(name, str) else ""
    if key not in known:
        near = known[difflib.get_close_matches(key[:_LONGEST], known, n=1, cutoff=0.0)[0]]
        names = ", ".join(available())
        raise BadInput(
            f"task {shown(name)} is unknown; expected one of {names}, or of your own "
            f"{tables.FORMS}, or a task file, .toml or .yaml; nearest is {near!r}"
        )
    return known[key]


def _key(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
