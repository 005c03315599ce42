"""One cell of a comparison: its tries, the choice among them, the reported score."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from bridges import ModelSpec, RunningCost
from bridges.errors import CannotWrite, error_number
from bridges.model.identity import own_code
from bridges.storage.files import versions
from bridges.storage.source import source_digest
from pets.study.cells.arms import VANILLA
from pets.study.cells.context import Context
from pets.study.cells.depth import by_depth
from pets.study.cells.grid import Cell
from pets.study.cells.right import packed
from pets.study.cells.rows import Row
from pets.study.cells.tries import Try
from pets.tasks.asking import Asking
from pets.tasks.shared_texts import shared_texts
from pets.tuning.evaluation import score
from pets.tuning.preparing import ask
from pets.tuning.run_folder import PET_FOLDER
from pets.tuning.tune import MADE_BY as TUNING
from pets.tuning.tune import tune

MADE_BY = (*TUNING, "pets/study/cells")
"""The folders whose code a cell's row depends on."""
BY_DEPTH = "pets/anytime"
"""And what of a grid by depth depends on too."""
CELLS_FOLDER = "cells"
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
_OF_A_CELL = ("pet", "shots", "seed", "restart", "weight", "ratio", "regularizer", "adapt")


def describe(context: Context, cell: Cell) -> Row:
    """The row of a cell before it ran: everything its numbers depend on, and "cell", a hash of that.

    Another version of the code or of a library, another setting, model, text or data is another cell.
    """
    arm, tries = cell.arm, context.grid.tries(cell)
    cost = context.costs.get(arm.text)
    row = Row(
        task=cell.task,
        metric=context.examples[cell.task].task.metric,
        shots=cell.shots or None,
        pet=cell.pet,
        arm=arm.text,
        seed=cell.seed,
        bridge=cost.config()["bridge"] if cost is not None else None,
        control=arm.control,
        regularizer=arm.regularizer,
        by_ratio=context.grid.has_ratios(arm),
        fit=_fit(cost),
        settings={k: v for k, v in tries[0].identity.items() if k not in _OF_A_CELL},
        model=ModelSpec.of(context.model.plm).name,
        hashes={
            **context.model.identity,
            "data_sha256": context.data_sha256[cell.task],
            "cost": context.cost_sha256.get(arm.text),
            "cost_code": own_code(cost, *tries[0].parts),
        },
        code=source_digest(*MADE_BY, *([BY_DEPTH] if context.grid.by_depth else [])),
        versions=versions(),
        device=context.model.device,
    )
    found = arm.strengths(context.grid.weights)
    strengths = len(tries) if arm.kind == VANILLA else found
    told = {**row.to_dict(), "strengths": strengths, "adapt": tries[0].adapt}
    if context.grid.by_depth:
        told["by_depth"] = True
    made_of = json.dumps(told, sort_keys=True)
    return dataclasses.replace(row, cell=hashlib.sha256(made_of.encode()).hexdigest()[:16])


def _fit(cost: RunningCost | None) -> dict[str, float] | None:
    """What the fit of a cost came to, on held-out text."""
    if cost is None or cost.fit_record is None:
        return None
    held_out = [value for _, value in cost.fit_record["held_out"]]
    return {"first": held_out[0], "best": min(held_out), "steps": cost.fit_record["steps"]}


def cell_folder(folder: Path, row: Row) -> Path:
    """Where a cell keeps its tries while it runs, then its row and the PET that was selected."""
    return folder / CELLS_FOLDER / row.cell


def run_cell(context: Context, cell: Cell) -> Row:
    """Tune all tries on the train split, select one on the dev split, score it once.

    The tries are not given the reported examples. Cells are independent: an interrupted one goes on
    where its last try was.

    Returns:
        The row, "done".

    Raises:
        CannotWrite: if the disk is full or may not be written to.
    """
    row = describe(context, cell)
    try:
        with _workplace(context.folder, row) as folder:
            return _filled(context, cell, row, folder)
    except (OSError, SafetensorError) as error:
        if isinstance(error, CannotWrite) or error_number(error) not in NO_ROOM:
            raise
        raise CannotWrite.of(cell, error) from error


@contextmanager
def _workplace(folder: Path, row: Row) -> Iterator[Path]:
    """The cell's folder, or on another machine, where the comparison's is not there, a temporary one."""
    if folder.is_dir():
        yield cell_folder(folder, row)
    else:
        with tempfile.TemporaryDirectory(prefix="bridge-pets-") as elsewhere:
            yield Path(elsewhere)


def _filled(context: Context, cell: Cell, row: Row, folder: Path) -> Row:
    data = context.examples[cell.task]
    model, strengths = context.model, cell.arm.strengths(context.grid.weights)
    results = [
        tune(
            model.plm,
            model.tokenizer,
            data.without_reported,
            settings,
            folder / f"try-{k}",
            cost=context.costs.get(cell.arm.text),
            encoder=model.encoder,
            of_model=model.identity,
            progress=False,
        )
        for k, settings in enumerate(context.grid.tries(cell))
    ]
    metric = data.task.metric
    best = max(
        range(len(results)),
        key=lambda k: (results[k]["dev"][metric], -results[k]["dev_loss"], -k),
    )
    chosen = results[best]
    pet = folder / f"try-{best}" / PET_FOLDER
    settings = context.grid.settings
    asking = ask(model.plm, model.encoder, data.task, settings)
    scored = score(model.plm, asking, data.reported, pet, settings.max_length)
    return dataclasses.replace(
        row,
        status="done",
        score=scored.metrics[metric],
        reported=scored.metrics,
        dev=chosen["dev"],
        strength=strengths[best],
        restart=best,
        best_step=chosen["best_step"],
        tries=tuple(_try(k, strengths[k], result) for k, result in enumerate(results)),
        trainable_parameters=chosen["trainable_parameters"],
        examples={**chosen["examples"], "reported": len(data.reported)},
        truncated={**chosen["truncated"], "reported": scored.truncated},
        shared_texts=shared_texts(data),
        right=packed(scored.right) if metric == "accuracy" and scored.right is not None else None,
        depth=_by_depth(context, cell, asking, pet) if context.grid.by_depth else None,
    )


def _by_depth(context: Context, cell: Cell, asking: Asking, pet: Path) -> dict[str, Any]:
    data, cost = context.examples[cell.task], context.costs.get(cell.arm.text)
    length = context.grid.settings.max_length
    split = {"shots": cell.shots, "seed": cell.seed, "max_length": length}
    return dict(by_depth(context.model.plm, asking, data, pet, cost, **split))


def tidy(folder: Path, row: Row) -> None:
    """Of a cell whose row is written keep the selected PET alone; the rest is in the row.

    Until then the tries are what an interrupted cell goes on from.
    """
    here = cell_folder(folder, row)
    chosen = here / f"try-{row.restart}" / PET_FOLDER
    if chosen.exists():
        shutil.rmtree(here / PET_FOLDER, ignore_errors=True)  # of an earlier time, its row deleted
        chosen.replace(here / PET_FOLDER)
    for unneeded in here.glob("try-[0-9]*"):
        shutil.rmtree(unneeded)


def _try(number: int, strength: float | None, result: dict[str, Any]) -> Try:
    last = result["curves"][-1]["running_cost"]
    return Try.from_dict({**result, "strength": strength, "restart": number, "running_cost": last})
