"""How a strength falls over a run: to 0, in a line or along a cosine, or not at all."""

from __future__ import annotations

import math

from bridges.errors import BadInput, check_name, is_whole, shown

CONSTANT = "constant"
SCHEDULES = (CONSTANT, "cosine", "linear")


def share(schedule: str, step: int, steps: int) -> float:
    """What is left of a strength at a step: 1 at step 0, and 0 after the last one unless constant.

    Linear is 1 - step / steps, cosine (1 + cos(pi step / steps)) / 2.

    Args:
        schedule: one of `SCHEDULES`.
        step: from 0 to ``steps``.
        steps: of the run, above 0.

    Raises:
        BadInput: for an unknown schedule, or a step outside of the run.
    """
    check_name("schedule", schedule, SCHEDULES)
    if not is_whole(steps, 1, 2**31) or not is_whole(step, 0, steps):
        raise BadInput(f"step={shown(step)} of {shown(steps)}: expected 0 to the steps of the run")
    if schedule == CONSTANT:
        return 1.0
    if schedule == "linear":
        return 1 - step / steps
    return (1 + math.cos(math.pi * step / steps)) / 2
