"""The regression of a lens from sums alone: against scikit-learn, and by brute force over the tokens."""

from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch import Tensor

from bridges import BadInput, Trajectory
from bridges.fitting.lens_fit import put, solve
from bridges.fitting.ridge import STRENGTHS, Fit, ridge
from bridges.fitting.statistics import Statistics
from bridges.latent.lens import Lens
from bridges.latent.trajectory import normalised


def tokens(
    count: int, width: int, dim: int, *, layers: int = 2, rank: int | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """States [L+1, N, H] of a rank about a mean far from 0, and end points [N, d] they tell of."""
    rng = torch.Generator().manual_seed(seed)
    kept = width if rank is None else rank

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    states = draw(layers, count, kept) @ draw(layers, kept, width) + 2
    ends = normalised(states[-1]) @ draw(width, dim) / width**0.5 + draw(count, dim)
    return states, ends / ends.norm(dim=1, keepdim=True).clamp(min=1e-9)


def sums(states: Tensor, ends: Tensor) -> Statistics:
    made = Statistics.zeros(len(states), states.shape[-1], ends.shape[-1])
    made.add(states, ends)
    return made


def by_sklearn(x: Tensor, v: Tensor, strength: float) -> Ridge:
    model = Ridge(alpha=strength * len(x), fit_intercept=True, solver="svd")
    return model.fit(x.numpy(), v.numpy())


def predicted(fit: Fit, x: Tensor) -> Tensor:
    return x @ fit.weight.T + fit.bias


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(2, 60),
    width=st.integers(1, 12),
    dim=st.integers(1, 5),
    exponent=st.floats(-5, 2),
    seed=st.integers(0, 99),
)
def test_it_is_the_ridge_regression_of_scikit_learn(
    count: int, width: int, dim: int, exponent: float, seed: int
) -> None:
    """1e-8 of the weights' size: the sums square the condition, the strength bounds it."""
    states, ends = tokens(count, width, dim, seed=seed)
    strength = 10**exponent
    both = sums(states, ends)
    for layer in range(2):
        x = normalised(states[layer])
        fit, expected = ridge(both, both, layer, strength), by_sklearn(x, ends, strength)
        weight = torch.from_numpy(numpy.atleast_2d(expected.coef_))
        size = max(1.0, weight.abs().max().item())
        torch.testing.assert_close(fit.weight, weight, rtol=0, atol=1e-8 * size)
        bias = torch.as_tensor(expected.intercept_).reshape(-1)
        torch.testing.assert_close(fit.bias, bias, rtol=0, atol=1e-8 * size)
        found = torch.from_numpy(expected.predict(x.numpy())).reshape(count, dim)
        torch.testing.assert_close(predicted(fit, x), found, rtol=0, atol=1e-8 * size)
        assert fit.strength == strength


@pytest.mark.parametrize(("count", "rank"), [(40, 3), (5, 8), (2, 8)])
def test_states_in_few_directions_or_of_few_tokens_have_a_regression(count: int, rank: int) -> None:
    """Fewer tokens, or directions, than dimensions: the penalty alone holds the rest, at zero."""
    states, ends = tokens(count, 8, 3, rank=rank, seed=4)
    both = sums(states, ends)
    for strength in (1e-6, 1e-2):
        fit, x = ridge(both, both, 1, strength), normalised(states[1])
        weight = torch.from_numpy(by_sklearn(x, ends, strength).coef_)
        torch.testing.assert_close(fit.weight, weight, rtol=0, atol=1e-7)
        _, sizes, axes = torch.linalg.svd(x - x.mean(0))
        empty = axes[int((sizes > 1e-9 * sizes[0]).sum()) :]
        assert (fit.weight @ empty.T).abs().max() < 1e-7


def test_error_and_r2_are_those_of_the_held_out_tokens() -> None:
    """On all layers; R2 is about the mean of the tokens that were fitted."""
    states, ends = tokens(90, 7, 3, layers=4)
    fitted, held_out = sums(states[:, :60], ends[:60]), sums(states[:, 60:], ends[60:])
    for layer, fit in enumerate(solve(fitted, held_out)):
        residual = predicted(fit, normalised(states[layer, 60:])) - ends[60:]
        torch.testing.assert_close(fit.error, residual.square().mean(0), rtol=1e-9, atol=1e-12)
        spread = (ends[60:] - ends[:60].mean(0)).square().sum()
        assert fit.r2 == pytest.approx(1 - float(residual.square().sum() / spread), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_strength_is_the_best_of_those_that_are_tried(seed: int) -> None:
    """By the held-out error of a regression for each, and it is another for other layers."""
    states, ends = tokens(60, 10, 3, seed=seed)
    fitted, held_out = sums(states[:, :40], ends[:40]), sums(states[:, 40:], ends[40:])
    for layer, fit in enumerate(solve(fitted, held_out)):
        x, other = normalised(states[layer, :40]), normalised(states[layer, 40:])
        errors = [
            float(
                (torch.from_numpy(by_sklearn(x, ends[:40], s).predict(other.numpy())) - ends[40:])
                .square()
                .sum()
            )
            for s in STRENGTHS.tolist()
        ]
        chosen = errors[STRENGTHS.tolist().index(fit.strength)]
        assert chosen <= min(errors) * (1 + 1e-9)
    free = [ridge(fitted, held_out, layer).strength for layer in range(2)]
    assert [ridge(fitted, held_out, layer, 0.3).strength for layer in range(2)] == [0.3, 0.3] != free


def test_end_points_that_are_all_the_same_are_guessed_without_weights() -> None:
    states, ends = tokens(30, 5, 2)
    same = ends[:1].expand_as(ends)
    fit = ridge(sums(states, same), sums(states, same), 0)
    torch.testing.assert_close(fit.bias, ends[0], rtol=1e-12, atol=1e-12)
    assert fit.weight.abs().max() < 1e-9
    assert fit.r2 == pytest.approx(0, abs=1e-6)
    assert fit.error.abs().max() < 1e-12


def test_a_lens_guesses_what_its_regressions_do() -> None:
    """In float32; the mean guess on the fitted text is the mean end point, and that is its centre."""
    states, ends = tokens(50, 6, 2, layers=3)
    fitted = sums(states, ends)
    layers = solve(fitted, fitted, strength=1e-3)
    lens = Lens(3, 6, 2)
    put(lens, layers, fitted)
    lens.requires_grad_(False)
    guess = lens(Trajectory(states, states[:, :0], torch.zeros(50, dtype=torch.int64)))
    expected = torch.stack([predicted(fit, normalised(states[k])) for k, fit in enumerate(layers)])
    torch.testing.assert_close(guess.double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(expected.mean(1), ends.mean(0).expand(3, -1), rtol=0, atol=1e-9)
    torch.testing.assert_close(lens.centre, ends.mean(0).float().expand(3, -1))


def test_too_little_text_is_refused() -> None:
    states, ends = tokens(3, 4, 2)
    whole, one, none = sums(states, ends), sums(states[:, :1], ends[:1]), Statistics.zeros(2, 4, 2)
    for fitted, held_out, found in ((one, whole, "1 targets"), (whole, none, "and 0 to choose")):
        with pytest.raises(BadInput, match=f"{found}.*: give more text"):
            solve(fitted, held_out)
