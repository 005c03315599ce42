"""A running cost's lens adapted to a task, by a model's states of its few labelled examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from bridges import BadInput, RunningCost, Trajectory
from bridges.model.spec import pretrained_model
from bridges.model.undisturbed import undisturbed
from pets.plug.refusals import check_cost, checked_batches
from pets.plug.regularize import regularize
from pets.plug.watching import Watching
from pets.tasks.verbalizer import Verbalizer


def adapt(
    cost: RunningCost,
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    *,
    verbalizer: Verbalizer | None = None,
) -> RunningCost:
    """A cost for a task: its lens has also learned from labelled examples, in closed form.

    A lens is made from text and never saw the task; a few examples of each label are enough for it to
    read as much as a linear probe does. Of those examples it knows the labels already, so on them a cost
    like "posterior" is small at first and pulls little: where there are enough, adapt to some of the
    training examples and tune on all. The model reads them once, in eval mode and without gradients,
    and is left as it was.

    Args:
        cost: with a lens, made for this model; left as it is.
        model: as for `pets.regularize`, before it is tuned.
        batches: what the model is called with, labels among it; of training examples alone, or what is
            reported later was seen here.
        verbalizer: words of the labels, as for `pets.regularize`.

    Returns:
        Another cost, of the same bridge.

    Raises:
        BadInput: for a cost without a lens, labels that are tokens of their own, no examples, fewer than
            two of a label, or thousands in all; and as `pets.regularize`.
    """
    check_cost(cost)
    _ = cost.lens  # before the model runs
    pretrained_model(model)  # is one at all
    watching = Watching(cost)
    with (
        undisturbed(model),
        regularize(model, watching, verbalizer=verbalizer, in_eval=True),
        torch.no_grad(),
    ):
        for batch in checked_batches(batches):
            model(**batch)
    if not watching.answers:
        raise BadInput("there are no labelled examples to adapt to: give two or more of each label")
    if watching.labels is None:
        raise BadInput(
            "labels are tokens here, each of which ends at itself: give a verbalizer with the words of "
            "the labels to adapt to"
        )
    states, answers = torch.cat(watching.states, 1), torch.cat(watching.answers)
    return cost.adapted(Trajectory.of_states(states), answers, watching.labels)
