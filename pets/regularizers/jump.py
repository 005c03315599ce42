"""Last layers that move the states no more than the others do."""

from __future__ import annotations

from torch import Tensor

from bridges.errors import BadInput, check_counts
from pets.regularizers.base import Objective
from pets.regularizers.passes import Pass
from pets.regularizers.states import directions, mean


class Jump(Objective, name="jump"):
    """Last layers must not move more than the others: after Shibata et al., 2026, arXiv 2601.18302.

        Psi_k = (1 - cos(h_(k-1), h_k)) / 2
        mean over k > L - m of max(0, Psi_k - mean over j <= L - m of Psi_j)^2

    The displacement Psi in [0, 1] of a layer k = 1 ... L is theirs, as is that only a rise of it counts;
    what a target pays for it is not their loss: how far the last m layers are above the mean of the
    others. That mean has a gradient too: earlier layers may move more instead.
    Where a model ends in a norm, the last state is behind it. A zero state has no direction: to or from
    it Psi is 1/2.

    Args:
        weight: lambda.
        last: m, how many layers are the last ones.

    Raises:
        BadInput: for a weight or number out of range; by `term` for a model without further layers.
    """

    formula = (
        "mean over k > L - m of max(0, Psi_k - mean of Psi_1..Psi_{L-m})^2,  Psi_k = (1 - cos(h_{k-1}, "
        "h_k)) / 2"
    )
    purpose = "A last layer that does all the work."
    number, tried = "lambda", (0.1, 100.0)
    may_fall = True
    reads = frozenset({"states"})

    def __init__(self, weight: float, *, last: int = 1) -> None:
        super().__init__(weight)
        check_counts(last=last)
        self.last = last

    def term(self, seen: Pass) -> Tensor:
        states = directions(seen.read.trajectory.states)
        layers = len(states) - 1
        if layers <= self.last:
            raise BadInput(
                f"last={self.last}: expected less than the model's {layers} layers, so that there are "
                "others to compare with"
            )
        moved = (1 - (states[:-1] * states[1:]).sum(-1)) / 2  # [L, N]
        others = moved[: -self.last].mean(0)
        return mean(seen, (moved[-self.last :] - others).clamp(min=0).square().mean(0))
