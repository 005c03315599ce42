"""Which layers a cost holds on to: closed forms for bridges, finite differences for regularizers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from zoo_cases import f64

import bridges
from bridges.latent.trajectory import layer_times
from pets import regularizers
from pets.inside.zoo_weights import layer_weights, made_up, state_weights
from pets.regularizers import Objective
from pets.regularizers.passes import Pass


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("brownian:sigma=2", lambda t: t / (1 - t) / 8),
        ("smooth", lambda t: 1.5 / (1 - t) ** 2),
        ("alpha:alpha=2", lambda t: 1.5 * (1 - (1 - t) ** 2) ** 2 / (1 - t - (1 - t) ** 4)),
        ("student:nu=5", lambda t: (5 + 1) / (5 - 2) * t / (1 - t) / 2),
    ],
)
def test_layer_weights_are_the_costs(word: str, expected: Any) -> None:
    """In closed form; 1e-5 is what second differences a thousandth of a deviation wide leave."""
    found = layer_weights(bridges.parse(word), 25)
    torch.testing.assert_close(found, expected(layer_times(25)), rtol=1e-5, atol=0)


def test_layer_weights_of_the_sde_cost_are_the_integral_of_its_density() -> None:
    """Against a brownian target sum_i w_i / (L+1) is half the integral of (1 - t)^-2, less the share of
    the cost that falls on t = 0, before the first layer.
    """
    weights = layer_weights(bridges.get("sde"), 25)
    last = 25 / 26
    assert weights.shape == (25,)
    assert 0.98 * last / (1 - last) / 2 < weights.mean() < last / (1 - last) / 2
    # A linear share of each gap's weight, so nearly the density where layers are close.
    assert weights[12].item() == pytest.approx(25 / 26 / 2 / (1 - 0.5) ** 2, rel=0.01)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("axis:process=brownian:sigma=2", lambda t: t / (1 - t) / 8),
        ("posterior", lambda t: t / (1 - t) / 2),
        ("posterior:over=prefixes", lambda t: t / (1 - t) / 2 * torch.arange(25, 0, -1) / 25),
        ("posterior:until=0.4", lambda t: t / (1 - t) / 2 * (torch.arange(25) < 10)),
        ("axis:layers=flat", lambda t: (t / (1 - t) / 2).mean().expand(25)),
    ],
)
def test_layer_weights_of_a_cost_about_the_label_are_its_slopes(word: str, expected: Any) -> None:
    found = layer_weights(bridges.parse(word), 25)
    torch.testing.assert_close(found, expected(layer_times(25)), rtol=1e-9, atol=1e-12)


def test_layer_weights_of_a_cost_without_a_mean_count_from_the_end_point() -> None:
    class Flat(bridges.Regression, name="flat"):
        """|z - v|^2 / 2 in every layer, and no process."""

    torch.testing.assert_close(layer_weights(bridges.get("flat"), 3), f64(0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    "text",
    ["anchor", "jump", "jump:last=2", "early-exit:first=0.2", "contrast", "contrast:temperature=1"],
)
def test_weights_of_a_regularizer_are_its_slopes(text: str) -> None:
    """By central differences in every number of every state, told in lengths of the state."""
    objective = regularizers.parse(f"{text}{',' if ':' in text else ':'}weight=1")
    seen, states = made_up(5, 4, 3)
    values, step = states.detach(), 1e-6  # the same storage
    slopes = torch.zeros_like(values)
    for place in range(values.numel()):
        moved = []
        for by in (step, -2 * step, step):
            values.view(-1)[place] += by
            moved.append(objective.term(seen.again()).item())  # type: ignore[union-attr]
        slopes.view(-1)[place] = (moved[0] - moved[1]) / (2 * step)
    pull = (slopes.norm(dim=-1) * values.norm(dim=-1)).mean(1)
    found = state_weights(objective, 5, 4, 3)
    assert found.sum().item() == pytest.approx(1)
    torch.testing.assert_close(found, pull / pull.sum(), rtol=1e-5, atol=1e-7)


def test_weights_of_a_regularizer_are_on_the_layers_that_it_reads() -> None:
    weights = {name: state_weights(regularizers.parse(f"{name}:weight=1"), 25) for name in STATES}
    torch.testing.assert_close(weights["anchor"], torch.full((25,), 1 / 25).double())
    assert (weights["contrast"] > 0).tolist() == [False] * 12 + [True] * 13
    assert (weights["early-exit"] > 0).tolist() == [False] * 12 + [True] * 12 + [False]
    assert weights["jump"][-2:].sum() > 0.5


STATES = ("anchor", "contrast", "early-exit", "jump")


def test_these_are_all_that_read_states() -> None:
    reading = [n for n in regularizers.available() if "states" in regularizers.info(n).cls.reads]
    assert reading == list(STATES)


def test_a_regularizer_may_draw_noise_put_a_loss_in_place_or_do_nothing() -> None:
    class Noisy(Objective):
        reads = frozenset({"states"})

        def term(self, seen: Pass) -> Tensor:
            states = seen.read.trajectory.states
            return (states[1] * torch.randn_like(states[1])).sum()

    class Placed(Objective):
        reads = frozenset({"states"})

        def loss(self, seen: Pass) -> Tensor:
            return seen.read.trajectory.states[2].square().sum()

    class Idle(Objective):
        reads = frozenset({"states"})

    before = torch.random.get_rng_state()
    assert state_weights(Noisy(1.0), 3).tolist() == state_weights(Noisy(1.0), 3).tolist() == [0, 1, 0]
    assert torch.equal(before, torch.random.get_rng_state())
    assert state_weights(Placed(1.0), 3).tolist() == [0, 0, 1]
    assert state_weights(Idle(1.0), 3).tolist() == [0, 0, 0]


def test_the_made_up_forward_is_what_it_is_said_to_be() -> None:
    seen, states = made_up(25)
    read, frozen = seen.read, seen.frozen.trajectory.states
    moved = (states - frozen).norm(dim=-1) / frozen.norm(dim=-1)
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1))
    steps = frozen.diff(dim=0).square().mean((1, 2)).sqrt()
    assert steps[-1].item() == pytest.approx(3 * steps[:-1].mean().item(), rel=0.1)
    said = [(seen.head(h[None])[0].argmax(1) == read.answers).double().mean() for h in frozen]
    assert said[-1] > 0.9 > 0.7 > said[0]
    assert torch.equal(made_up(25)[1], states)
