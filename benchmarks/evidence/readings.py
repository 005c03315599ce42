"""What the tuned PETs of a study say besides their score: how sure they are, at which depth, elsewhere.

- "calibration": of the labels' probabilities by the model's own head, on the reported examples, the
  expected calibration error (15 bins of equal width of the likeliest label's probability, Guo et al.,
  2017, arXiv 1706.04599) and the Brier score, the mean over examples of the squared distance between
  probabilities and the truth, 0 to 2 (Brier, 1950).
- "depth": the same at each layer by a probe, an exit and the head, see `pets.anytime.by_layer`; the
  exits of all arms are those of one lens, whatever the arm was tuned with.
- "shift": the same of the model itself on sentences of another domain.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.evidence.made_tasks import SENTIMENT, read_elsewhere
from bridges import RunningCost
from bridges.storage.files import write_text
from pets.anytime.by_layer import HEAD, odds_by_layer, read
from pets.study.cells.cell import cell_folder, describe
from pets.study.cells.context import Context
from pets.study.cells.depth import labelled
from pets.study.cells.grid import Cell
from pets.tasks.answering import Answering, Rows
from pets.tasks.base import Example
from pets.tuning.evaluation import answering, check_tokens, limit_of, score
from pets.tuning.preparing import ask
from pets.tuning.run_folder import PET_FOLDER

FOLDER = "readings"
READINGS = CALIBRATION, DEPTH, SHIFT = ("calibration", "depth", "shift")
_BINS = 15


def read_cell(
    context: Context, cell: Cell, kinds: Sequence[str], shifted_to: Sequence[Example] = ()
) -> None:
    """Read what a tuned PET says, and keep it in a file of its cell; what that has stays.

    Args:
        context: of a study that has run.
        cell: one of it; nothing is read of one that is not done.
        kinds: what is asked, of `READINGS`.
        shifted_to: examples of another domain, see `other_domain`.
    """
    if wanted := unread(context, cell, kinds):
        row = describe(context, cell)
        pet = cell_folder(context.folder, row) / PET_FOLDER
        known = read_so_far(context, cell) | dict(_of_cell(context, cell, pet, wanted, shifted_to))
        path = _path(context, row.cell)
        path.parent.mkdir(exist_ok=True)
        write_text(path, json.dumps(known, sort_keys=True) + "\n")


def unread(context: Context, cell: Cell, kinds: Sequence[str]) -> set[str]:
    """What is asked of a cell and not kept yet; nothing where it is not done."""
    pet = cell_folder(context.folder, describe(context, cell)) / PET_FOLDER
    return set(kinds) - set(read_so_far(context, cell)) if pet.is_dir() else set()


def read_so_far(context: Context, cell: Cell) -> dict[str, Any]:
    """What is kept of a cell, by kind."""
    path = _path(context, describe(context, cell).cell)
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return known


def untuned(context: Context) -> dict[str, float]:
    """What the model scores on the reported examples of each task before it is tuned at all."""
    settings, plm = context.grid.settings, context.model.plm
    found = {}
    for name, data in context.examples.items():
        asking = ask(plm, context.model.encoder, data.task, settings)
        scored = score(plm, asking, data.reported, None, settings.max_length)
        found[name] = scored.metrics[data.task.metric]
    return found


def _path(context: Context, cell: str) -> Path:
    return context.folder / FOLDER / f"{cell}.json"


def _of_cell(
    context: Context, cell: Cell, pet: Path, kinds: set[str], elsewhere: Sequence[Example]
) -> Iterator[tuple[str, Any]]:
    data, settings = context.examples[cell.task], context.grid.settings
    asking = ask(context.model.plm, context.model.encoder, data.task, settings)
    known = labelled(data, cell.shots, cell.seed)
    with answering(context.model.plm, asking, pet) as classifier:
        limit = limit_of(classifier, asking, settings.max_length)
        rows = [asking.encode(part, limit)[0] for part in (known, data.reported, elsewhere)]
        check_tokens([row for part in rows for row in part], classifier)
        depth: dict[str, Any] = {}
        if DEPTH in kinds:
            odds = odds_by_layer(classifier, rows[0], rows[1], _lens(context))
            depth = {name: _by_layer(found, _answers(rows[1])) for name, found in odds.items()}
            yield DEPTH, depth
        if CALIBRATION in kinds:
            yield CALIBRATION, depth[HEAD][-1] if depth.get(HEAD) else _whole(classifier, rows[1])
        if SHIFT in kinds:
            of_sentiment = {label.name for label in data.task.labels} == set(SENTIMENT)
            yield SHIFT, _whole(classifier, rows[2]) if of_sentiment else None


def _by_layer(odds: Tensor | None, answers: Tensor) -> list[dict[str, float]] | None:
    return None if odds is None else [sureness(layer, answers) for layer in odds]


def _whole(classifier: Answering, rows: Rows) -> dict[str, float]:
    """Of the model itself."""
    return sureness(read(classifier, rows).scores, _answers(rows))


def _answers(rows: Rows) -> Tensor:
    return torch.tensor([label for _, label in rows])


def _lens(context: Context) -> RunningCost | None:
    """The one lens of a study, under a bridge with an exit."""
    return next(
        (
            context.costs[arm.text]
            for arm in context.grid.arms
            if arm.control is None and arm.map == "lens" and str(arm.bridge).startswith("posterior")
        ),
        None,
    )


def sureness(odds: Tensor, answers: Tensor) -> dict[str, float]:
    """How right and how well calibrated a label's probabilities are.

    Args:
        odds: [N, C], whose softmax the probabilities are.
        answers: int64 [N].

    Returns:
        "accuracy", "ece" and "brier", see above.
    """
    probabilities = odds.double().softmax(1)
    surest, guess = probabilities.max(1)
    right = (guess == answers).double()
    bins = (surest * _BINS).ceil().long().clamp(1, _BINS) - 1
    gaps = torch.zeros(_BINS, dtype=torch.float64).index_add(0, bins, right - surest.double())
    truth = torch.nn.functional.one_hot(answers, probabilities.shape[1])
    return {
        "accuracy": float(right.mean()),
        "ece": float(gaps.abs().sum() / len(answers)),
        "brier": float((probabilities - truth).square().sum(1).mean()),
    }


def other_domain(data: Path) -> tuple[Example, ...]:
    """Sentences of the shared data about restaurants and goods, the same ones every time."""
    names = sorted(SENTIMENT)  # the order of the classes of a table
    return tuple(
        Example(text, names.index(label), fields=(("text", text),))
        for text, label in read_elsewhere(data)
    )
