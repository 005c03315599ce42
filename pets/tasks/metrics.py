"""Scores of predicted classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bridges.errors import BadInput, check_name
from pets.tasks.base import Task

Metric = Callable[[Sequence[int], Sequence[int]], float]
"""Of the true classes [N] and the predicted ones [N]."""


def _accuracy(labels: Sequence[int], predictions: Sequence[int]) -> float:
    from sklearn.metrics import accuracy_score  # a second to import

    return float(accuracy_score(labels, predictions))


def _matthews(labels: Sequence[int], predictions: Sequence[int]) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions))


def _f1_macro(labels: Sequence[int], predictions: Sequence[int]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="macro"))


METRICS: dict[str, Metric] = {"accuracy": _accuracy, "matthews": _matthews, "f1_macro": _f1_macro}
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("accuracy", "f1_macro", "exact_match", "f1", "rouge_l"), (0.0, 1.0)),
    "matthews": (-1.0, 1.0),
}
"""The lowest and the highest value of each metric; what is not here has no known bounds."""


def check_metric(task: Task) -> None:
    """Whether a task's main metric is one of these.

    Raises:
        BadInput: if not.
    """
    check_name("metric", task.metric, METRICS)


def score(task: Task, predictions: Sequence[int], labels: Sequence[int]) -> dict[str, float]:
    """Accuracy, and the task's main metric where that is another one.

    Args:
        predictions, labels: class indices, [N] each.

    Returns:
        Metric name to value: "accuracy" always, then "matthews" (in [-1, 1]; 0 when all
        predictions are equal) or "f1_macro".

    Raises:
        BadInput: the lengths differ, there is nothing to score, or there is no such metric.
    """
    if len(predictions) != len(labels):
        raise BadInput(f"{len(predictions)} predictions for {len(labels)} labels; expected one for each")
    if not len(labels):
        raise BadInput(f"task {task.name}: no predictions to score; expected at least one")
    check_metric(task)
    names = dict.fromkeys(("accuracy", task.metric))
    return {name: METRICS[name](labels, predictions) for name in names}
