"""Scoring a tuned PET: encoded prompts in, the task's metrics out."""

from __future__ import annotations

import contextlib
import functools
import operator
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel, PrefixTuningConfig, PromptLearningConfig
from torch import nn
from transformers import PreTrainedModel

from bridges import BadInput
from bridges.model.positions import max_positions
from bridges.model.spec import pretrained_model
from pets.tasks import metrics
from pets.tasks.answering import Answering, Rows
from pets.tasks.asking import Asking
from pets.tasks.base import GENERATION, Example, Task
from pets.tuning.models import load_pet, unload, untouched
from pets.tuning.workers import Processes

_BATCH = 32
"""Prompts in a forward pass, neighbours in length."""


@dataclass(frozen=True)
class Scored:
    """What a tuned PET came to on examples that had no part in its selection.

    Attributes:
        metrics: see `pets.tasks.metrics.score`.
        truncated: how many texts were cut to fit.
        right: of each example whether it was, in their order; None of answers in words.
    """

    metrics: dict[str, float]
    truncated: int
    right: tuple[bool, ...] | None


def evaluate(
    classifier: Answering,
    rows: Rows,
    task: Task,
    processes: Processes | None = None,
) -> tuple[dict[str, float], float]:
    """Metrics and mean task loss of a classifier on encoded prompts; its mode is left as it was.

    Args:
        classifier: reads the task's label words.
        rows: prompts with the indices of their answers, in any order.
        task: whose metrics are computed.
        processes: that share the work; all know the same at the end.
    """
    guesses, loss = _guesses(classifier, rows, processes or Processes())
    return metrics.score(task, guesses, _answers(rows, task)), loss


def _guesses(classifier: Answering, rows: Rows, processes: Processes) -> tuple[list[Any], float]:
    """What is answered to each row, in their order, and the mean task loss."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0].input_ids))
    size = max(1, _BATCH // max(1, len(rows[0][0].answers)))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    guesses: dict[int, Any] = {}
    losses = [0.0] * len(batches)
    mode = classifier.training
    classifier.eval()
    with torch.no_grad():
        for k, counts in processes.turns(len(batches)):
            answers, loss = classifier.answer([rows[i] for i in batches[k]])
            if counts:
                losses[k] = loss * len(batches[k])
                guesses.update(zip(batches[k], answers, strict=True))
    classifier.train(mode)
    guesses, losses = processes.merged(guesses), processes.total(losses)
    mean = functools.reduce(operator.add, losses) / len(rows)  # `sum` depends on the Python
    return [guesses[i] for i in range(len(rows))], mean


def _answers(rows: Rows, task: Task) -> list[Any]:
    return [row.references if task.kind == GENERATION else label for row, label in rows]


def score(
    plm: PreTrainedModel,
    asking: Asking,
    examples: Sequence[Example],
    folder: str | os.PathLike[str] | None,
    max_length: int,
) -> Scored:
    """A tuned PET's metrics on examples that had no part in its selection.

    Args:
        plm: the model it was tuned on; left as it was.
        asking: how the task it was tuned for is put to the model.
        examples: the reported ones.
        folder: where the PET is, ``pet`` in a run folder; None for the model without one.
        max_length: as it was tuned with.

    Raises:
        BadInput: if the folder holds no PET for this model.
    """
    task = asking.task
    with answering(plm, asking, folder) as classifier:
        rows, truncated = asking.encode(examples, limit_of(classifier, asking, max_length))
        check_tokens(rows, classifier)
        guesses, _ = _guesses(classifier, rows, Processes())
    answers = _answers(rows, task)
    hits = None if task.kind == GENERATION else tuple(map(operator.eq, guesses, answers))
    return Scored(metrics.score(task, guesses, answers), truncated, hits)


@contextlib.contextmanager
def answering(
    plm: PreTrainedModel, asking: Asking, folder: str | os.PathLike[str] | None
) -> Iterator[Answering]:
    """The model with a tuned PET in this block, put to its task; arguments and errors as `score`."""
    with untouched(plm):
        model = plm if folder is None else load_pet(plm, folder)
        classifier = None
        try:
            classifier = asking.on(model)
            yield classifier.to(plm.device)
        finally:
            if classifier is not None:
                classifier.remove()
            if folder is not None:
                unload(model)


def limit_of(classifier: Answering, asking: Asking, max_length: int) -> int:
    """Tokens a prompt of a task may have, see `room`."""
    model: nn.Module = classifier.model
    return room(model, max_length, mask_first=asking.protocol.mask_first)


def room(model: nn.Module, max_length: int, *, mask_first: bool = False) -> int:
    """Tokens a prompt may have: ``max_length``, or what a soft prompt leaves of the positions.

    Args:
        model: plain or with a PET.
        max_length: what is wished for.
        mask_first: [MASK] comes on top, as `pets.tasks.prompts.encode` has it then.

    Raises:
        BadInput: if a soft prompt leaves none.
    """
    config: Any = model.active_peft_config if isinstance(model, PeftModel) else None
    prefixed = isinstance(config, PrefixTuningConfig)
    soft = isinstance(config, PromptLearningConfig) and not prefixed
    tokens = (config.num_virtual_tokens if soft else 0) + mask_first
    positions = max_positions(pretrained_model(model).config)
    limit = min(max_length, positions - tokens if positions else max_length)
    if limit < 1:
        raise BadInput(
            f"a soft prompt of {tokens - mask_first} tokens leaves no room in {positions} positions: "
            "give the PET fewer num_virtual_tokens"
        )
    return limit


def check_tokens(rows: Rows, model: nn.Module) -> None:
    """Whether a model has all tokens of encoded prompts.

    Raises:
        BadInput: if it has fewer word embeddings than its tokenizer has tokens.
    """
    known = len(pretrained_model(model).get_input_embeddings().weight)
    most = max(t for row, _ in rows for ids in (row.input_ids, *row.answers) for t in ids)
    if most >= known:
        raise BadInput(
            f"a text has token {most}, and the model knows 0 to {known - 1}: its tokenizer is another "
            "model's, or tokens were added to it without resize_token_embeddings(len(tokenizer))"
        )
