"""How a weight changes over the steps of a run: what is left of it at each."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from bridges.errors import BadInput, check_name, is_whole, shown

CONSTANT = "constant"
SCHEDULES = (CONSTANT, "cosine", "linear")
_FORM = (
    "'constant', 'linear', 'cosine' (with the steps of the run where no Trainer knows them, "
    "'cosine:1000'), 'warmup:100', or one after the other, 'warmup:100+cosine'"
)
_PART = re.compile(r"(constant|linear|cosine|warmup)(?::([1-9][0-9]{0,9}))?")


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


@dataclass(frozen=True)
class Schedule:
    """A schedule as it is written, ``"warmup:100+cosine"``: a warm-up, then a fall.

    A warm-up of N steps is step / N, up to 1; what falls does so over the steps that are left.

    Attributes:
        warmup: N, 0 for none.
        fall: one of `SCHEDULES`.
        steps: of the whole run, where they are written; None where whoever runs it knows.
    """

    warmup: int = 0
    fall: str = CONSTANT
    steps: int | None = None

    @classmethod
    def parse(cls, text: object) -> Schedule:
        """The schedule that is written so.

        Raises:
            BadInput: for anything else.
        """
        parts = [_PART.fullmatch(part) for part in text.split("+")] if isinstance(text, str) else []
        names = [part[1] if part else "" for part in parts]
        warms = names[:1] == ["warmup"]
        falls = names[warms:]
        known = all(name in SCHEDULES for name in falls) and len(falls) <= 1 and bool(names)
        if not known or (warms and parts[0] is not None and parts[0][2] is None):
            raise BadInput(f"schedule {shown(text)}: expected {_FORM}")
        counts = [int(part[2]) if part and part[2] else None for part in parts]
        steps = counts[warms] if falls else None
        if steps is not None and (falls == [CONSTANT] or (warms and steps <= (counts[0] or 0))):
            raise BadInput(
                f"schedule {shown(text)}: the run has no step after the warm-up, or needs none"
            )
        return cls((counts[0] or 0) if warms else 0, falls[0] if falls else CONSTANT, steps)

    def __str__(self) -> str:
        fall = self.fall + (f":{self.steps}" if self.steps else "")
        if not self.warmup:
            return fall
        return f"warmup:{self.warmup}" + (f"+{fall}" if self.fall != CONSTANT else "")

    def share(self, step: int, steps: int | None) -> float:
        """What is left of a weight at a step, from 0 on; behind the end of the run what is left then.

        Args:
            step: of the optimiser.
            steps: of the run, where whoever runs it knows and the schedule does not say.

        Raises:
            BadInput: if the weight falls over a run of unknown length.
        """
        if step < self.warmup:
            return step / self.warmup
        if self.fall == CONSTANT:
            return 1.0
        whole = self.steps or steps
        if whole is None:
            raise BadInput(
                f"schedule {str(self)!r}: nobody says how many steps the run has; write them, "
                f"'{self.fall}:1000', where it is not under a Trainer"
            )
        left = max(1, whole - self.warmup)
        return share(self.fall, min(step - self.warmup, left), left)
