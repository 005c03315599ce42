"""The bridge in the directions between the labels alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bridges.errors import BadInput, is_number, shown
from bridges.latent.label_ends import LabelEnds
from bridges.latent.latent_map import Reader
from bridges.latent.lens import Lens
from bridges.latent.trajectory import Trajectory
from bridges.processes.about_label import AboutLabel


class Axis(AboutLabel, name="axis"):
    r"""A bridge's cost of the directions between the labels' end points; the rest stays where it was.

    With U the projection onto the span of the labels' contrasts :math:`v_c - \bar v` and c the mean
    guess of the frozen model, the path of the guesses about c is to be a bridge that ends at
    :math:`U (v_y - \bar v)`:

    .. math:: \frac1L \sum_i \frac{|U r_i|^2 + \text{rest} \, |(1 - U) r_i|^2}{2 s^2(t_i)}, \qquad
              r_i = m(t_i) \, (p_i - c_i) - m(t_i) \, U (v_y - \bar v)

    What all words have in common, and what no label is about, are not asked for: a published cost spends
    most of its pull on them. Anchored at the mean guess, no label is nearer than another before tuning.
    A map that keeps no mean guess is anchored at the labels' own mean.

    Source: ours.

    Args:
        process, layers, until: see `AboutLabel`.
        rest: weight of the other directions, which are drawn to the frozen mean guess; 0 or more.
    """

    formula = (
        "mean over layers of (|U r_i|^2 + rest |(1 - U) r_i|^2) / 2 s2(t_i),  "
        "r_i = m(t_i) (p_i - c_i - (v_y - mean v))"
    )

    def __init__(self, process: str = "brownian", rest: float = 0.0, **options: Any) -> None:
        super().__init__(process, **options)
        if not is_number(rest) or not 0 <= rest < 1e6:
            raise BadInput(f"rest={shown(rest)}: expected a number, 0 or more")
        self.rest = rest

    def of_labels(
        self,
        latent_map: Reader,
        trajectory: Trajectory,
        answers: Tensor,
        labels: LabelEnds,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Mean over the layers that count, for each token: [N]. 0 where there is but one label."""
        ends, basis = labels.contrasts()  # [C, d] about their mean, [r, d] orthonormal
        if isinstance(latent_map, Lens):
            centre = latent_map.centre
        else:
            centre = labels.means().mean(0).expand(len(trajectory.states), -1)
        path = self._whitened(latent_map, trajectory, centre)
        basis, target = basis.to(path.value), ends.to(path.value)[answers]
        residual = path.value - path.mean[:, None] * target
        along = residual @ basis.T @ basis
        weights = path.precision[:, None]
        square = (along.square() * weights).sum((0, -1))
        if self.rest:
            square = square + self.rest * ((residual - along).square() * weights).sum((0, -1))
        value = square / (2 * len(path.value))
        if self.inner.learn:  # as in a bridge's own cost, here of the directions that have a law
            value = value - len(basis) * path.precision.log().mean() / 2
        return value.to(latent_map.dtype)
