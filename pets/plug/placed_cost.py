"""A running cost where the states are: what a forward left behind, read by it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bridges import RunningCost
from bridges.errors import BadInput
from pets.plug.calls import Call, check_padding, layout_of, unshifted
from pets.plug.labels import TokenTargets

_copying = threading.Lock()


class PlacedCost:
    """A cost and the targets that it reads.

    Args:
        cost: moves to the device of the first states; replicas on further devices have copies.
        targets: what the labels of the model are to it.
    """

    def __init__(self, cost: RunningCost, targets: TokenTargets) -> None:
        self._cost, self._targets = cost, targets
        self._device: torch.device | None = None
        self._elsewhere: dict[torch.device, RunningCost] = {}

    def costs(self, call: Call, given: Mapping[str, Any], logits: Any) -> Tensor:
        """The cost of each target token of a forward, [N].

        Args:
            call: the forward, with its states.
            given: what the model was called with, by name; labels among it.
            logits: what it returned.

        Raises:
            BadInput: for labels that do not fit, or where it cannot be told what belongs together.
        """
        assert call.hidden is not None
        hidden, told, made = call.hidden, call.told.by_name(), self._targets
        length, device = hidden[0].shape[1], hidden[0].device
        check_padding(call.told.module, told)
        of_decoder = call.of_decoder and not made.in_place
        layout = layout_of(hidden[0], {**given, **told}, of_decoder=of_decoder)
        if layout.documents is not None and made.dimensions == 1:
            raise BadInput(
                "several documents are packed into a row that has one label: a running cost cannot tell "
                "whose it is; give every document a row of its own"
            )
        labels = given["labels"].to(device)
        shifted = given.get("shift_labels")
        if shifted is not None and self._cost.spec.causal and not made.in_place:
            labels = unshifted(shifted.to(device))
        targets = made(labels, length, told.get("input_ids"), layout.mask)
        made.check_head(targets, logits, hidden[-1] if call.last is None else call.last)
        return self._on(device).costs(
            hidden,
            targets,
            labels=None if made.ends is None else made.ends.to(device),
            in_place=made.in_place,
            layout=layout,
        )

    def _on(self, device: torch.device) -> RunningCost:
        with _copying:
            if self._device is None:
                self._cost.to(device)
                self._device = device
            if self._device == device:
                return self._cost
            if device not in self._elsewhere:
                self._elsewhere[device] = copy.deepcopy(self._cost).to(device)
            return self._elsewhere[device]
