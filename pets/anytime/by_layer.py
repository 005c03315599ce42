"""How right each layer of a model is, read by a probe, by a cost's exit and by the model's own head."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from bridges import BadInput, ModelSpec, RunningCost
from bridges.fitting.refusals import has_lens
from bridges.model.spec import pretrained_model
from pets.anytime.exits import Exits
from pets.anytime.probe import Probe
from pets.anytime.reading import Reading, evaluating
from pets.plug.regularize import regularize
from pets.plug.view import View
from pets.plug.watching import Watching
from pets.tasks import metrics
from pets.tasks.answering import Answering, Rows
from pets.tasks.base import Task
from pets.tasks.verbalizer import Verbalizer

logger = logging.getLogger(__name__)

READERS = PROBE, EXIT, HEAD = "probe", "exit", "head"
_BATCH = 32  # rows of a forward, neighbours in length

Reader = Callable[[Tensor, Tensor], Tensor]
"""Of states [L+1, n, H] and the model's own scores [n, C]: odds of the labels, [L+1, n, C]."""


def scores_by_layer(
    answering: Answering,
    labelled: Rows,
    reported: Rows,
    task: Task,
    cost: RunningCost | None = None,
) -> dict[str, list[float] | None]:
    """The task's metric, had the model stopped at each layer and been read there.

    Args:
        answering: whose answers are the task's classes, plain or with a PET; left as it was.
        labelled: examples that readers may learn from, two of each class or more: no reported one.
        reported: those that are scored.
        task: of all of them.
        cost: what the model was tuned with, if anything.

    Returns:
        For each of L+1 states, the embeddings' first, the metric of

        - "probe": a linear probe of the labelled examples, see `pets.anytime.probe.Probe`;
        - "exit": the cost's posterior, its lens adapted to the labelled examples and calibrated by those
          it leaves out, see `pets.anytime.exits.Exits`; None without a cost that has a lens and a
          Gaussian law;
        - "head": the model's own head, at the last layer the model itself; None where it cannot be read
          at other layers.

    Raises:
        BadInput: for a task without classes, or a model whose states cannot be read where it tells them.
    """
    found, right = odds_by_layer(answering, labelled, reported, cost), [label for _, label in reported]
    return {name: None if odds is None else _scored(task, odds, right) for name, odds in found.items()}


def odds_by_layer(
    answering: Answering, labelled: Rows, reported: Rows, cost: RunningCost | None = None
) -> dict[str, Tensor | None]:
    """What each reader makes of each layer; arguments and errors as `scores_by_layer`.

    Returns:
        Odds of the labels, [L+1, N, C] of the N reported in their order, by reader: their softmax over C
        is what the reader takes for the labels' probabilities. The head's last are the model's own.
    """
    known, answers = read(answering, labelled), torch.tensor([label for _, label in labelled])
    readers: dict[str, Reader | None] = {
        PROBE: _probe(known.states, answers, known.scores.shape[1]),
        EXIT: _exit(known.states, answers, answering.verbalizer, cost),
        HEAD: _head(answering, known),
    }
    odds: dict[str, list[Tensor]] = {name: [] for name in readers}
    order: list[int] = []
    for which, part in _parts(answering, reported):
        order += which
        for name, reader in readers.items():
            if reader is not None:
                odds[name].append(reader(part.states, part.scores))
    back = torch.tensor(order).argsort()
    return {name: torch.cat(found, 1)[:, back] if found else None for name, found in odds.items()}


def read(answering: Answering, rows: Rows) -> Reading:
    """The states of prompts where their answers are told, through all layers, in the rows' order.

    Args:
        answering: whose answers are classes, with nothing plugged in; left as it was.
        rows: encoded prompts with class indices.

    Raises:
        BadInput: for answers that are no classes, no rows, or a model whose states cannot be read there.
    """
    parts = list(_parts(answering, rows))
    if not parts:
        raise BadInput("there are no prompts to read: expected one or more")
    back = torch.tensor([k for which, _ in parts for k in which]).argsort()
    states = torch.cat([part.states for _, part in parts], 1)[:, back]
    scores = torch.cat([part.scores for _, part in parts])[back]
    return Reading(states, scores, torch.tensor([label for _, label in rows]))


def _parts(answering: Answering, rows: Rows) -> Iterator[tuple[list[int], Reading]]:
    """Batch by batch, neighbours in length, with the places in the rows."""
    if answering.verbalizer is None:
        raise BadInput(
            "the answers are no classes, so there is nothing to tell apart in a layer: read a task that "
            "has classes"
        )
    order = sorted(range(len(rows)), key=lambda k: len(rows[k][0].input_ids))
    watching = Watching.of_model(answering)
    with regularize(answering, watching, in_eval=True):
        for start in range(0, len(order), _BATCH):
            which = order[start : start + _BATCH]
            batch = answering.on_device(answering.collate([rows[k] for k in which]))
            with evaluating(answering):
                output: Any = answering(**batch)
            states = watching.states.pop().float().cpu()
            yield which, Reading(states, output.logits.float().cpu(), None)


def _probe(states: Tensor, answers: Tensor, classes: int) -> Reader:
    probe = Probe.fitted(states, answers, classes)
    return lambda states, scores: probe(states)


def _exit(
    states: Tensor, answers: Tensor, words: Verbalizer | None, cost: RunningCost | None
) -> Reader | None:
    if cost is None or words is None or not has_lens(cost):
        return None
    if cost.lens.weight.device.type != "cpu":  # where the states are
        cost = copy.deepcopy(cost).to("cpu")
    layers = range(len(states))
    try:
        exits = Exits(cost, words.ends(cost), layers)
    except BadInput as error:
        logger.warning("no exits of %s: %s", cost.bridge.registered_name, error)
        return None
    exits.fit(states, answers)

    def reader(states: Tensor, scores: Tensor) -> Tensor:
        by_layer = dict(enumerate(states))
        return torch.stack([exits[k](by_layer) for k in layers])

    return reader


def _head(answering: Answering, known: Reading) -> Reader | None:
    plm = pretrained_model(answering)
    view = View(answering, plm, ModelSpec.of(answering), None)

    def reader(states: Tensor, scores: Tensor) -> Tensor:
        with evaluating(answering):
            before = [view.head(layer[None].to(plm.device))[0].cpu() for layer in states[:-1]]
        return torch.stack([*before, scores])

    try:
        reader(known.states[:, :1], known.scores[:1])
    except BadInput as error:
        logger.warning("the head of %s is not read at its layers: %s", type(plm).__name__, error)
        return None
    return reader


def _scored(task: Task, odds: Tensor, right: list[int]) -> list[float]:
    by_layer = odds.argmax(2).tolist()
    return [metrics.score(task, guessed, right)[task.metric] for guessed in by_layer]
