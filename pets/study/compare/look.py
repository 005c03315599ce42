"""The analyses of a comparison: a look into the frozen model and the first seed's selected PETs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from bridges import RunningCost
from bridges.errors import BadInput, listed
from bridges.progress import progress_bar
from bridges.storage.files import write_text
from pets.inside.analysis import analyse, gaussian_or_none
from pets.study.cells.arms import BRIDGE, VANILLA
from pets.study.cells.cell import cell_folder
from pets.study.cells.context import Context
from pets.study.cells.rows import ANEW, Row
from pets.study.compare.table import read_json
from pets.tasks import splits
from pets.tasks.base import CLASSES, Example
from pets.tasks.protocol import OURS
from pets.tuning.models import load_pet, unload, untouched
from pets.tuning.run_folder import PET_FOLDER

logger = logging.getLogger(__name__)

ANALYSIS_FILE = "analysis.json"
FROZEN = "frozen"
_EXAMPLES = 60  # of each class


def write_analysis(
    context: Context, folder: Path, rows: Iterable[Row], *, progress: bool = True
) -> None:
    """Look into the frozen model, for each task, and into the PETs of vanilla and the bridges.

    The states are read with the first cost of a Gaussian bridge, or about the label of one, among the
    arms. The examples are of
    the train set, and no PET was tuned on them: the reported ones stay untouched. What the folder's
    file has of the same cells is kept.
    """
    reader = _reader(context)
    if reader is None:
        logger.info("without a fitted cost of a Gaussian bridge the report has no look into the model")
        return
    name, cost = reader
    seed = context.grid.seeds[0]
    wanted = [
        row
        for row in rows
        if row.is_done
        and row.seed == seed
        and row.kind in (VANILLA, BRIDGE)
        and (cell_folder(folder, row) / PET_FOLDER).is_dir()
    ]
    path = folder / ANALYSIS_FILE
    kept = {record["of"]: record for record in read_analysis(folder)}
    digest = cost.digest()
    todo = list(_all(context, wanted, seed))
    for of, row, facts in progress_bar(todo, desc="analyses", unit="PET", shown=progress):
        of = f"{of}/{digest[:12]}"
        if of in kept:
            continue
        examples = unused_examples(context, facts["task"], facts["shots"], seed)
        seen = _of_pet(context, folder, row, facts["task"], examples, cost)
        if seen is not None:
            kept[of] = {"of": of, **facts, "seed": seed, "reader": name, **seen}
            write_text(path, json.dumps(list(kept.values())) + "\n")


def read_analysis(folder: Path) -> list[dict[str, Any]]:
    """The records that `write_analysis` wrote; none if it did not.

    Raises:
        BadInput: if the file cannot be read, is broken, or holds something else.
    """
    path = folder / ANALYSIS_FILE
    records = read_json(path) if path.exists() else []
    if not isinstance(records, list) or not all(
        isinstance(record, dict) and isinstance(record.get("of"), str) for record in records
    ):
        raise BadInput(f"{path} is no list of analyses: {ANEW}")
    return records


def unused_examples(context: Context, task: str, shots: int | None, seed: int) -> list[Example]:
    """Train examples that were not tuned on: outside the few-shot split, or those held out for dev."""
    data = context.examples[task]
    if shots is None:
        pool = splits.hold_out(data.train, data.task, seed)[1]
    else:
        used = {e.text for part in splits.few_shot(data.train, data.task, shots, seed) for e in part}
        pool = [example for example in data.train if example.text not in used]
    chosen = []
    for label in range(len(data.task.labels)):
        of_class = [example for example in pool if example.label == label]
        chosen += Random(seed).sample(of_class, min(_EXAMPLES, len(of_class)))
    return chosen


def _reader(context: Context) -> tuple[str, RunningCost] | None:
    for arm in context.grid.arms:
        cost = context.costs.get(arm.text)
        if cost is not None and gaussian_or_none(cost) is not None and arm.control is None:
            return arm.text, cost
    return None


def _all(
    context: Context, rows: list[Row], seed: int
) -> Iterator[tuple[str, Row | None, dict[str, Any]]]:
    """What is looked into: a name that says everything it depends on, the row, the facts of a record."""
    told = {name for name, data in context.examples.items() if data.task.kind == CLASSES}
    if others := context.examples.keys() - told:
        logger.warning(
            "no analysis of what is inside on tasks without classes: %s", listed(sorted(others))
        )
    rows = [row for row in rows if row.task in told]
    shots = {row.task: row.shots for row in reversed(rows)}
    for task, size in shots.items():
        of = f"{FROZEN}/{context.model.sha256[:12]}/{context.data_sha256[task][:12]}/{size}/{seed}"
        protocol = context.grid.settings.protocol
        of = of if protocol == OURS.name else f"{of}/{protocol}"
        yield of, None, {"task": task, "shots": size, "pet": None, "arm": FROZEN}
    for row in rows:
        facts = {"task": row.task, "shots": row.shots, "pet": row.pet, "arm": row.arm}
        yield row.cell, row, facts


def _of_pet(
    context: Context,
    folder: Path,
    row: Row | None,
    task: str,
    examples: list[Example],
    cost: RunningCost,
) -> dict[str, Any] | None:
    of_task = context.examples[task].task
    plm, tokenizer, settings = context.model.plm, context.model.tokenizer, context.grid.settings
    how: dict[str, Any] = {"max_length": settings.max_length, "protocol": settings.conventions}
    try:
        with untouched(plm):
            if row is None:
                return analyse(plm, tokenizer, of_task, examples, cost, **how)
            model = load_pet(plm, cell_folder(folder, row) / PET_FOLDER)
            try:
                return analyse(model, tokenizer, of_task, examples, cost, **how)
            finally:
                unload(model)
    except BadInput as error:  # too few examples of a class are left, say
        logger.warning("no analysis of %s on %s: %s", row.arm if row else FROZEN, task, error)
        return None
