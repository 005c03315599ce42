"""Spline matrices against scipy's natural cubic spline."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicSpline
from torch import Tensor

from kernels.path.spline import natural_spline_matrix


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def knots_and_times(gaps: list[float], places: list[float], start: float) -> tuple[Tensor, Tensor]:
    """Increasing knots, and times inside them in the order given."""
    knots = start + torch.cat([torch.zeros(1), torch.tensor(gaps)]).double().cumsum(0)
    share = torch.tensor(places, dtype=torch.float64)
    return knots, (knots[0] + share * (knots[-1] - knots[0])).clamp(knots[0], knots[-1])


shapes = st.tuples(
    st.lists(st.floats(0.1, 3.0), min_size=1, max_size=9),
    st.lists(st.floats(0.0, 1.0), max_size=12),
    st.floats(-2.0, 2.0),
)


@given(shape=shapes, seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_it_is_scipys(shape: tuple[list[float], list[float], float], seed: int) -> None:
    """1e-10: gaps that differ thirtyfold cost a few digits of sixteen."""
    knots, at = knots_and_times(*shape)
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(len(knots), 3, generator=rng, dtype=torch.float64)
    expected = CubicSpline(knots.numpy(), values.numpy(), bc_type="natural")(at.numpy())
    found = natural_spline_matrix(knots, at) @ values
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-10, atol=1e-10)


@given(shape=shapes)
@settings(deadline=None, max_examples=30)
def test_at_the_knots_it_is_the_identity(shape: tuple[list[float], list[float], float]) -> None:
    knots, _ = knots_and_times(*shape)
    eye = torch.eye(len(knots), dtype=torch.float64)
    torch.testing.assert_close(natural_spline_matrix(knots, knots), eye, rtol=0, atol=1e-13)


@given(shape=shapes)
@settings(deadline=None, max_examples=30)
def test_straight_lines_are_kept(shape: tuple[list[float], list[float], float]) -> None:
    knots, at = knots_and_times(*shape)
    found = natural_spline_matrix(knots, at) @ (3 * knots - 2)
    torch.testing.assert_close(found, 3 * at - 2, rtol=1e-12, atol=1e-12)


def test_between_two_knots_it_is_the_straight_line() -> None:
    found = natural_spline_matrix(f64(1, 3), f64(1, 1.5, 3))
    assert torch.equal(found, f64(1, 0, 0.75, 0.25, 0, 1).reshape(3, 2))


def test_three_knots_by_hand() -> None:
    """A hat of height 1 over 0, 1, 2: M = -3 in the middle, so at 1/2 the spline is 1/2 + 3/16."""
    assert natural_spline_matrix(f64(0, 1, 2), f64(0.5))[0, 1].item() == pytest.approx(0.6875, rel=1e-15)


def test_times_may_come_in_any_order_or_none_and_the_answer_is_float64() -> None:
    knots = torch.linspace(0, 1, 5)
    assert natural_spline_matrix(knots, torch.zeros(0)).shape == (0, 5)
    rising = natural_spline_matrix(knots, torch.tensor([0.1, 0.6]))
    assert rising.dtype == torch.float64
    assert torch.equal(natural_spline_matrix(knots, torch.tensor([0.6, 0.1])), rising.flip(0))


@pytest.mark.parametrize(
    ("knots", "at", "message"),
    [
        (f64(0), f64(0), r"two or more increasing numbers, got \[0.0\]"),
        (f64(), f64(), r"two or more increasing numbers, got \[\]"),
        (f64(0, 1, 1), f64(0), r"two or more increasing numbers, got \[0.0, 1.0, 1.0\]"),
        (f64(0, 2, 1), f64(0), r"two or more increasing numbers, got \[0.0, 2.0, 1.0\]"),
        (f64(0, 1)[None], f64(0), r"two or more increasing numbers, got \[\[0.0, 1.0\]\]"),
        (f64(0, 1), f64(0.5, 1.1), r"times must lie in \[0, 1\], got \[0.5, 1.1\]"),
        (f64(0, 1), f64(-0.1), r"times must lie in \[0, 1\], got \[-0.1\]"),
        (f64(0, 1), f64(0.5)[None], r"times must lie in \[0, 1\], got \[\[0.5\]\]"),
    ],
)
def test_what_is_no_grid_is_refused(knots: Tensor, at: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        natural_spline_matrix(knots, at)
