"""The sums that a lens is made of: they add up, in any dtype and at any size of the states."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import run_ranks
from torch import Tensor

from bridges import BadInput
from bridges.fitting.statistics import Statistics
from bridges.latent.trajectory import normalised

NAMES = ("gram", "cross", "square")


def tokens(count: int = 24, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """States [3, N, 5] and end points [N, 2]."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(3, count, 5, generator=rng), torch.randn(count, 2, generator=rng)


def sums(states: Tensor, ends: Tensor) -> Statistics:
    made = Statistics.zeros(len(states), states.shape[-1], ends.shape[-1])
    made.add(states, ends)
    return made


def assert_close(one: Statistics, other: Statistics, *, rtol: float = 1e-12) -> None:
    assert list(one.tensors) == list(NAMES)
    for name in NAMES:
        mine, theirs = one.tensors[name], other.tensors[name]
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=rtol * max(1, one.count), msg=name)


def test_they_are_the_sums_of_products() -> None:
    """Term by term in Python, over the normalised state with a 1 appended."""
    states, ends = tokens(4)
    found = sums(states, ends)
    assert found.count == 4
    for layer in range(3):
        gram, cross = torch.zeros(6, 6).double(), torch.zeros(6, 2).double()
        for h, v in zip(states[layer].double(), ends.double(), strict=True):
            x = torch.cat([h / (h @ h / 5).sqrt(), torch.ones(1)])
            gram += torch.outer(x, x)
            cross += torch.outer(x, v)
        torch.testing.assert_close(found.gram[layer], gram, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.cross[layer], cross, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.square, ends.double().square().sum(0))


@given(cut=st.integers(0, 24), again=st.integers(0, 24))
def test_sums_of_parts_add_up_to_those_of_the_whole(cut: int, again: int) -> None:
    """1e-12 of a sum: the same terms in another order. A part may be of no token."""
    states, ends = tokens()
    cuts = sorted((cut, again))
    parts = [slice(0, cuts[0]), slice(*cuts), slice(cuts[1], None)]
    total, taken = Statistics.zeros(3, 5, 2), Statistics.zeros(3, 5, 2)
    for part in parts:
        total += sums(states[:, part], ends[part])
        taken.add(states[:, part], ends[part])
    for found in (total, taken, Statistics.from_tensors(total.tensors)):
        assert_close(found, sums(states, ends))
        assert found.count == 24


def test_sums_of_other_sizes_do_not_add_up() -> None:
    total = Statistics.zeros(3, 5, 2)
    for other, name in (((4, 5, 2), "gram"), ((3, 6, 2), "gram"), ((3, 5, 1), "cross")):
        with pytest.raises(BadInput, match=rf"{name} is .* here and .* there: .* do not add up"):
            total += Statistics.zeros(*other)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_state_that_is_not_finite_is_refused_by_its_layer(value: float) -> None:
    states, ends = tokens()
    states[1, 7, 2] = value
    with pytest.raises(BadInput, match=r"hidden state 1 of 24 tokens is not finite"):
        sums(states, ends)


def huge(states: Tensor) -> Tensor:
    """One dimension far above the others, as in large models."""
    return torch.cat([states[..., :4], 2e4 * (1 + states[..., 4:] / 100)], -1)


SIZES = {
    "usual": lambda states: states,
    "massive": lambda states: states * 2e4,
    "one huge dimension": huge,
    "tiny": lambda states: states * 1e-30,
    "zero": lambda states: states * 0,
    "some zero": lambda states: states * (torch.arange(24) % 2)[:, None],
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", SIZES)
def test_they_are_right_in_any_dtype_and_size(size: str, dtype: torch.dtype) -> None:
    """Of states as the dtype holds them nothing more is lost: 1e-12 against the formula in numpy."""
    states, ends = tokens()
    held = SIZES[size](states).to(dtype)
    if not held.isfinite().all():
        pytest.skip(f"{dtype} does not hold such states")
    found = sums(held, ends)
    exact = held.double().numpy()
    root = (exact**2).mean(-1, keepdims=True) ** 0.5
    x = torch.from_numpy(exact / (root + (root == 0)))
    torch.testing.assert_close(normalised(held.double()), x, rtol=1e-12, atol=1e-12)
    x = torch.cat([x, torch.ones(3, 24, 1)], -1)
    expected = Statistics(x.mT @ x, x.mT @ ends.double(), ends.double().square().sum(0))
    assert_close(found, expected)


def test_float64_states_too_small_or_large_to_square_are_normalised() -> None:
    """To 1e-12 of the same states at their usual size."""
    states = tokens()[0].double()
    for scale in (1e-200, 1e-300, 1e200):
        torch.testing.assert_close(normalised(states * scale), normalised(states), rtol=1e-12, atol=0)


def share(rank: int, count: int) -> tuple[Tensor, Tensor]:
    states, ends = tokens()
    return states[:, rank::count], ends[rank::count]


_PROGRAM = """
import sys
import torch
from torch import distributed
from test_lens_statistics import share, sums
distributed.init_process_group("gloo")
rank = distributed.get_rank()
total = sums(*share(rank, 2))
total.all_reduce()
torch.save(total.tensors, f"{sys.argv[1]}/{rank}.pt")
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_have_the_sums_of_one(tmp_path: Path) -> None:
    """1e-12: the same terms in another order; both processes have the same bits."""
    run_ranks(2, ["-c", _PROGRAM, tmp_path], cwd=Path(__file__).parent)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(one[name], other[name]) for name in NAMES)
    assert_close(Statistics.from_tensors(one), sums(*tokens()))
