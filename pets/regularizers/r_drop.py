"""A penalty on what dropout changes."""

from __future__ import annotations

import torch
from torch import Tensor

from pets.regularizers.base import Loss, Objective, symmetric_kl
from pets.regularizers.noise import ModelDropout
from pets.tasks.answering import Answering


class RDrop(Objective, name="r-drop"):
    r"""Regularized dropout: Liang et al., NeurIPS 2021, arXiv 2106.14448.

    .. math:: \tfrac12 (L_1 + L_2) + \tfrac\alpha2 (\mathrm{KL}(f_1 \| f_2) + \mathrm{KL}(f_2 \| f_1))

    Losses and distributions over the classes of two passes with dropout masks of their own, here one
    pass of a batch of twice the size. Each dropout has the probability that the model brings along, or
    all have 0.1 where it brings none. At alpha 0 that dropout is left.
    """

    number, tried = "alpha", (0.1, 5.0)
    may_fall = True

    def on(self, classifier: Answering) -> Loss:
        dropout = ModelDropout(classifier.model)
        probability = None if dropout.probability > 0 else 0.1

        def loss(**batch: Tensor) -> Tensor:
            with dropout.active(probability):
                output = classifier(**{name: torch.cat([value, value]) for name, value in batch.items()})
            apart = symmetric_kl(*output.logits.chunk(2))
            penalised: Tensor = output.loss + self.weight / 2 * apart
            return penalised

        return loss
