"""Scores of predicted classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from bridges.errors import BadInput
from pets.tasks.glue import Task


def _f1_macro(labels: Sequence[int], predictions: Sequence[int]) -> float:
    return float(f1_score(labels, predictions, average="macro"))


_METRICS: dict[str, Callable[[Sequence[int], Sequence[int]], float]] = {
    "accuracy": accuracy_score,
    "matthews": matthews_corrcoef,
    "f1_macro": _f1_macro,
}


def score(task: Task, predictions: Sequence[int], labels: Sequence[int]) -> dict[str, float]:
    """Accuracy, and the task's main metric where that is another one.

    Args:
        predictions, labels: class indices, [N] each.

    Returns:
        Metric name to value: "accuracy" always, then "matthews" (in [-1, 1]; 0 when all
        predictions are equal) or "f1_macro".

    Raises:
        BadInput: the lengths differ, or there is nothing to score.
    """
    if len(predictions) != len(labels):
        raise BadInput(f"{len(predictions)} predictions for {len(labels)} labels; expected one for each")
    if not len(labels):
        raise BadInput(f"task {task.name}: no predictions to score; expected at least one")
    names = dict.fromkeys(("accuracy", task.metric))
    return {name: float(_METRICS[name](labels, predictions)) for name in names}
