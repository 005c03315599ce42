"""A gradient that has no derivative of its own, and says so."""

from __future__ import annotations

import torch
from torch import Tensor


def marked(grad: Tensor) -> Tensor:
    """The gradient of an output, as a backward under ``once_differentiable`` has to be given it.

    What that finds depends on the inputs even where the gradient of the output is a constant: a second
    derivative must be refused then too, and ``once_differentiable`` looks at its arguments only.
    """
    return grad.detach().requires_grad_() if torch.is_grad_enabled() else grad
