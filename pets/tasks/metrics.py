"""Scores of predicted classes and choices, and of answers in words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, cast

from bridges.errors import BadInput, check_name
from pets.tasks.base import CHOICE, CLASSES, GENERATION, Task

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
BY_KIND: dict[str, tuple[str, ...]] = {
    CLASSES: ("accuracy", "matthews", "f1_macro"),
    CHOICE: ("accuracy",),
    GENERATION: ("exact_match", "f1", "rouge_l"),
}
"""The metrics of a task by its kind; the first one is the main one where nothing else is said."""


def _of_words(answers: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Means over the answers, each against the accepted one that it is most like; all in [0, 1]."""
    from torchmetrics.functional.text import rouge_score, squad  # seconds to import

    guessed = [{"prediction_text": text, "id": str(k)} for k, text in enumerate(predictions)]
    accepted = [
        {"answers": {"text": list(texts), "answer_start": [0] * len(texts)}, "id": str(k)}
        for k, texts in enumerate(answers)
    ]
    of_squad = squad(guessed, accepted)  # without case, punctuation and English articles
    rouge = rouge_score(
        list(predictions),
        [list(texts) for texts in answers],
        accumulate="best",
        normalizer=_words,
        rouge_keys="rougeL",
    )
    exact, f1 = (float(of_squad[name]) / 100 for name in ("exact_match", "f1"))
    return {"exact_match": exact, "f1": f1, "rouge_l": float(rouge["rougeL_fmeasure"])}


def _words(text: str) -> str:
    """As the reference implementation of ROUGE, which only knows the letters a to z."""
    return re.sub(r"[\W_]+", " ", text.lower())


def check_metric(task: Task) -> None:
    """Whether a task's main metric is one of these.

    Raises:
        BadInput: if not.
    """
    check_name("metric", task.metric, BY_KIND[task.kind])


def score(
    task: Task, predictions: Sequence[Any], labels: Sequence[int] | Sequence[Sequence[str]]
) -> dict[str, float]:
    """Accuracy, and the task's main metric where that is another one; of answers in words all of theirs.

    Args:
        predictions, labels: indices of classes or choices, [N] each; of a task of kind "generation" N
            texts, and for each the answers that are accepted.

    Returns:
        Metric name to value: "accuracy" always, then "matthews" (in [-1, 1]; 0 when all
        predictions are equal) or "f1_macro". Of answers in words, in [0, 1]: "exact_match" and "f1" of
        their words, both as for SQuAD (Rajpurkar et al., 2016, arXiv 1606.05250), and "rouge_l", the
        F-measure of ROUGE-L (Lin, 2004).

    Raises:
        BadInput: the lengths differ, there is nothing to score, or there is no such metric.
    """
    if len(predictions) != len(labels):
        raise BadInput(f"{len(predictions)} predictions for {len(labels)} labels; expected one for each")
    if not len(labels):
        raise BadInput(f"task {task.name}: no predictions to score; expected at least one")
    check_metric(task)
    if task.kind == GENERATION:
        return _of_words(cast(Sequence[Sequence[str]], labels), predictions)
    names = dict.fromkeys(("accuracy", task.metric))
    classes = cast(Sequence[int], labels)
    return {name: METRICS[name](classes, predictions) for name in names}
