"""Calibrated odds: what holds at the optimum, scipy's own, and odds of every odd kind."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special
from torch import Tensor

from bridges import BadInput
from pets.anytime.calibration import calibrated

KINDS = ("usual", "separable", "wrong", "shifted", "one class", "constant", "zero", "outlier")


def even(classes: int) -> Tensor:
    return torch.full((classes,), 1 / classes, dtype=torch.float64)


def smoothed(answers: Tensor, classes: int) -> Tensor:
    numbers = answers.bincount(minlength=classes).double() + 1
    return numbers / numbers.sum()


def example(kind: str, count: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Odds [N, C] and answers [N]."""
    rng = torch.Generator().manual_seed(seed)
    answers = torch.randint(classes, (count,), generator=rng)
    odds = torch.randn(count, classes, generator=rng, dtype=torch.float64)
    right = torch.nn.functional.one_hot(answers, classes)
    if kind == "one class":
        answers = torch.zeros_like(answers)
    elif kind == "constant":
        odds = odds[:1].expand(count, -1)
    elif kind == "zero":
        odds = 0 * odds
    elif kind == "outlier":
        odds[0] *= 1e4
    else:
        odds = odds + {"usual": 1.5, "separable": 60, "wrong": -5, "shifted": 2}[kind] * right
    if kind == "shifted":
        odds[:, 0] += 1e5
    return odds, answers


def targets(answers: Tensor, classes: int) -> Tensor:
    """Platt's: (n + 1) / (n + 2) at the label of n examples, the rest among the others."""
    made = []
    for label in answers.tolist():
        n = int((answers == label).sum())
        row = [1 / (n + 2) / max(1, classes - 1)] * classes
        row[label] = (n + 1) / (n + 2)
        made.append(row)
    return torch.tensor(made, dtype=torch.float64)


def slope(odds: Tensor, found: Any, answers: Tensor) -> float:
    """Of the loss in the logarithm of the scale, the bias going along with what examples share."""
    about = odds - odds.mean(0)
    about = found.scale * (about - about.mean(1, keepdim=True))
    wrong = found(odds).exp() - targets(answers, odds.shape[1])
    return float((wrong * about).sum(1).mean())


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 40),
    st.integers(2, 5),
    st.integers(-8, 8),
    st.integers(0, 999),
)
def test_both_conditions_hold_at_the_result(
    kind: str, count: int, classes: int, power: int, seed: int
) -> None:
    """The mean posterior is the prior, and the loss is at its least or the scale at its bound."""
    odds, answers = example(kind, count, classes, seed)
    odds, prior = odds * 10.0**power, smoothed(answers, classes)
    found = calibrated(odds, answers, prior)
    assert found.scale.isfinite()
    assert found.scale > 0
    assert found.bias.isfinite().all()
    assert abs(float(found.bias.sum())) <= 1e-12 * (1 + float(found.bias.abs().max()))
    posterior = found(odds)
    assert posterior.isfinite().all()
    rounding = 1e-15 * float((found.scale * odds).abs().max())
    assert (posterior.exp().mean(0) - prior).abs().max() < 1e-8 + 10 * rounding
    about = odds - odds.mean(0)
    spread = (about - about.mean(1, keepdim=True)).square().mean().sqrt()
    if spread > 1e-9 * odds.abs().max() and found.scale * spread < 8e3:
        assert slope(odds, found, answers) == pytest.approx(0, abs=1e-6 + 10 * rounding) or (
            found.scale * spread < 1.3e-4
        )


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("kind", ["usual", "separable", "shifted"])
def test_it_is_what_scipy_finds(kind: str, classes: int) -> None:
    """Scale and biases as the root of both conditions, from another start."""
    odds, answers = example(kind, 40, classes, 3)
    prior = smoothed(answers, classes)
    found = calibrated(odds, answers, prior)
    about = (odds - odds.mean(0)).numpy()
    about = about - about.mean(1, keepdims=True)
    aim = targets(answers, classes).numpy()

    def conditions(x: Any) -> Any:
        guess = special.softmax(math.exp(x[0]) * about + np.append(x[1:], 0), axis=1)
        off = guess.mean(0) - prior.numpy()
        return np.append(off[:-1], ((guess - aim) * about).sum(1).mean() / about.std())

    start = np.zeros(classes)
    start[0] = math.log(0.3 / about.std())
    result = optimize.root(conditions, start, tol=1e-13)
    assert abs(result.fun).max() < 1e-10
    assert float(found.scale) == pytest.approx(math.exp(result.x[0]), rel=1e-5)
    logits = torch.from_numpy(math.exp(result.x[0]) * about + np.append(result.x[1:], 0))
    torch.testing.assert_close(found(odds), logits.log_softmax(1), rtol=1e-5, atol=1e-5)


def test_the_bias_alone_is_the_least_of_its_convex_function() -> None:
    odds, _ = example("usual", 30, 4, 5)
    prior = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    found = calibrated(odds, None, prior)
    assert found.scale == 1

    def value(b: Any) -> Any:
        return special.logsumexp(odds.numpy() + b, axis=1).mean() - prior.numpy() @ b

    result = optimize.minimize(value, np.ones(4), method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(found.bias.numpy(), result.x - result.x.mean(), atol=1e-5)


@pytest.mark.parametrize("size", [1.0, 1e3, 1e6, 1e9])
def test_without_labels_odds_may_be_far_apart(size: float) -> None:
    """Where all posteriors are 0 or 1 and none has a slope: 40 of 41 rows for the first label."""
    odds = torch.zeros(41, 2, dtype=torch.float64)
    odds[:, 0] = size * torch.linspace(-0.1, 4, 41, dtype=torch.float64)
    found = calibrated(odds, None, even(2))
    share = found(odds).exp().mean(0)
    torch.testing.assert_close(share, even(2), rtol=0, atol=1e-6)
    assert (found(odds).argmax(1)[:20] == 1).all()
    assert (found(odds).argmax(1)[21:] == 0).all()


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 20), st.integers(2, 5), st.integers(-6, 6), st.integers(0, 999))
def test_what_examples_or_labels_share_changes_nothing(
    count: int, classes: int, power: int, seed: int
) -> None:
    odds, answers = example("usual", count, classes, seed)
    prior = smoothed(answers, classes)
    rng = torch.Generator().manual_seed(seed)
    moved = odds + 50 * torch.randn(1, classes, generator=rng, dtype=torch.float64)
    moved = moved + 50 * torch.randn(count, 1, generator=rng, dtype=torch.float64)
    expected = calibrated(odds, answers, prior)(odds)
    torch.testing.assert_close(calibrated(moved, answers, prior)(moved), expected, rtol=1e-5, atol=1e-5)
    if count > 1:  # one example has nothing but what it shares with itself
        stretched = odds * 10.0**power
        found = calibrated(stretched, answers, prior)(stretched)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_few_right_examples_do_not_make_it_certain() -> None:
    """Of two labels with n examples each, far apart, the posterior is about (n + 1) / (n + 2)."""
    for n in (2, 8, 30):
        answers = torch.arange(2).repeat(n)
        odds = 1e3 * torch.nn.functional.one_hot(answers, 2).double()
        sure = calibrated(odds, answers, even(2))(odds).exp().amax(1)
        torch.testing.assert_close(sure, torch.full((2 * n,), (n + 1) / (n + 2)).double())


def test_odds_that_tell_the_wrong_way_are_not_believed() -> None:
    odds, answers = example("wrong", 40, 3, 1)
    prior = smoothed(answers, 3)
    sure = calibrated(odds, answers, prior)(odds).exp()
    assert (sure - prior).abs().max() < 1e-2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_odds_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(BadInput, match=r"odds of shape \(2, 2\): expected finite ones"):
        calibrated(torch.tensor([[0.0, value], [1, 0]]), None, even(2))


def test_no_examples_are_refused() -> None:
    with pytest.raises(BadInput, match="of one example or more"):
        calibrated(torch.zeros(0, 2), None, even(2))
