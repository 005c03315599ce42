"""The weight of a running cost, said as a ratio of gradients: the same pull whatever model and cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bridges import RunningCost
from bridges.errors import BadInput
from pets.plug.regularize import regularize
from pets.plug.weights import gradients
from pets.regularizers import Objective
from pets.tasks.answering import Answering, Rows

_EXAMPLES = 64
_BATCH = 32  # examples of a forward pass


def weight_of(
    ratio: float,
    classifier: Answering,
    cost: RunningCost | Objective,
    rows: Rows,
    parameters: Sequence[Tensor],
) -> float:
    """The weight with which the gradient of a cost, or of a regularizer's term, is ``ratio`` times as
    long as the task's.

        weight = ratio |gradient of the task loss| / |gradient of the running cost|

    Both are means over the examples, at the parameters as they are: of a LoRA at its
    beginning, B = 0, only B has a gradient. Regularised at weight 1, the same cost pulls a hundred times
    as hard on one model as on another.

    Args:
        ratio: above 0.
        classifier: with the PET, in training mode, and without the cost; left as it is.
        cost: made for its model. Where it draws noise, that is of the global generator.
        rows: encoded training examples; the first 64 are read.
        parameters: that are trained; others do not count.

    Raises:
        BadInput: if one of the two gradients is zero or not finite.
    """
    rows = rows[:_EXAMPLES]
    totals = [[torch.zeros_like(p) for p in parameters] for _ in range(2)]
    with regularize(classifier, cost, into_loss=False) as handle:
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            output = classifier(**classifier.on_device(classifier.collate(batch)))
            for total, term in zip(totals, (output.loss, output.running_cost), strict=True):
                for mine, gradient in zip(total, gradients(term, parameters), strict=True):
                    if gradient is not None:
                        mine += gradient * (len(batch) / len(rows))
    task, own = (_norm(total) for total in totals)
    for what, norm in (("task's loss", task), (f"cost {handle.names[0]!r}", own)):
        if not (math.isfinite(norm) and norm > 0):
            raise BadInput(
                f"ratio={ratio}: the gradient of the {what} at the PET's initial parameters is "
                f"{norm} long, so no weight makes a ratio of the two; give a weight instead"
            )
    return ratio * task / own


def _norm(parts: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(part.double().square().sum()) for part in parts))
