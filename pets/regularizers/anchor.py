"""States that stay where the frozen model has them."""

from __future__ import annotations

import torch
from torch import Tensor

from pets.regularizers.base import Objective
from pets.regularizers.passes import Pass
from pets.regularizers.states import exact, mean


class Anchor(Objective, name="anchor"):
    """Hidden states near the frozen model's: DELTA's features (arXiv 1901.09229) in a PET's model.

        mean over the L+1 layers k of |h_k - h0_k|^2 / |h0_k|^2

    The mean over the targets; h0 are the states with the PET switched off, which get no gradient. What
    L2-SP (Li et al., ICML 2018, arXiv 1802.01483) asks of parameters, that they stay near where they
    began, DELTA (Li et al., ICLR 2019) asks of what layers make of an input. There a feature map's
    distance is absolute; here it is told in lengths of h0, of the same layer and target, since the
    states of one model may be ten thousand times as long as another's. A state h0 that is exactly zero
    has no length to tell it in: its |h|^2 counts as it is.

    It costs a forward without gradient. At a LoRA's beginning, where nothing has moved, it is 0 with
    gradient 0, so no ratio of gradients can set its weight there.
    """

    formula = "mean over layers of |h_k - h0_k|^2 / |h0_k|^2,  h0 the states without the PET"
    purpose = (
        "A PET that forgets what the model knew: little data, a high learning rate. It has no gradient "
        "before the first step."
    )
    number, tried = "weight", (0.01, 10.0)
    may_fall = True
    reads = frozenset({"states"})

    def term(self, seen: Pass) -> Tensor:
        states, frozen = seen.read.trajectory.states, seen.frozen.trajectory.states.detach()
        # In 32 bits before the difference, which bf16 would round to nothing.
        start = exact(frozen)
        size = start.abs().amax(-1, keepdim=True)
        size = torch.where(size > 0, size, 1.0)  # whose squares cannot overflow
        moved = ((exact(states) - start) / size).square().sum(-1)
        length = (start / size).square().sum(-1)
        return mean(seen, (moved / torch.where(length > 0, length, 1.0)).mean(0))
