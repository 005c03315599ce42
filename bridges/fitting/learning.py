"""What a bridge learns once the reader is known: its parameters, on latents that stay as they are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bridges.errors import BadInput
from bridges.latent.latent_map import Reader, as_latents
from bridges.latent.trajectory import Trajectory
from bridges.processes.base import Cost
from bridges.processes.parameters import at_bounds

logger = logging.getLogger(__name__)

_STEPS = 200
_TOLERANCE = 1e-9


class Guesses(Reader):
    """Reads guesses that were made before: the states of its trajectories are them, [L+1, N, d].

    Args:
        centre: [L+1, d], the mean guess.
    """

    reads_context = False
    guesses = True
    centre: Tensor

    def __init__(self, centre: Tensor) -> None:
        super().__init__()
        self.centre = centre

    @property
    def dim(self) -> int:
        return self.centre.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64

    def forward(self, trajectory: Trajectory, factor: Tensor | None = None) -> Tensor:
        return as_latents(trajectory.states.double(), factor)


def learn(bridge: nn.Module, value: Callable[[], Tensor], parameters: Sequence[nn.Parameter]) -> None:
    """Minimise a cost over a bridge's few parameters, by L-BFGS: no seed, no learning rate.

    Args:
        bridge: whose parameters they are.
        value: the cost, a scalar, at their present values.
        parameters: changed in place, and frozen again.

    Raises:
        BadInput: if the cost is not finite at some point.
    """
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=_STEPS,
        tolerance_grad=_TOLERANCE,
        tolerance_change=_TOLERANCE,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimizer.zero_grad()
        loss = value()
        if not loss.isfinite():
            raise BadInput(
                f"the running cost of {type(bridge).__name__} became {loss.item()} while its parameters "
                "were learned: start them elsewhere, or learn fewer"
            )
        loss.backward()
        return float(loss.detach())

    before = [p.detach().clone() for p in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            optimizer.step(closure)
    except BaseException:
        with torch.no_grad():
            for parameter, old in zip(parameters, before, strict=True):
                parameter.copy_(old)
        raise
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None


def tell_of_bounds(bridge: Cost) -> None:
    """Warn of what a bridge has learned up to an end of its range."""
    for name, bound in at_bounds(bridge).items():
        logger.warning(
            "%s of %r was learned to %g, an end of its range: this text does not tell what it is",
            name,
            bridge.registered_name or type(bridge).__name__,
            bound,
        )
