"""Weight decay."""

from __future__ import annotations

from bridges.errors import BadInput
from pets.regularizers.base import Loss, Objective
from pets.tasks.answering import Answering


class WeightDecay(Objective, name="weight-decay"):
    r"""Decoupled weight decay: Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101.

    .. math:: \theta \leftarrow (1 - \eta \lambda) \theta - \eta \, \mathrm{Adam}(\nabla L)

    The optimiser does it, to the PET's matrices, with the strength lambda in the place of
    ``TuneSettings.weight_decay``; the loss stays. At a learning rate eta of 1e-4 a thousand steps shrink
    a weight by a factor exp(-lambda / 10), so lambda has to be far above the usual 0.01 to be felt.
    A PET without matrices, like BitFit, is refused: there it would change nothing.
    """

    number, tried = "decay", (0.01, 10.0)

    @property
    def weight_decay(self) -> float:
        return self.weight

    def on(self, classifier: Answering) -> Loss:
        if not any(p.requires_grad and p.dim() > 1 for p in classifier.parameters()):
            raise BadInput(
                "weight-decay acts on the matrices of a PET, and this one trains vectors alone, so it "
                "would be vanilla under another name: choose another PET or regularizer"
            )
        return lambda **batch: classifier(**batch).loss
