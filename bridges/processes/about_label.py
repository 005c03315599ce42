"""What costs about the label have in common: the evidence of each layer for each word it might be."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bridges.errors import BadInput, check_name, is_number, shown
from bridges.latent.label_ends import LabelEnds
from bridges.latent.latent_map import Layers, Reader
from bridges.latent.lens import Lens
from bridges.latent.trajectory import Times, Trajectory
from bridges.processes.base import Cost
from bridges.processes.constants import constant
from bridges.processes.evidence import Evidence
from bridges.processes.likelihood import Joint, Steps, Whitened, latents
from bridges.processes.snapshot import tensor_state
from bridges.processes.wrapped import parse_gaussian

LAYERS = ("process", "flat", "exit")


@dataclass(frozen=True)
class _Fixed:
    """What the states have no part in.

    Attributes:
        factor: mean factors of all layers.
        at: of those up to the last that counts, [l, 1] or [l, d], on the clock that is asked for.
        law: of these; None where all count the same.
        weight: then that of each, [1] or [d].
    """

    factor: Tensor
    at: Tensor
    law: Steps | Joint | None
    weight: Tensor | None


class AboutLabel(Cost):
    """A cost of what the states say about the label among others, under a Gaussian bridge.

    Of targets that are tokens the others are the other words of the batch, each of them once; with one
    word there are none, and the cost is that of one label.

    Args:
        process: a Gaussian bridge, as in `bridges.parse`: "brownian", "ou:theta=2,likelihood=path".
        layers: "process" leaves each layer the weight that the bridge gives it; "flat" gives all that
            count the same, the mean of theirs, where the layer's latent is m p and w |p - v|^2 its cost.
            Only of layers that count by themselves, ``likelihood=marginal``; and through the latent map,
            whose p is z / m, only of a process that is not next to nothing in the first layers. "exit"
            lets the process arrive at the label right behind the last layer that counts, as it would
            in a model that ended there: for the layer at which rows are to leave, see
            `pets.AnytimeClassifier`.
        until: the share of the layers that count, above 0, to 1, the last ones being left out: there
            cross-entropy acts already.
        since: the share of the layers, from 0, below ``until``, of which none counts: the first ones.
            Only of layers that count by themselves.

    Raises:
        BadInput: for a process that is no Gaussian bridge, or numbers out of range.
    """

    contrasts = True
    graphs = True

    def __init__(
        self,
        process: str = "brownian",
        layers: str = "process",
        until: float = 1.0,
        since: float = 0.0,
    ) -> None:
        super().__init__()
        bridge = parse_gaussian("process", process)
        check_name("layers", layers, LAYERS)
        if not is_number(until) or not 0 < until <= 1:
            raise BadInput(f"until={shown(until)}: expected a share of the layers, above 0, to 1")
        if not is_number(since) or not 0 <= since < until:
            raise BadInput(
                f"since={shown(since)}: expected a share of the layers, from 0, below until={until}"
            )
        apart = "layers='flat'" if layers == "flat" else f"since={since}" if since else ""
        if apart and bridge.likelihood != "marginal":
            raise BadInput(
                f"{apart}: expected a process with likelihood=marginal; in the law of a whole path no "
                "layer counts by itself"
            )
        self.process = process
        self.layers = layers
        self.until = until
        self.since = since
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
        fixed = self._fixed(latent_map, trajectory)
        if self.layers == "process":
            latent = latents(latent_map, trajectory, fixed.factor)
        else:  # what the reader guesses, on a clock or with weights that it does not know of
            latent = self._guesses(latent_map, trajectory, fixed.factor)
        counted = self.counted(len(latent))
        value = _part(latent, slice(0, counted.stop))
        flat = self.layers == "flat"

        def shift() -> Tensor:
            of_layers = about.double().expand(len(latent), -1)[: counted.stop]
            return (of_layers if flat else fixed.at * of_layers).to(value)[:, None]

        key = "shift", trajectory.clock, value.dtype, tensor_state(about)
        shifted = shift() if key[-1] is None else constant(self, key, shift)
        if flat:
            value = _part(value - shifted, counted)
            assert fixed.weight is not None
            weight = fixed.weight.to(value).expand(len(value), -1)
            return Whitened(value, value.new_ones(len(value), 1), weight)
        if self.layers == "exit":
            value = value * fixed.at.to(value)[:, None]
        shifted = value - shifted
        if fixed.law is None:
            path = self.inner.whitened(shifted, self._clock(trajectory).tensor())
        else:
            path = fixed.law.whiten(shifted)
        return Whitened(*(_part(x, counted) for x in (path.value, path.mean, path.precision)))

    def _fixed(self, latent_map: Reader, trajectory: Trajectory) -> _Fixed:
        """What the states have no part in."""
        every, times = trajectory.clock, self._clock(trajectory)
        dim = latent_map.dim

        def make() -> _Fixed:
            factor, t = self.mean_factor(every.tensor()), times.tensor()
            at = self.mean_factor(t).reshape(len(t), -1)
            if self.layers != "flat":
                return _Fixed(factor, at, self.inner.law(t, dim) if self.inner.whitens else None, None)
            counted = self.counted(every.states)
            of_counted, variance = (x.reshape(len(x), -1) for x in self.inner.marginal(t[counted]))
            weight = (of_counted.square() / variance).mean(0)
            return _Fixed(factor, at, None, weight)

        return constant(self, ("fixed", every, dim), make)

    def _guesses(self, latent_map: Reader, trajectory: Trajectory, factor: Tensor) -> Tensor:
        """Of the end point, [L, N, d]: what a lens reads, and a latent over the mean factor."""
        if latent_map.guesses:  # as they are: m of a process that turns to v late is next to nothing
            return latents(latent_map, trajectory, None)
        latent = latents(latent_map, trajectory, factor)
        return (latent.double() / factor.reshape(len(factor), -1)[:, None]).to(latent)

    def counted(self, states: int) -> slice:
        """Which of so many states count, one at least."""
        stop = max(1, round(self.until * states))
        return slice(min(round(self.since * states), stop - 1), stop)

    def times(self, trajectory: Trajectory) -> Tensor:
        """Of the states up to the last that counts, on the clock that is asked for."""
        return self._clock(trajectory).tensor()

    def _clock(self, trajectory: Trajectory) -> Times:
        every = trajectory.clock
        stop = self.counted(every.states).stop
        return Times(stop, stop if self.layers == "exit" else every.states, every.device)


def _part(x: Tensor, which: slice) -> Tensor:
    """Some of the layers; of all of them what it is."""
    return x if (which.start, which.stop) == (0, len(x)) else x[which]
