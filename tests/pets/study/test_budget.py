"""What fits into a budget, and how long a grid takes: exact arithmetic on a pace that is given."""

from __future__ import annotations

import dataclasses

import pytest
from comparison_cases import small_grid
from hypothesis import given
from hypothesis import strategies as st
from paces import PACE

from bridges import BadInput
from pets.study.cells.grid import Grid
from pets.study.compare.budget import ENOUGH_SEEDS, fitting, middle, parse_budget, said
from pets.study.compare.plan import described, within

# Budgets


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90m", 5400), ("45s", 45), ("1h30m", 5400), ("1.5h", 5400), (" 1H1S ", 3601)],
)
def test_budgets_are_read(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@given(*[st.integers(0, 500)] * 3)
def test_any_budget_is_read(hours: int, minutes: int, seconds: int) -> None:
    whole = 3600 * hours + 60 * minutes + seconds
    if whole:
        assert parse_budget(f"{hours}h{minutes}m{seconds}s") == whole


@pytest.mark.parametrize(
    "text", ["", "2", "h", "2 h", "-1h", "30m1h", "0s", "0h0m", "1e3s", "2d", "9" * 30 + "h"]
)
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"budget '.*': expected a time such as 2h, 90m, 45s or 1h30m"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123, "0.01 s"),
        (0.5, "0.5 s"),
        (0.97, "0.97 s"),
        (3.14159, "3.1 s"),
        (44.6, "45 s"),
        (99.4, "99 s"),
        (99.6, "2 min"),
        (5399, "90 min"),
        (7200, "2 h"),
        (9000, "2 h 30 min"),
        (86400 * 3.5, "3.5 days"),
    ],
)
def test_times_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert said(seconds) == text


@given(
    seeds=st.integers(1, 15),
    weights=st.integers(1, 6),
    fits=st.integers(0, 40),
    of_seed=st.integers(0, 9),
    of_weight=st.integers(1, 9),
    budget=st.integers(1, 800),
)
def test_what_fits_is_the_best_of_all_that_fit(
    seeds: int, weights: int, fits: int, of_seed: int, of_weight: int, budget: int
) -> None:
    """Beside every pair there is: first up to 8 seeds, then weights, then the other seeds."""

    def takes(s: int, w: int) -> int:
        return fits + s * (of_seed + of_weight * w)

    least = min(3, seeds)
    pairs = [(s, w) for s in range(least, seeds + 1) for w in range(1, weights + 1)]
    possible = [pair for pair in pairs if takes(*pair) <= budget]
    if not possible:
        with pytest.raises(
            BadInput, match=rf"{least} seeds, .* with one weight take .*\({takes(least, 1)} s\)"
        ):
            fitting(takes, seeds, weights, budget)
        return
    best = max(possible, key=lambda pair: (min(pair[0], ENOUGH_SEEDS), pair[1], pair[0]))
    assert fitting(takes, seeds, weights, budget) == best


def test_weights_are_left_out_at_the_ends() -> None:
    values = (1, 2, 3, 4, 5)
    assert [middle(values, count) for count in range(1, 6)] == [
        (3,),
        (2, 3),
        (2, 3, 4),
        (1, 2, 3, 4),
        values,
    ]
    assert middle((1, 2), 1) == (1,)


# Arithmetic


def test_a_cell_is_its_tries_and_one_score() -> None:
    grid = small_grid(tasks=("sst2", "cola"))  # 4 steps, looks at 0, 2 and 4, two weights
    found = {(cell.task, cell.arm.text): PACE.cell(grid, cell) for cell in grid.cells()}
    assert found == {
        ("sst2", "vanilla"): 2 * (1 + 4 * 2 + 3 * 8 * 0.5) + 10 * 0.5,
        ("sst2", "brownian"): 2 * (1 + 4 * 3 + 3 * 8 * 0.5) + 10 * 0.5,
        ("sst2", "brownian@random-map"): 2 * (1 + 4 * 5 + 3 * 8 * 0.5) + 10 * 0.5,
        # its steps take twice as long as the first task's
        ("cola", "vanilla"): 2 * (1 + 4 * 4 + 3 * 20 * 0.25) + 100 * 0.25,
        ("cola", "brownian"): 2 * (1 + 4 * 6 + 3 * 20 * 0.25) + 100 * 0.25,
        ("cola", "brownian@random-map"): 2 * (1 + 4 * 10 + 3 * 20 * 0.25) + 100 * 0.25,
    }
    odd = dataclasses.replace(grid.settings, eval_every=3)  # at 0, 3 and 4
    assert (
        PACE.cell(dataclasses.replace(grid, settings=odd), next(grid.cells()))
        == found["sst2", "vanilla"]
    )


def test_a_grid_is_its_fits_and_cells_in_lanes() -> None:
    grid = small_grid()
    each = [47.0, 55.0, 71.0]
    assert PACE.whole(grid, grid.cells(), 1) == 100 + 2 * sum(each) + 7
    assert PACE.whole(grid, grid.cells(), 2) == 100 + sum(each) + 7
    assert PACE.whole(grid, grid.cells(), 100) == 100 + max(each) + 7  # none is faster than alone
    assert PACE.cells(grid, [], 2) == 0


def test_a_budget_leaves_every_arm_the_same() -> None:
    grid = small_grid(seeds=tuple(range(10, 15)), weights=(0.1, 1.0, 10.0))

    def seconds(seeds: int, weights: int) -> float:
        arms = (21.0, 25.0, 33.0)  # a try: 1 + 4 * step + 3 * 8 * 0.5
        return 107 + seeds * sum(weights * one + 5 for one in arms)

    chosen = within(grid, PACE, 1, seconds(5, 2), Grid.cells)
    assert (chosen.seeds, chosen.weights) == ((10, 11, 12, 13, 14), (0.1, 1.0))
    chosen = within(grid, PACE, 1, seconds(5, 2) - 0.5, Grid.cells)
    assert (chosen.seeds, chosen.weights) == ((10, 11, 12, 13, 14), (1.0,))
    chosen = within(grid, PACE, 1, seconds(3, 1), Grid.cells)
    assert (chosen.seeds, chosen.weights) == ((10, 11, 12), (1.0,))
    assert chosen.arms == grid.arms
    assert {len(chosen.tries(cell)) for cell in chosen.cells()} == {1}
    assert within(grid, PACE, 1, 1e6, Grid.cells) == grid
    with pytest.raises(
        BadInput, match=rf"3 seeds, the fewest that can be tested.*{seconds(3, 1):.0f} s.*leave out arms"
    ):
        within(grid, PACE, 1, seconds(3, 1) - 0.5, Grid.cells)
    two = small_grid(seeds=(1, 2), weights=(1.0,))
    with pytest.raises(BadInput, match="2 seeds, the fewest that were given"):
        within(two, PACE, 1, 10.0, Grid.cells)


def test_a_plan_is_told_in_a_few_lines() -> None:
    grid = small_grid()
    cells = list(grid.cells())
    assert described(grid, PACE, 1, cells).splitlines() == [
        "plan: 6 cells = 3 arms x 2 seeds, 2 tries each (weight 0.5, 5)",
        "  a cell of lora: vanilla 47 s, brownian 55 s, brownian@random-map 71 s",
        "  in all about 8 min, by steps and answers measured here: fits 2 min; cells 6 min; "
        "step times 7 s",
    ]
    done = described(dataclasses.replace(grid, as_ratios=True), PACE, 2, cells[:1])
    assert "; 5 of them done before" in done
    assert "(ratio 0.5, 5)" in done
    assert "cells 47 s, 2 at once" in done
    assert "one at a time, which Ray's nodes share" in described(grid, PACE, 1, cells, ray=True)
    many = small_grid(arms=tuple(f"ou:theta={k}" for k in range(1, 9)))
    slow = {("lora", arm.text): 2.0 + k for k, arm in enumerate(many.arms)}
    told = described(many, dataclasses.replace(PACE, steps=slow), 1, [])
    assert "a cell of lora: vanilla 47 s, up to 2 min (ou:theta=8)" in told
