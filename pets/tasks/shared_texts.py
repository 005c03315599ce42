"""Texts that a task has twice: in the train set and the reported one, or with more than one label."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from bridges.errors import one_line, shown
from pets.tasks.base import Example, TaskData, same_text

_LONGEST = 200  # characters of an example
_log = logging.getLogger(__name__)


def shared_texts(data: TaskData) -> dict[str, Any]:
    """How many texts of a task's data are met twice, case and spaces aside, as results record it.

    Returns:
        "reported_in_train": how many reported examples have a text that the train set has too;
        "two_labels": how many texts have examples of several classes, in both sets together;
        "examples": the first text of either kind, shortened; None where there is none.
    """
    known = {same_text(example.text) for example in data.train}
    seen = [example.text for example in data.reported if same_text(example.text) in known]
    torn = _with_two_labels((*data.train, *data.reported))
    return {
        "reported_in_train": len(seen),
        "two_labels": len(torn),
        "examples": {
            "reported_in_train": one_line(seen[0], _LONGEST) if seen else None,
            "two_labels": one_line(torn[0], _LONGEST) if torn else None,
        },
    }


def warn_of_shared_texts(data: TaskData) -> dict[str, Any]:
    """Log what `shared_texts` finds, and return it."""
    twice = shared_texts(data)
    if twice["reported_in_train"]:
        _log.warning(
            "task %s: %d of %d reported examples have a text that is in the train set too, for example "
            "%s: their score is not one on unseen texts",
            data.task.name,
            twice["reported_in_train"],
            len(data.reported),
            shown(twice["examples"]["reported_in_train"]),
        )
    if twice["two_labels"]:
        _log.warning(
            "task %s: %d texts have more than one label, for example %s: no answer to these is right",
            data.task.name,
            twice["two_labels"],
            shown(twice["examples"]["two_labels"]),
        )
    return twice


def _with_two_labels(examples: Iterable[Example]) -> list[str]:
    """The first example's text of each."""
    labels: dict[str, set[int]] = {}
    first: dict[str, str] = {}
    for example in examples:
        key = same_text(example.text)
        first.setdefault(key, example.text)
        labels.setdefault(key, set()).add(example.label)
    return [first[key] for key, classes in labels.items() if len(classes) > 1]
