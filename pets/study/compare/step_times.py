"""What each arm adds to the time and the memory of a training step, measured in turn with vanilla's."""

from __future__ import annotations

import json
import logging
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from bridges.errors import BadInput
from bridges.storage.files import versions, write_text
from bridges.storage.shapes import COUNT, FINITE, OBJECT, Each, Optional, Shape, misfit
from pets.study.cells.arms import Arm
from pets.study.cells.context import Context
from pets.study.cells.rows import ANEW
from pets.study.compare.kept import kept_for_backward
from pets.study.compare.table import read_json

logger = logging.getLogger(__name__)

TIMES_FILE = "step-times.json"
_ENTRY: Shape = {
    "ratio": FINITE,
    "low": FINITE,
    "high": FINITE,
    "milliseconds": Optional(FINITE),
    "rounds": Optional(FINITE),
    "memory": Optional(COUNT),
    "device_memory": Optional(COUNT),
}
_SHAPE: Shape = {"step_times": Each(Each(_ENTRY)), "environment": OBJECT}
_ROUNDS = (3, 15)  # of each PET: at least, at most
_SECONDS = 60.0  # for each PET, if that is enough for the least rounds
_STEPS = 3  # timed in a round, after one to warm up


def write_step_times(context: Context, folder: Path) -> None:
    """Measure, for each PET of the grid, the arms that the folder's file does not have, and write it."""
    path = folder / TIMES_FILE
    grid = context.grid
    before = read_times(folder)
    here = {"device": context.model.device, "threads": torch.get_num_threads(), **versions()}
    times: dict[str, Any] = before["step_times"] if before.get("environment") == here else {}
    missing = {pet: [a for a in grid.arms if a.text not in times.get(pet, {})] for pet in grid.pets}
    for pet, arms in missing.items():
        if arms:
            logger.info("timing steps of %s", pet)
            vanilla = grid.arms[0]
            measured = _of_pet(context, pet, [vanilla, *(a for a in arms if a != vanilla)])
            times[pet] = {**measured, **times.get(pet, {})}
    if any(missing.values()):
        record = {"environment": here, "step_times": times}
        write_text(path, json.dumps(record, indent=1) + "\n")


def read_times(folder: Path) -> dict[str, Any]:
    """What `write_step_times` wrote: "step_times" and "environment"; empty if it did not.

    Raises:
        BadInput: if the file cannot be read, is broken, or holds something else.
    """
    path = folder / TIMES_FILE
    if not path.exists():
        return {}
    record = read_json(path)
    if wrong := misfit(record, _SHAPE):
        raise BadInput(f"{path} holds no step times: {ANEW} ({wrong})")
    return dict(record)


def _of_pet(context: Context, pet: str, arms: list[Arm]) -> dict[str, dict[str, float]]:
    seconds: dict[Arm, list[float]] = {arm: [] for arm in arms}
    began = time.perf_counter()
    for k in range(_ROUNDS[1]):
        if k >= _ROUNDS[0] and time.perf_counter() - began > _SECONDS:
            break
        turn = k % len(arms)  # so that no arm is always the one after another
        for arm in arms[turn:] + arms[:turn]:
            seconds[arm].append(_step(context, pet, arm))
    return {
        arm.text: _entry(times, seconds[arms[0]]) | _memory(context, pet, arm)
        for arm, times in seconds.items()
    }


def _step(context: Context, pet: str, arm: Arm) -> float:
    """Seconds of a step, the median of a few; data, steps and weight are those of the first cell."""
    with context.prepared(context.grid.first(pet, arm)) as loop:
        loop.step(0)
        taken = []
        for number in range(1, _STEPS + 1):
            started = time.perf_counter()
            loop.step(number)  # reads the loss, so a GPU has finished
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _memory(context: Context, pet: str, arm: Arm) -> dict[str, int]:
    """Bytes that the first step of the first cell keeps for its backward pass; on CUDA its peak too."""
    with context.prepared(context.grid.first(pet, arm)) as loop:
        at_rest = [loop.classifier, *([loop.cost] if loop.cost is not None else [])]
        with kept_for_backward(at_rest) as kept:
            loop.step(0)
        found = {"memory": kept.most}
        if context.model.plm.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            loop.step(1)  # without the counting, which keeps nothing but takes time
            found["device_memory"] = torch.cuda.max_memory_allocated()
    return found


def _entry(seconds: list[float], vanilla: list[float]) -> dict[str, float]:
    ratios = sorted(own / plain for own, plain in zip(seconds, vanilla, strict=True))
    return {
        "milliseconds": 1000 * statistics.median(seconds),
        "ratio": statistics.median(ratios),
        "low": ratios[int(0.2 * (len(ratios) - 1))],
        "high": ratios[-1 - int(0.2 * (len(ratios) - 1))],
        "rounds": len(ratios),
    }
