"""Label smoothing."""

from __future__ import annotations

from torch import Tensor

from pets.regularizers.base import Objective
from pets.regularizers.passes import Pass


class LabelSmoothing(Objective, name="label-smoothing"):
    """Label smoothing over C classes: Szegedy et al., CVPR 2016, arXiv 1512.00567.

        -sum over c of q_c log p_c,  q_c = (1 - epsilon) [c = y] + epsilon / C

    The term is the mean of -log p_c over the classes, less L. Of a language model the classes are its
    vocabulary. In prompt-based classification they are the labels: p is the model's probability of a
    label's words in the whole vocabulary, as in the plain loss, and the other words keep target 0.
    """

    formula = "-sum over c of q_c log p_c,  q_c = (1 - epsilon) [c = y] + epsilon / C"
    purpose = "Noisy labels, overconfident answers."
    number, tried, limit = "epsilon", (0.02, 0.5), 1.0
    may_fall = True
    reads = frozenset({"scores"})

    def term(self, seen: Pass) -> Tensor:
        return seen.mean(-seen.scores.mean(1)) - seen.loss
