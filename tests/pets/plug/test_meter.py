"""What the meter tells is the mean over steps of what they came to, however many there were."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pets.plug.meter import TASK, Meter

STEPS, FORWARDS = 150, 3  # more than are kept one by one


def numbers(step: int, forward: int) -> dict[str, Tensor | float]:
    rng = torch.Generator().manual_seed(10 * step + forward)
    task, cost = torch.randn(2, generator=rng)
    return {TASK: task.requires_grad_(), "cost": cost.double(), "weight/cost": 0.5 + step}


def recorded(*, divided: bool) -> Meter:
    meter = Meter()
    for step in range(STEPS):
        for forward in range(FORWARDS):
            meter.record(step, numbers(step, forward), {}, training=True, divided=divided)
    return meter


@pytest.mark.parametrize("divided", [False, True])
def test_it_is_the_mean_over_steps(divided: bool) -> None:
    each = [[numbers(s, f) for f in range(FORWARDS)] for s in range(STEPS)]
    meter, parts = recorded(divided=divided), FORWARDS if divided else 1
    last, logs = meter.last, meter.logs()

    def mean(name: str, steps: list[list[dict[str, Tensor | float]]]) -> float:
        count = len(steps) * FORWARDS
        return sum(float(torch.as_tensor(x[name]).detach()) for step in steps for x in step) / count

    for name, told in ((TASK, "task_loss"), ("cost", "running_cost/cost")):
        assert last[name] == pytest.approx(parts * mean(name, each[-1:]), rel=1e-12)
        assert logs[told] == pytest.approx(parts * mean(name, each), rel=1e-12)
    assert logs["weight/cost"] == pytest.approx(mean("weight/cost", each), rel=1e-12)
    assert meter.logs() == {}


def test_many_forwards_of_one_step() -> None:
    meter = Meter()
    for forward in range(1000):
        meter.record(0, {TASK: torch.tensor(float(forward))}, {}, training=True, divided=False)
    assert len(meter._step.forwards) < 100  # what is kept is bounded
    assert meter.last[TASK] == 499.5


def test_a_loss_that_is_scaled_in_place_was_another_number() -> None:
    meter, loss, vector = Meter(), torch.tensor(2.0), torch.tensor([3.0])
    meter.record(0, {TASK: loss, "cost": vector}, {}, training=True, divided=False)
    loss.mul_(100)
    vector.mul_(100)
    assert (meter.last[TASK], meter.last["cost"]) == (2.0, 3.0)


def test_training_and_evaluation_are_apart() -> None:
    meter = Meter()
    for number, training in enumerate((True, False, True)):
        meter.record(number, {TASK: torch.tensor(float(number))}, {}, training=training, divided=False)
    assert meter.logs(training=False) == {"task_loss": 1.0}
    assert meter.logs() == {"task_loss": 1.0}
