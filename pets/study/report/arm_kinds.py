"""Sorts the arms of a comparison into what they are: bridges, their controls, other regularizers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import bridges
from pets.study.cells.arms import VANILLA

BRIDGE, CONTROL, REGULARIZER = "bridges", "controls", "other regularizers"
KINDS = (VANILLA, BRIDGE, CONTROL, REGULARIZER)


def kind_of(row: Mapping[str, Any]) -> str:
    """What the arm of a row is, one of `KINDS`.

    A control is a bridge's cost without its fitted map or proper end points, or a cost that is no
    process at all. A bridge that is not registered here counts as one.
    """
    if row["bridge"] is None:
        return VANILLA if row["arm"] == VANILLA else REGULARIZER
    name = row["bridge"].get("name")
    is_control = name in bridges.available() and issubclass(bridges.info(name).cls, bridges.Control)
    return CONTROL if row["control"] or is_control else BRIDGE


def arm_kinds(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Arm -> kind: vanilla first, then bridges, controls, regularizers, each in the rows' order."""
    found = {row["arm"]: kind_of(row) for row in rows}
    return dict(sorted(found.items(), key=lambda item: KINDS.index(item[1])))


def panel_kinds(kinds: Mapping[str, str]) -> list[str]:
    """The kinds of arm that have panels of their own; vanilla is drawn in each, or alone."""
    return [kind for kind in KINDS[1:] if kind in kinds.values()] or [VANILLA]
