"""A batch whose rows leave one after another, each with its answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from pets.anytime.exits import Exits
from pets.anytime.places import Columns


@dataclass
class AnytimeOutput(ModelOutput):  # type: ignore[misc]
    """Output of `AnytimeClassifier`.

    Attributes:
        labels: int64 [B], class indices.
        probabilities: float32 [B, C], among the labels.
        layers: int64 [B], the layer at which each row left; L where it went through all.
    """

    labels: Tensor | None = None
    probabilities: Tensor | None = None
    layers: Tensor | None = None


class Leaving:
    """One batch on its way through the layers.

    Args:
        exits: that its rows may leave at.
        columns: where its labels are told.
        count: its rows.
        threshold, together: see `pets.AnytimeClassifier`.

    Attributes:
        staying: the rows that have not left.
    """

    def __init__(
        self, exits: Exits, columns: Columns, count: int, *, threshold: float, together: bool
    ) -> None:
        self._exits, self._columns = exits, columns
        self._threshold, self._together = threshold, together
        self.staying = torch.arange(count)
        self._states: dict[int, Tensor] = {}
        self._at: Tensor | None = None
        self._left: list[tuple[Tensor, Tensor, int]] = []

    def visit(self, layer: int, states: Tensor, rows: Tensor) -> Tensor | None:
        """Let the rows leave that a layer is sure of; see `pets.anytime.stack.Visit`."""
        if layer not in self._exits.layers and layer not in self._exits.reads:
            return None
        if self._at is None:  # once for all layers: to look whether it is padding makes a GPU wait
            self._at = self._columns(states.shape[1]).to(states.device)
        at = self._at.to(states.device)[rows]
        self._states[layer] = states[torch.arange(len(rows), device=rows.device), at]
        if layer not in self._exits.layers:
            return None
        probabilities = self._exits.on(layer, states.device)(self._states).exp()
        sure = probabilities.amax(1) >= self._threshold
        if self._together:
            sure = sure.all().expand_as(sure)
        if not sure.any():
            return None
        self.leave(layer, rows[sure], probabilities[sure])
        stay = (~sure).nonzero().flatten()
        self.staying = rows[stay]
        self._states = {k: x[stay] for k, x in self._states.items()}
        return stay

    def leave(self, layer: int, rows: Tensor, probabilities: Tensor) -> None:
        """Some rows have their answers [n, C], from a layer."""
        self._left.append((rows, probabilities, layer))

    def output(self) -> AnytimeOutput:
        """The answers of all rows, once all have left."""
        device = self._left[0][1].device
        rows = torch.cat([rows.to(device) for rows, _, _ in self._left])
        found = torch.cat([p.to(device) for _, p, _ in self._left])[rows.argsort()]
        layers = torch.cat([torch.full((len(r),), layer, device=device) for r, _, layer in self._left])
        return AnytimeOutput(labels=found.argmax(1), probabilities=found, layers=layers[rows.argsort()])
