"""The task's loss, had the model stopped at earlier layers."""

from __future__ import annotations

from torch import Tensor

from bridges.errors import BadInput
from pets.regularizers.base import Objective
from pets.regularizers.passes import Pass
from pets.regularizers.states import check_first, exact, layers_from, mean


class EarlyExit(Objective, name="early-exit"):
    """The head's own loss at intermediate layers: LayerSkip, Elhoushi et al., 2024, arXiv 2404.16710.

        sum over k = ceil(f L) .. L-1 of e(k) / (sum over j of e(j)) (-log p(y | h_k))
        e(k) = 1 + 2 + .. + k = k (k + 1) / 2

    Mean over the targets; p is what the model's own head says of a layer's state, final norm included,
    and y the answer. The last layer's is the task's loss and no part of this. LayerSkip's weights e grow
    with depth in the same way; that only late layers (f = 1/2) have a loss is of Luo and Specia, 2024,
    arXiv 2410.13077, whose ensemble of them and its further norms are not. It costs the head once for
    each of these layers, at the targets alone.

    Args:
        weight: of all these losses together, beside the task's.
        first: f, from which share of the depth on; the layer before the last always counts.

    Raises:
        BadInput: for a weight or share out of range; by `term` for a model of one layer.
    """

    formula = "sum over k = ceil(first L)..L-1 of e(k) / sum e (-log p(y | h_k)),  e(k) = k (k + 1) / 2"
    purpose = "Answers from earlier layers, or labels that only the last layers know."
    number, tried = "weight", (0.03, 3.0)
    may_fall = True
    reads = frozenset({"states"})

    def __init__(self, weight: float, *, first: float = 0.5) -> None:
        super().__init__(weight)
        self.first = check_first(first)

    def term(self, seen: Pass) -> Tensor:
        read = seen.read
        states = read.trajectory.states
        layers = len(states) - 1
        if layers < 2:
            raise BadInput(f"a model of {layers} layer has none before its last for {self.name} to read")
        chosen = range(min(layers_from(self.first, layers)[0], layers - 1), layers)
        scores = exact(seen.head(states[chosen.start : chosen.stop]))  # [K, N, C]
        answers = read.answers.expand(len(chosen), -1).unsqueeze(-1)
        losses = -scores.gather(-1, answers).squeeze(-1)
        shares = losses.new_tensor([k * (k + 1) / 2 for k in chosen])
        return mean(seen, (shares / shares.sum()) @ losses)
