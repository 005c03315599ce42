"""The arm of a comparison whose lens learns from the training examples."""

from __future__ import annotations

import pytest

from bridges import BadInput
from pets.study.cells.arms import BRIDGE, CONTROL, Arm
from pets.study.cells.grid import Grid


def test_its_reader_is_written_behind_the_bridge() -> None:
    arm = Arm.parse("posterior:over=prefixes@adapted")
    assert (arm.bridge, arm.reader, arm.map, arm.kind) == (
        "posterior:over=prefixes",
        "adapted",
        "lens",
        BRIDGE,
    )
    assert Arm.parse("axis@adapted@shuffled-ends").kind == CONTROL
    with pytest.raises(BadInput, match="'adaptive' is no reader or control"):
        Arm.parse("axis@adaptive")


def test_its_runs_adapt_once_and_those_of_others_never() -> None:
    arms = ("brownian", "brownian@lens", "brownian@adapted")
    grid = Grid(
        tasks=("sst2",),
        shots=(4,),
        pets=("lora",),
        arms=tuple(map(Arm.parse, arms)),
        seeds=(1,),
        weights=(0.5, 1.0),
    )
    adapts = {cell.arm.text: [run.adapt for run in grid.tries(cell)] for cell in grid.cells()}
    assert adapts == {
        "vanilla": ["never", "never"],
        "brownian": ["never", "never"],
        "brownian@lens": ["never", "never"],
        "brownian@adapted": ["once", "once"],
    }
