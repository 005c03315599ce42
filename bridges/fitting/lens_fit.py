"""Fitting lenses: one pass over text for all of them, then each layer's regression in closed form."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bridges.errors import BadInput
from bridges.fitting.adapting import damping
from bridges.fitting.fittable import Fittable
from bridges.fitting.learning import Guesses, learn
from bridges.fitting.ridge import Fit, ridge
from bridges.fitting.settings import FitResult, LayerFit, LensSettings
from bridges.fitting.statistics import Statistics
from bridges.fitting.text import FitText, ReadBatch
from bridges.latent.lens import Lens
from bridges.latent.trajectory import Trajectory
from bridges.progress import progress_bar
from bridges.storage.checkpoint import Snapshot
from bridges.storage.shapes import COUNT, Shape

logger = logging.getLogger(__name__)

AT_A_TIME = 512  # tokens whose distributions over the vocabulary are held
_FACTS: Shape = {"batches": COUNT}

Known = tuple[Trajectory, Tensor]
"""A batch's guesses in the place of its states, and its tokens."""


@dataclass
class LensFit:
    """Sums over text for costs with the same end points, and how far their reading has come.

    Attributes:
        costs: with a lens each.
        fitted: over the text that is fitted.
        held_out: over text that is not.
        snapshot: where the sums are kept while they are made.
        batches: how many are in `fitted`.
        log_prior: [V], how likely the head takes each word to be wherever it is asked; None where it is
            not.
    """

    costs: Sequence[Fittable]
    fitted: Statistics
    held_out: Statistics
    snapshot: Snapshot | None
    batches: int = 0
    log_prior: Tensor | None = None

    @classmethod
    def of(cls, costs: Sequence[Fittable], snapshot: Snapshot | None = None) -> LensFit:
        """Before any text is read, or as far as the snapshot is."""
        layers, dim, width = lens_of(costs[0]).weight.shape
        fitted, held_out = (Statistics.zeros(layers, width, dim) for _ in range(2))
        fit = cls(costs, fitted, held_out, snapshot)
        if snapshot is not None and (loaded := snapshot.load()) is not None:
            tensors, facts = loaded
            with snapshot.refusing_misfit(facts, _FACTS):
                fit.fitted += Statistics.from_tensors(tensors)
                fit.batches = facts["batches"]
                logger.info("going on from batch %d", fit.batches)
        return fit

    def save(self) -> None:
        """Keep the sums, where there is a place for them."""
        if self.snapshot is not None:
            self.snapshot.save(self.fitted.tensors, {"batches": self.batches})

    def take(self, sums: Statistics, reading: ReadBatch) -> None:
        """A batch's tokens into sums."""
        trajectory, answers = read(self.costs[0], reading)
        sums.add(trajectory.states, self._ends(reading, answers))

    def _ends(self, reading: ReadBatch, answers: Tensor) -> Tensor:
        """What each token's states are regressed on, [N, d]."""
        end_points = self.costs[0].end_points
        if reading.logits is None:
            return self._of_words(answers)
        assert self.log_prior is not None
        vectors = end_points.vectors.float()  # those of a cost in half precision too
        each = [
            torch.softmax(logits.float() - self.log_prior, -1) @ vectors
            for logits in reading.logits.split(AT_A_TIME)
        ]
        return torch.cat(each) if each else self._of_words(answers)

    def _of_words(self, answers: Tensor) -> Tensor:
        ends: Tensor = self.costs[0].end_points(answers)
        return ends

    def finish(
        self, text: FitText, settings: LensSettings, *, progress: bool = False
    ) -> list[FitResult]:
        """Put the regressions into the lenses, let the bridges learn; what was done, for each cost."""
        layers = solve(self.fitted, self.held_out, strength=settings.ridge, progress=progress)
        for cost in self.costs:
            put(lens_of(cost), layers, self.fitted)
        held_out = text.held_out("check", progress=progress)
        readings = [_known(self.costs[0], reading) for reading in held_out]
        return [self._result(cost, readings, layers) for cost in self.costs]

    def _result(self, cost: Fittable, readings: Sequence[Known], layers: Sequence[Fit]) -> FitResult:
        def value() -> Tensor:
            return _held_out_cost(cost, readings)

        if parameters := list(cost.bridge.parameters()):
            learn(cost.bridge, value, parameters)
        with torch.no_grad():
            found = float(value())
        if not math.isfinite(found):
            raise BadInput(
                f"the running cost of {cost.bridge.registered_name!r} is {found} on held-out text: "
                "check the model on the text"
            )
        return FitResult(
            steps=self.batches,
            best_step=self.batches,
            held_out=((self.batches, found),),
            training=(),
            stopped_early=False,
            layers=tuple(LayerFit(layer.r2, layer.strength) for layer in layers),
        )


def solve(
    fitted: Statistics, held_out: Statistics, *, strength: float | None = None, progress: bool = False
) -> list[Fit]:
    """Every layer's regression.

    Raises:
        BadInput: for sums over too few tokens.
    """
    if fitted.count < 2 or held_out.count < 1:
        raise BadInput(
            f"the text has {fitted.count} targets to fit a lens on and {held_out.count} to choose its "
            "strength by: give more text"
        )
    layers = progress_bar(range(len(fitted.gram)), desc="solve", unit="layer", shown=progress)
    return [ridge(fitted, held_out, layer, strength) for layer in layers]


def put(lens: Lens, layers: Sequence[Fit], fitted: Statistics) -> None:
    """Regressions into a lens."""
    with torch.no_grad():
        lens.weight.copy_(torch.stack([layer.weight for layer in layers]))
        lens.bias.copy_(torch.stack([layer.bias for layer in layers]))
        # With a free bias the mean guess on the text that was fitted is the mean end point.
        lens.centre.copy_(fitted.cross[:, -1] / fitted.count)
        lens.damped.copy_(damping(fitted.covariance(), lens.damped.shape[-1]))


def lens_of(cost: Fittable) -> Lens:
    """The lens of a cost that has one."""
    lens = cost.latent_map
    assert isinstance(lens, Lens)
    return lens


def read(cost: Fittable, reading: ReadBatch) -> tuple[Trajectory, Tensor]:
    """The trajectories of a batch's targets, and their tokens."""
    return cost.trajectory(reading.hidden_states, reading.targets, reading.attention_mask)


def _known(cost: Fittable, reading: ReadBatch) -> Known:
    trajectory, answers = read(cost, reading)
    with torch.no_grad():
        guesses = lens_of(cost)(trajectory)
    return Trajectory(guesses, guesses[:, :0], trajectory.rows), answers


def _held_out_cost(cost: Fittable, readings: Sequence[Known]) -> Tensor:
    """Mean over tokens."""
    reader = Guesses(lens_of(cost).centre)
    total = torch.zeros((), dtype=torch.float64)
    count = 0
    for trajectory, answers in readings:
        rng = torch.Generator().manual_seed(0)
        values = cost.of_trajectory(trajectory, answers, reader=reader, generator=rng)
        total = total + values.double().sum().cpu()
        count += len(answers)
    return total / max(1, count)
