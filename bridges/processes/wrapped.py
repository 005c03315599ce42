"""A process made of a Gaussian one, which its constructor names by a text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bridges.errors import BadInput, shown
from bridges.latent.latent_map import Layers
from bridges.latent.lens import Lens
from bridges.latent.trajectory import Trajectory
from bridges.processes.base import Process, catalogue
from bridges.processes.gaussian import GaussianBridge


class Wrapped(Process):
    """A process around a Gaussian bridge: what a subclass does not say itself is said by that one.

    Args:
        process: the bridge inside.
    """

    def __init__(self, process: GaussianBridge) -> None:
        super().__init__()
        self.process = process

    def verify(self, times: Tensor) -> None:
        super().verify(times)
        self.process.verify(times)

    @property
    def joint(self) -> bool:
        return self.process.joint

    def mean(self, t: Tensor, end: Tensor) -> Tensor:
        return self.process.mean(t, end)

    def variance(self, t: Tensor) -> Tensor:
        return self.process.variance(t)

    def sample(self, t: Tensor, end: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return self.process.sample(t, end, generator=generator)

    def log_prob(self, z: Tensor, t: Tensor, end: Tensor) -> Tensor:
        return self.process.log_prob(z, t, end)

    def terms(self, trajectory: Trajectory) -> int:
        return self.process.terms(trajectory)

    def make_map(self, hidden_size: int, widths: Sequence[int]) -> Layers:
        return self.process.make_map(hidden_size, widths)

    def make_lens(self, num_states: int, hidden_size: int, dim: int) -> Lens:
        return self.process.make_lens(num_states, hidden_size, dim)

    def mean_factor(self, t: Tensor) -> Tensor:
        return self.process.mean_factor(t)


def parse_gaussian(argument: str, text: str) -> GaussianBridge:
    """The Gaussian bridge that a constructor's argument names, as in `bridges.parse`.

    Raises:
        BadInput: as `bridges.parse`, and for any other bridge.
    """
    process = catalogue.parse(text)
    if not isinstance(process, GaussianBridge):
        raise BadInput(
            f"{argument}={shown(text)}: expected a Gaussian bridge; for example 'brownian' or 'ou'"
        )
    return process
