"""What a reader can see at all: how much of what tells a text's words apart its end points keep."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from bridges.fitting.fittable import Fittable
from bridges.latent.end_points import EndPoints, centred, contrasts_kept, principal_axes
from bridges.model.spec import pretrained_model
from bridges.model.vocabulary import predicting_table
from bridges.model.weights import unsharded

COMMON = 500
"""So many of a text's most frequent tokens stand for all."""

_DIGITS = 4  # of a share: the last ones of the axes depend on the number of threads


def shares_kept(costs: Sequence[Fittable], model: nn.Module, tokens: Tensor) -> list[float]:
    """For each cost the share of the contrasts between words that is left on its d axes.

    Args:
        costs: of one model.
        model: theirs.
        tokens: ids of the words.
    """
    with unsharded(plm := pretrained_model(model)):
        table = predicting_table(plm)
        words = table[tokens.to(table.device)].detach().cpu()
        axes = [_axes(cost.end_points, table) for cost in costs]
    return [round(contrasts_kept(words, each), _DIGITS) for each in axes]


def _axes(end_points: EndPoints, table: Tensor) -> Tensor:
    """Those of the end points; a cost that was loaded, or made for another head, has none of them."""
    if end_points.axes is not None and len(end_points.axes) == table.shape[1]:
        return end_points.axes
    return principal_axes(centred(table), end_points.vectors.shape[1])[1]
