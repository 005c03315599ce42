"""The tries of a cell, and the looks at the selection split while one was tuned."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Numbers = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Look:
    """A look at the selection split while a try was tuned.

    Attributes:
        step: optimiser steps taken.
        loss, running_cost: means since the look before; None at the first, or without a cost.
        dev: metrics.
        dev_loss: mean task loss.
    """

    step: int
    loss: float | None = None
    running_cost: float | None = None
    dev: Numbers
    dev_loss: float


@dataclass(frozen=True, kw_only=True)
class Try:
    """A tuned PET, one of those that a cell selects from.

    Attributes:
        strength: of the arm's cost or regularizer; None of vanilla.
        weight: with which that was in the loss at first: the strength itself, but for ratios.
        restart: its number in the cell.
        dev, dev_loss, best_step: of the look that was best, where the PET was kept.
        running_cost: that of the last look.
        curves: all looks.
    """

    strength: float | None
    weight: float | None = None
    restart: int
    dev: Numbers
    dev_loss: float | None = None
    best_step: int | None = None
    running_cost: float | None = None
    curves: tuple[Look, ...]

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Try:
        """From its JSON; fields that are not known here are left out."""
        looks = tuple(Look(**known_fields(Look, look)) for look in record["curves"])
        return cls(**known_fields(cls, record) | {"curves": looks})


def known_fields(kind: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    """Of an object the fields that a dataclass has."""
    return {f.name: record[f.name] for f in dataclasses.fields(kind) if f.name in record}
