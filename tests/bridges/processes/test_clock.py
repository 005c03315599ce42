"""The Brownian bridge by a clock: even it is the Brownian bridge, and an uneven one is found."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import bridges
from bridges import BadInput, ClockBridge

TIMES = torch.linspace(0, 1, 1001, dtype=torch.float64)
speeds = st.lists(st.floats(0.2, 3.0), min_size=1, max_size=20)


@pytest.mark.parametrize("learn", ["clock", ""])
@pytest.mark.parametrize("parts", [1, 3, 8, 12, 49])
def test_an_even_clock_is_brownian(parts: int, learn: str) -> None:
    """To the last digit of a double, for 49 parts of a learned one too."""
    clock, brownian = ClockBridge(parts, 0.7, learn=learn), bridges.BrownianBridge(0.7)
    close = {"rtol": 0, "atol": 2.3e-16}
    for mine, other in zip(clock.marginal(TIMES), brownian.marginal(TIMES), strict=True):
        torch.testing.assert_close(mine.detach(), other, **close)
    pair = TIMES[::50, None], TIMES[None, ::50]
    torch.testing.assert_close(clock.covariance(*pair).detach(), brownian.covariance(*pair), **close)


@given(clock=speeds, learn=st.sampled_from(["clock", ""]))
@settings(deadline=None)
def test_a_clock_is_the_straight_line_between_its_sums(clock: list[float], learn: str) -> None:
    """numpy's interpolation of the cumulated speeds; 3e-5: a learned one is kept in float32."""
    mean = sum(clock) / len(clock)
    knots = np.concatenate([[0.0], np.cumsum(clock) / (mean * len(clock))])
    if min(clock) < 0.05 * mean:
        return
    expected = np.interp(TIMES.numpy(), np.linspace(0, 1, len(clock) + 1), knots)
    tau = ClockBridge(clock, learn=learn).tau(TIMES).detach()
    atol = 3e-5 if learn else 1e-14
    torch.testing.assert_close(tau, torch.from_numpy(expected), rtol=0, atol=atol)
    assert (tau[0], tau[-1]) == (0, 1)
    assert (tau.diff() > 0).all()


@given(free=st.lists(st.floats(-50, 50), min_size=1, max_size=12))
@settings(deadline=None)
def test_a_learned_clock_never_stands_still(free: list[float]) -> None:
    """0.05 of an even one's step, whatever the free numbers are."""
    bridge = ClockBridge(len(free))
    with torch.no_grad():
        bridge.free_clock.copy_(torch.tensor(free))
        tau = bridge.tau(TIMES)
    assert tau.diff().min() >= 0.05e-3 * (1 - 1e-6)
    assert (tau[0], tau[-1]) == (0, 1)
    assert tau.max() == 1
    written = json.loads(json.dumps(bridge.hyperparameters))
    again = bridges.get("clock", **written)
    torch.testing.assert_close(again.tau(TIMES).detach(), tau, rtol=0, atol=1e-4)


def test_its_paths_are_brownian_ones_looked_at_by_the_clock() -> None:
    """Samples against a pinned random walk of 2000 steps: two-sample Kolmogorov-Smirnov, fixed seeds."""
    bridge, count, v = ClockBridge([0.5, 2.5, 1.0], 0.8, learn=""), 4000, 1.5
    rng = np.random.default_rng(5)
    steps = rng.standard_normal((2000, count)).astype(np.float32) * (0.8 / math.sqrt(2000))
    walk = np.concatenate([np.zeros((1, count), np.float32), steps.cumsum(0)])
    share = np.linspace(0, 1, 2001)[:, None]
    pinned = walk - share * walk[-1] + share * v
    t = torch.tensor([0.2, 0.5, 0.9]).double()
    path = bridge.sample(
        t, torch.full((count, 1), v).double(), generator=torch.Generator().manual_seed(6)
    )[..., 0].numpy()
    seen = pinned[np.rint(bridge.tau(t).numpy() * 2000).astype(int)]
    for i in range(3):
        assert stats.ks_2samp(path[i], seen[i]).pvalue > 1e-4
    for i in range(2):
        assert stats.ks_2samp(path[i + 1] - path[i], seen[i + 1] - seen[i]).pvalue > 1e-4


@pytest.mark.parametrize(
    "clock", [0, -1, True, [], [1.0, -1.0], [1.0, math.inf], [1.0, 0.01], "even", 1.5]
)
def test_what_is_no_clock_is_refused(clock: object) -> None:
    with pytest.raises(BadInput, match=r"clock=.*: expected a whole number of parts above 0, or"):
        bridges.get("clock", clock=clock)


def test_it_is_built_from_one_word() -> None:
    bridge = bridges.parse("clock:clock=12,likelihood=path,learn=clock+sigma")
    assert bridge.hyperparameters == {
        "clock": 12,
        "sigma": 1.0,
        "learn": "clock+sigma",
        "likelihood": "path",
    }
    assert [name for name, _ in bridge.named_parameters()] == ["free_clock", "free_sigma"]
    assert [*bridges.parse("clock:learn=").parameters()] == []


def test_a_fixed_clock_can_be_the_target_of_an_sde() -> None:
    with pytest.raises(BadInput, match="target='clock': expected fixed parameters"):
        bridges.get("sde", target="clock")
    assert bridges.get("sde", target="clock:learn=").process.clock == [1.0] * 8
