"""The bridge in the directions between the labels alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bridges.errors import BadInput, is_number, shown
from bridges.latent.label_ends import LabelEnds
from bridges.latent.latent_map import Reader
from bridges.latent.trajectory import Trajectory
from bridges.processes.about_label import AboutLabel
from bridges.processes.constants import constant, middle_of
from bridges.processes.likelihood import normaliser

_MOST = 1e6


class Axis(AboutLabel, name="axis"):
    """A bridge's cost of the directions between the labels' end points; the rest stays where it was.

    With U the projection onto the span of the labels' contrasts ``v_k - mean(v)`` and c the mean
    guess of the frozen model, the path of the guesses about c is to be a bridge that ends at
    ``U (v_y - mean(v))``:

        mean over layers i of (|U r_i|^2 + rest |(1 - U) r_i|^2) / (2 s2(t_i))
        r_i = m(t_i) (p_i - c_i) - m(t_i) U (v_y - mean(v))

    What all words have in common, and what no label is about, are not asked for: a published cost spends
    most of its pull on them. Anchored at the mean guess, no label is nearer than another before tuning.
    A map that keeps no mean guess is anchored at the labels' own mean. A label with several words ends
    at the mean of theirs.

    Source: ours.

    Args:
        process: a Gaussian bridge, as in `bridges.parse`; see `AboutLabel`. A parameter has one value
            for all dimensions. With one that learns, the cost is the likelihood of the directions that
            count, normaliser included, and layers is "process".
        rest: weight of the other directions, which are drawn to the frozen mean guess; from 0, where
            they do not count, to 1e6.
        **options: ``layers``, ``until`` and ``since`` of `AboutLabel`.

    Raises:
        BadInput: as `AboutLabel`; for a process with a parameter for each dimension, or one that learns
            with ``layers="flat"``; for ``rest`` out of range.
    """

    formula = (
        "mean over layers of (|U r_i|^2 + rest |(1 - U) r_i|^2) / 2 s2(t_i),  "
        "r_i = m(t_i) (p_i - c_i - (v_y - mean v))"
    )
    purpose = (
        "About the label: a bridge in the directions between the labels' words alone, which leaves what"
        " the words have in common, and what no label is about, where it was. It is anchored where the "
        "frozen model is, so no label is nearer before tuning. `rest` draws the other directions to "
        "there."
    )

    def __init__(self, process: str = "brownian", rest: float = 0.0, **options: Any) -> None:
        super().__init__(process, **options)
        if not is_number(rest) or not 0 <= rest < _MOST:
            raise BadInput(f"rest={shown(rest)}: expected a number from 0, below {_MOST:g}")
        if self.inner.dims is not None:
            raise BadInput(
                f"process={shown(process)}: expected parameters that are the same in all dimensions; "
                "the directions between labels mix them"
            )
        if self.layers == "flat" and self.inner.learn:
            raise BadInput(
                f"layers='flat' takes no notice of what {shown(process)} learns of the layers: expected "
                "layers='process', or a process with learn=''"
            )
        self.rest = rest

    def _among(
        self, latent_map: Reader, trajectory: Trajectory, answers: Tensor, labels: LabelEnds
    ) -> Tensor:
        """Mean over the layers that count, for each token: [N]. 0 where there is but one label."""
        centre = latent_map.centre if latent_map.guesses else middle_of(labels)
        path = self._whitened(latent_map, trajectory, centre)
        # [C, d] about their mean, [r, d] orthonormal
        ends, basis = constant(
            labels,
            ("contrasts", path.value.dtype),
            lambda: tuple(x.to(path.value) for x in labels.contrasts()),
        )
        target = ends[answers]
        residual = path.value - path.mean[:, None] * target
        along = residual @ basis.T @ basis
        square, dims = along.square(), len(basis)
        if self.rest:
            square, dims = square + self.rest * (residual - along).square(), basis.shape[1]
        value = (square * path.precision[:, None]).sum((0, -1)) / (2 * len(path.value))
        if self.inner.learn:  # as in a bridge's own cost, of the directions that have a law
            factor = self.mean_factor(self.times(trajectory))[self.counted(len(trajectory.states))]
            guessed = factor if latent_map.guesses else None
            value = value + normaliser(1 / path.precision, dims, guessed)
        return value
