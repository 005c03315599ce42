"""Label smoothing."""

from __future__ import annotations

from torch import Tensor

from pets.regularizers.base import Loss, Objective
from pets.tasks.answering import Answering


class LabelSmoothing(Objective, name="label-smoothing"):
    r"""Label smoothing over the C classes: Szegedy et al., CVPR 2016, arXiv 1512.00567.

    .. math:: -\sum_c q_c \log p_c, \quad q_c = (1 - \epsilon) [c = y] + \epsilon / C

    p is the model's probability of the class's words in the whole vocabulary, as in the plain loss, and
    the other words keep target 0.
    """

    number, tried, limit = "epsilon", (0.02, 0.5), 1.0
    may_fall = True

    def on(self, classifier: Answering) -> Loss:
        def loss(**batch: Tensor) -> Tensor:
            output = classifier(**batch)
            smoothed: Tensor = (1 - self.weight) * output.loss - self.weight * output.logits.mean()
            return smoothed

        return loss
