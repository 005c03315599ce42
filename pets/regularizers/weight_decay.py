"""Weight decay."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from bridges.errors import BadInput
from pets.regularizers.base import Objective


class WeightDecay(Objective, name="weight-decay"):
    """Decoupled weight decay: Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101.

        theta <- (1 - eta lambda) theta - eta Adam(gradient of L)

    Of the PET's matrices, with the strength lambda in the place of the optimiser's own: `tune` gives it
    to the optimiser, `pets.regularize` shrinks them before each step of any optimiser that holds some,
    whose own decay of them has to be 0. At a learning rate eta of 1e-4 a thousand steps shrink a weight
    by a factor exp(-lambda / 10), so lambda has to be far above the usual 0.01 to be felt. A PET without
    matrices, like BitFit, is refused: there it would change nothing.
    """

    formula = "theta <- (1 - eta lambda) theta - eta Adam(grad L)"
    purpose = "Many steps; not with PETs of vectors alone."
    number, tried = "decay", (0.01, 10.0)

    @property
    def weight_decay(self) -> float:
        return self.weight

    def attach(self, model: nn.Module) -> None:
        if not any(p.requires_grad and p.dim() > 1 for p in model.parameters()):
            raise BadInput(
                "weight-decay acts on the matrices of a PET, and this one trains vectors alone, so it "
                "would be vanilla under another name: choose another PET or regularizer"
            )

    def before_step(self, optimizer: Optimizer) -> None:
        for group in optimizer.param_groups:
            matrices = [p for p in group["params"] if p.dim() > 1 and p.grad is not None]
            if matrices and self.weight and group.get("weight_decay"):
                raise BadInput(
                    f"{type(optimizer).__name__} has weight_decay={group['weight_decay']} of its own "
                    "for what weight-decay shrinks: make it with weight_decay=0, or leave this out"
                )
            with torch.no_grad():
                for matrix in matrices:
                    matrix.mul_(1 - float(group["lr"]) * self.weight)
