"""What a model's loss is a mean over: the targets of a batch, or a number that it is given."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bridges.errors import BadInput
from pets.plug.calls import Call, random_kept

logger = logging.getLogger(__name__)

_ITEMS = "num_items_in_batch"
LABELS = ("labels", "shift_labels")
"""The arguments of a model that hold its targets."""
OF_LOSSES = (*LABELS, _ITEMS)
"""The arguments of a model that its loss is made of."""
_PATIENCE = 100


class LossScale:
    """Brings the running cost of a batch to the scale of the task's loss.

    Transformers' Trainer, where it accumulates gradients, gives a model the number of targets in all
    accumulated batches. A model divides the sum of its targets' losses by it; many others take the
    number and return a mean all the same. Which one it is, the model is asked: once, with twice the
    number.

    Args:
        owner: the regularizer, in whose calls no cost is added while the model is asked.
    """

    def __init__(self, owner: object) -> None:
        self._owner = owner
        self._divides: bool | None = None
        self._warned = False
        self._without_target: int | None = 0  # training batches so far; None once one had a target

    def divides(
        self, device: torch.device, forward: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]
    ) -> bool:
        """Whether the loss of a forward is part of a sum over the batches of a step.

        Asked whatever the batch holds: where weights are sharded, all processes have to run.

        Args:
            device: of the loss.
            forward: the model's own, as it was called with ``args`` and ``kwargs``.
        """
        return kwargs.get(_ITEMS) is not None and self._divided(device, forward, args, kwargs)

    @staticmethod
    def scaled(costs: Tensor, kwargs: Mapping[str, Any], *, divided: bool) -> Tensor:
        """The targets' costs [N] as one number, 0 where there is none."""
        if not len(costs):
            return costs.sum()
        # A sum, whose gradient is the same number for each: costs that are replayed look for that. That
        # of many costs in half precision would be beyond its numbers.
        if not divided:
            total = costs.sum(dtype=torch.promote_types(costs.dtype, torch.float32))
            return (total / len(costs)).to(costs.dtype)
        # Under nn.DataParallel it is a vector of one.
        return costs.sum() / torch.as_tensor(kwargs[_ITEMS], device=costs.device).reshape(-1)[0]

    def note(self, *, has_target: bool, training: bool) -> None:
        """Count the batches without a target.

        Raises:
            BadInput: where none of the first hundred in training has one.
        """
        if has_target:
            self._without_target = None
            return
        if not self._warned:
            self._warned = True
            logger.warning(
                "a batch has no target, for every label is -100: its running cost is 0 (said once)"
            )
        if not training or self._without_target is None:
            return
        self._without_target += 1
        if self._without_target >= _PATIENCE:
            raise BadInput(
                f"none of the first {_PATIENCE} batches has a target, every label is -100: look at what "
                "makes the labels (a response template that is never found, answers that are cut off)"
            )

    def _divided(
        self, device: torch.device, forward: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]
    ) -> bool:
        if kwargs.get("past_key_values") is not None:
            return self._divides is not False  # not asked: another forward would make the cache longer
        if self._divides is None:
            losses = []
            for factor in (1, 2):
                told = {**kwargs, _ITEMS: 8 * factor}
                if isinstance(kwargs[_ITEMS], Tensor):
                    told[_ITEMS] = torch.full_like(kwargs[_ITEMS], 8 * factor)
                for name in kwargs.keys() & LABELS:
                    told[name] = kwargs[name].clamp(min=0)  # a target everywhere: there is a loss
                with Call(self._owner).entered(), torch.no_grad(), random_kept(device):
                    torch.manual_seed(0)
                    losses.append(float(forward(*args, **told)["loss"]))
            if not all(map(math.isfinite, losses)):
                return True  # asked again at the next batch
            # Half of it, or the same; part of it may be a loss of another kind.
            self._divides = abs(losses[1] - losses[0]) > 1e-3 * abs(losses[0])
            if not self._divides:
                logger.warning(
                    "the model takes num_items_in_batch and does not divide its loss by it, with or "
                    "without a cost: where the Trainer accumulates gradients over N batches these, and "
                    "the loss in its logs, are N times the mean. There is nothing to do but to know it"
                )
        return self._divides
