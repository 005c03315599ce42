"""What costs about the label have in common: the evidence of each layer for each word it might be."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from bridges.errors import BadInput, check_name, is_number, shown
from bridges.latent.label_ends import LabelEnds
from bridges.latent.latent_map import Layers, Reader
from bridges.latent.lens import Lens
from bridges.latent.trajectory import Trajectory
from bridges.processes.base import Cost
from bridges.processes.evidence import Evidence
from bridges.processes.likelihood import Whitened, latents
from bridges.processes.wrapped import parse_gaussian

LAYERS = ("process", "flat")


class AboutLabel(Cost):
    """A cost of what the states say about the label among others, under a Gaussian bridge.

    Of targets that are tokens the others are the other words of the batch, each of them once; with one
    word there are none, and the cost is that of one label.

    Args:
        process: a Gaussian bridge, as in `bridges.parse`: "brownian", "ou:theta=2,likelihood=path".
        layers: "process" leaves each layer the weight that the bridge gives it; "flat" gives all that
            count the same, the mean of theirs, where the layer's latent is m p and w |p - v|^2 its cost.
            Only of layers that count by themselves, ``likelihood=marginal``; and through the latent map,
            whose p is z / m, only of a process that is not next to nothing in the first layers.
        until: the share of the layers that count, above 0, to 1, the last ones being left out: there
            cross-entropy acts already.

    Raises:
        BadInput: for a process that is no Gaussian bridge, or numbers out of range.
    """

    contrasts = True

    def __init__(self, process: str = "brownian", layers: str = "process", until: float = 1.0) -> None:
        super().__init__()
        bridge = parse_gaussian("process", process)
        check_name("layers", layers, LAYERS)
        if layers == "flat" and bridge.likelihood != "marginal":
            raise BadInput(
                "layers='flat': expected a process with likelihood=marginal; in the law of a whole path "
                "no layer counts by itself"
            )
        if not is_number(until) or not 0 < until <= 1:
            raise BadInput(f"until={shown(until)}: expected a share of the layers, above 0, to 1")
        self.process = process
        self.layers = layers
        self.until = until
        self.inner = bridge

    def make_map(self, hidden_size: int, widths: Any) -> Layers:
        return self.inner.make_map(hidden_size, widths)

    def make_lens(self, num_states: int, hidden_size: int, dim: int) -> Lens:
        return self.inner.make_lens(num_states, hidden_size, dim)

    def mean_factor(self, t: Tensor) -> Tensor:
        return self.inner.mean_factor(t)

    def evidence(self, t: Tensor) -> Evidence:
        return self.inner.evidence(t)

    def cost(
        self,
        latent_map: Reader,
        trajectory: Trajectory,
        end: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The cost among the end points of the batch: [N], or [K, N] where each row of K is a batch."""
        if end.dim() == 3:
            return torch.stack([self.cost(latent_map, trajectory, v) for v in end])
        vectors, answers = end.unique(dim=0, return_inverse=True)
        labels = LabelEnds(vectors[:, None], vectors.new_zeros(len(vectors), 1))
        return self.of_labels(latent_map, trajectory, answers, labels)

    def of_labels(
        self,
        latent_map: Reader,
        trajectory: Trajectory,
        answers: Tensor,
        labels: LabelEnds,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        with torch.autocast(trajectory.states.device.type, enabled=False):
            value = self._among(latent_map, trajectory, answers, labels)
        return value.to(latent_map.dtype)

    @abstractmethod
    def _among(
        self, latent_map: Reader, trajectory: Trajectory, answers: Tensor, labels: LabelEnds
    ) -> Tensor:
        """`of_labels`, in the dtype of `_whitened`."""

    def _whitened(self, latent_map: Reader, trajectory: Trajectory, about: Tensor) -> Whitened:
        """The layers that count, made independent of each other, with the weights that are asked for.

        In float32 at least, or in float64 where the whitening needs it.

        Args:
            latent_map: reads the states.
            trajectory: of N tokens.
            about: [L, d] or [1, d], taken off what each layer tells of the end point.
        """
        t = trajectory.times()
        if self.layers == "flat":
            return self._flat(latent_map, trajectory, about)
        factor = self.mean_factor(t)
        latent = latents(latent_map, trajectory, factor)
        offset = factor.reshape(len(t), -1) * about.double()
        path = self.inner.whitened(latent - offset.to(latent)[:, None], t)
        count = self.counting(len(t))
        return Whitened(path.value[:count], path.mean[:count], path.precision[:count])

    def _flat(self, latent_map: Reader, trajectory: Trajectory, about: Tensor) -> Whitened:
        factor, variance = (x.reshape(len(x), -1) for x in self.inner.marginal(trajectory.times()))
        if latent_map.guesses:  # as they are: m of a process that turns to v late is next to nothing
            guess = latents(latent_map, trajectory, None)
        else:
            latent = latents(latent_map, trajectory, factor)
            guess = (latent.double() / factor[:, None]).to(latent)
        count = self.counting(len(factor))
        value = (guess - about.to(guess).unsqueeze(1))[:count]
        weight = (factor.square() / variance)[:count].mean(0).to(value)
        return Whitened(value, value.new_ones(count, 1), weight.expand(count, -1))

    def counting(self, states: int) -> int:
        """How many of so many states count, one at least."""
        return max(1, round(self.until * states))
