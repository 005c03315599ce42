"""Dropout in the frozen model."""

from __future__ import annotations

from torch import Tensor

from pets.regularizers.base import Loss, Objective
from pets.regularizers.noise import ModelDropout
from pets.tasks.answering import Answering


class Dropout(Objective, name="dropout"):
    r"""Dropout in the frozen model: Srivastava et al., JMLR 15, 2014.

    .. math:: L(x \odot m / (1 - p)), \quad m \sim \mathrm{Bernoulli}(1 - p)

    With probability p wherever the model has dropout: in BERT after the embeddings, in attention and
    after both parts of a layer. The published protocol has it off.
    """

    number, tried, limit = "probability", (0.05, 0.5), 1.0
    may_fall = True

    def on(self, classifier: Answering) -> Loss:
        dropout = ModelDropout(classifier.model)

        def loss(**batch: Tensor) -> Tensor:
            with dropout.active(self.weight):
                plain: Tensor = classifier(**batch).loss
            return plain

        return loss
