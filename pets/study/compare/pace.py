"""How fast a comparison goes here, by a few steps and answers that are measured, in a minute or so."""

from __future__ import annotations

import copy
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from bridges import FitSettings, LensSettings, RunningCost
from pets.study.cells.arms import Arm
from pets.study.cells.context import Context
from pets.study.cells.costs import Recipe
from pets.study.cells.grid import Cell
from pets.study.compare.plan import Pace, TaskPace
from pets.study.execution.local import threads_of
from pets.tasks import splits
from pets.tasks.base import TaskData
from pets.tuning.evaluation import evaluate
from pets.tuning.loop import TuningLoop

logger = logging.getLogger(__name__)

_SECONDS = 60.0  # for all that is measured, if that is enough for one step of each arm
_STEPS = 3  # timed, after one to warm up
_ANSWERED = 32  # examples
_OF_A_FORWARD = 0.1
"""What a cost's own part of a fit's step takes; five costs take 3.6 times as long alone as together."""
_OF_HEAD = 2.0  # a lens's reading asks the head and sums products of states, beside the forward
_LETTERS = 4  # of text, a token
_STEP_TIMES = (60, 15)  # of each PET, afterwards: seconds, and rounds of all arms, at most


def measured(context: Context, jobs: int) -> Pace:
    """The pace of a context's grid, on unfitted costs where they are not fitted yet.

    All arms are measured with the first PET, vanilla with every PET, and further pairs while there is
    time; the others are as much slower than vanilla as with the first PET. Of every task vanilla's
    steps are measured, and answers. An arm that fails counts as vanilla: its cells will say why.

    Args:
        context: checked.
        jobs: processes that the machine is to be shared by.
    """
    logger.info("measuring how long a cell takes: about a minute at most")
    with _threads(threads_of(jobs)):
        return _Stopwatch(context).pace()


class _Stopwatch:
    """Measures while there is time."""

    def __init__(self, context: Context) -> None:
        self.context, self.grid = context, context.grid
        self.missing = context.missing()
        self.until = time.perf_counter() + _SECONDS
        pairs = len(self.grid.arms) + len(self.grid.pets) + len(self.grid.tasks) - 2
        self.share = _SECONDS / pairs
        self.setups: list[float] = []

    def pace(self) -> Pace:
        grid, vanilla = self.grid, self.grid.arms[0]
        first, *others = grid.pets
        steps = {(first, arm.text): self.step(grid.first(first, arm)) for arm in grid.arms}
        steps |= {(pet, vanilla.text): self.step(grid.first(pet, vanilla)) for pet in others}
        for pet in others:
            for arm in grid.arms[1:]:
                if time.perf_counter() < self.until:
                    steps[pet, arm.text] = self.step(grid.first(pet, arm))
                else:
                    slower = steps[first, arm.text] / steps[first, vanilla.text]
                    steps[pet, arm.text] = slower * steps[pet, vanilla.text]
        tasks, token = {}, 0.0
        for name, data in self.context.examples.items():
            cell = Cell(name, grid.shots[0], first, vanilla, grid.seeds[0])
            tasks[name], of_token = self.task(cell, data)
            token = token or of_token
        setup, sums = statistics.median(self.setups), dict.fromkeys(grid.pets, 0.0)
        for (pet, _), seconds in steps.items():
            sums[pet] += setup + (_STEPS + 1) * seconds
        most, rounds = _STEP_TIMES
        after = sum(min(most, rounds * seconds) for seconds in sums.values())
        return Pace(setup, steps, tasks, fit_seconds(self.missing, token), after)

    def step(self, cell: Cell) -> float:
        """Seconds of a step of a cell."""
        try:
            with self.prepared(cell) as loop:
                return self._of(loop)
        except Exception as error:
            if cell.arm == self.grid.arms[0]:
                raise
            logger.warning("%s with %s cannot be measured: %s", cell.pet, cell.arm, error)
            return self.step(self.grid.first(cell.pet, self.grid.arms[0]))

    def task(self, cell: Cell, data: TaskData) -> tuple[TaskPace, float]:
        """The pace of a cell's task, and seconds of a forward pass for each token."""
        grid = self.grid
        with self.prepared(cell) as loop:
            step = self._of(loop)
            # A step reads, and goes back through, a batch: of a slow one fewer answers have to do.
            some = round(min(_ANSWERED, 1 + self.share / step * grid.settings.batch_size))
            rows = [*loop.rows["dev"], *loop.rows["train"]][:some]
            seconds = _timed(partial(evaluate, loop.classifier, rows, loop.data.task))
        tokens = sum(len(row.input_ids) * max(1, len(row.answers)) for row, _ in rows)
        dev = {
            shots: shots * len(data.task.strata)
            if shots
            else len(splits.hold_out(data.train, data.task, grid.seeds[0])[1])
            for shots in grid.shots
        }
        return TaskPace(step, seconds / len(rows), dev, len(data.reported)), seconds / tokens

    @contextmanager
    def prepared(self, cell: Cell) -> Iterator[TuningLoop]:
        began = time.perf_counter()
        with self.context.prepared(cell, self._cost(cell.arm)) as loop:
            self.setups.append(time.perf_counter() - began)
            yield loop

    def _cost(self, arm: Arm) -> RunningCost | None:
        """An unfitted cost of an arm, whose recipe's own stays as it is."""
        if arm.bridge is None or arm.text in self.context.costs:
            return None
        recipe = self.missing.get(arm.text) or self.context.recipes.recipe(arm)
        cost = self.context.recipes.cost(arm, copy.deepcopy(recipe.cost))
        cost.options["fit"] = False  # it is meant so
        return cost

    def _of(self, loop: TuningLoop) -> float:
        """Seconds of a step, the median of a few; of a slow one the first has to do."""
        seconds = _timed(partial(loop.step, 0))
        if (_STEPS + 1) * seconds > self.share:
            return seconds
        return statistics.median(_timed(partial(loop.step, k)) for k in range(1, _STEPS + 1))


def fit_seconds(recipes: Mapping[str, Recipe], token: float) -> float:
    """About how long fits take that do not stop early, by the seconds of a forward pass for a token.

    Costs with the same settings and text are fitted together, while the model reads the text once.
    """
    groups: dict[Any, list[Recipe]] = {}
    for recipe in recipes.values():
        if recipe.text is not None:
            groups.setdefault((recipe.settings, recipe.text), []).append(recipe)
    whole = 0.0
    for (settings, text), group in groups.items():
        there = sum(map(len, text)) / _LETTERS
        if isinstance(settings, FitSettings):
            held_out = min(settings.held_out * settings.max_length, there)  # read once
            tokens = settings.batches * settings.batch_size * settings.max_length + held_out
            whole += tokens * token * (1 + len(group) * _OF_A_FORWARD)
        elif isinstance(settings, LensSettings):
            complete = settings.for_model(group[0].cost.spec.hidden_size, head=True)
            whole += min(complete.most_tokens, there) * token * _OF_HEAD
    return whole


def _timed(call: Callable[[], Any]) -> float:
    """Seconds; what is called reads a number off the device, so a GPU has finished."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
