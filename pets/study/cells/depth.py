"""A cell's selected PET scored at each layer: what a row's ``depth`` is, and the numbers made of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import fmean

from transformers import PreTrainedModel

from bridges import RunningCost
from bridges.errors import BadInput
from pets.tasks import splits
from pets.tasks.answering import Answering, Rows
from pets.tasks.asking import Asking
from pets.tasks.base import CLASSES, Example, Task, TaskData
from pets.tuning.evaluation import answering, check_tokens, limit_of

SHARES = {"1/2": 1 / 2, "2/3": 2 / 3, "3/4": 3 / 4}
"""Of the layers, where a score by depth is told."""
MOST = 1024
"""Labelled examples that readers learn from: probes of thousands take minutes."""


def by_depth(
    plm: PreTrainedModel,
    asking: Asking,
    data: TaskData,
    pet: Path,
    cost: RunningCost | None,
    *,
    shots: int,
    seed: int,
    max_length: int,
) -> dict[str, list[float] | None]:
    """The metric at each layer, see `pets.anytime.by_layer.scores_by_layer`.

    Readers learn from the examples that the PET was tuned and selected on, or some of them.

    Args:
        plm, asking: the model, and the task put to it.
        data: of the task.
        pet: where the PET is.
        cost: what it was tuned with, if anything.
        shots, seed, max_length: as it was tuned; 0 shots for the full train set.
    """
    from pets.anytime.by_layer import scores_by_layer  # whose code is part of no other cell's

    with answering(plm, asking, pet) as classifier:
        limit = limit_of(classifier, asking, max_length)
        known, reported = (
            asking.encode(p, limit)[0] for p in (labelled(data, shots, seed), data.reported)
        )
        check_tokens([*known, *reported], classifier)
        return scores_by_layer(classifier, known, reported, data.task, cost)


def labelled(data: TaskData, shots: int, seed: int) -> list[Example]:
    """Training and selection examples of a split; of more than `MOST` as large a share of each class."""
    if shots:
        train, dev = splits.few_shot(data.train, data.task, shots, seed)
    else:
        train, dev = splits.hold_out(data.train, data.task, seed)
    known = [*train, *dev]
    if len(known) <= MOST:
        return known
    chosen = []
    for label in range(len(data.task.labels)):
        own = [example for example in known if example.label == label]
        count = max(2, round(len(own) * MOST / len(known)))
        chosen += Random(seed).sample(own, min(count, len(own)))
    return chosen


def check_task(task: Task) -> None:
    """Whether it has classes, that a layer could tell.

    Raises:
        BadInput: if not.
    """
    if task.kind != CLASSES:
        raise BadInput(
            f"--by-depth: a layer is read for one of several classes, and task {task.name} of kind "
            f"{task.kind!r} has none: leave out the task, or --by-depth"
        )


def check_states(classifier: Answering, rows: Rows) -> None:
    """Whether a model's states can be read where it tells its answer.

    Raises:
        BadInput: if not.
    """
    from pets.anytime.by_layer import read

    try:
        read(classifier, rows[:1])
    except BadInput as error:
        raise BadInput(f"--by-depth: {error}; or leave out --by-depth") from error


def at_share(scores: Sequence[float], share: float) -> float:
    """Of the scores of states 0 to L the one at a share of the layers, state round(share * L)."""
    return scores[round(share * (len(scores) - 1))]


def area(scores: Sequence[float]) -> float:
    """Under the scores against the share of layers: the mean over states 1 to L."""
    return fmean(scores[1:])
