"""Which layers a cost about the label is of, and on which clock: flat, since, until, exit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from label_cases import PROCESSES, case, gaussian, reader, surprise
from torch import Tensor
from torch.testing import assert_close

import bridges
from bridges import BadInput, Trajectory
from bridges.latent.latent_map import Reader
from bridges.latent.lens import Lens
from bridges.latent.trajectory import layer_times

STATES = 6


def first(read: Reader, trajectory: Trajectory, count: int) -> tuple[Reader, Trajectory]:
    """A model that ended after so many states, and its lens."""
    assert isinstance(read, Lens)
    short = Lens(count, *read.weight.shape[:0:-1]).double().requires_grad_(False)
    short.weight.copy_(read.weight[:count])
    short.bias.copy_(read.bias[:count])
    short.centre.copy_(read.centre[:count])
    return short, Trajectory(trajectory.states[:count], trajectory.context[:count], trajectory.rows)


def value(word: str, read: Reader, trajectory: Trajectory, **options: Any) -> Tensor:
    _, answers, labels = case(STATES)
    cost: Any = bridges.get(word, **options)
    found: Tensor = cost.of_labels(read, trajectory, answers, labels)
    return found


@pytest.mark.parametrize("word", ["posterior", "axis"])
@pytest.mark.parametrize("process", [p for p in PROCESSES if "[" not in p])
def test_an_exit_costs_what_a_model_that_ended_there_would(word: str, process: str) -> None:
    trajectory, *_ = case(STATES)
    read = reader("lens", STATES)
    found = value(word, read, trajectory, process=process, layers="exit", until=4 / STATES)
    expected = value(word, *first(read, trajectory, 4), process=process)
    assert_close(found, expected, rtol=1e-9, atol=1e-9)
    (slopes,) = torch.autograd.grad(found.sum(), trajectory.states)
    assert (slopes[:4].abs().sum((1, 2)) > 0).any()
    assert not slopes[4:].any()


def test_an_exit_at_the_end_is_the_process_itself() -> None:
    trajectory, *_ = case(STATES)
    read = reader("lens", STATES)
    for over in ("path", "prefixes"):
        plain = value("posterior", read, trajectory, over=over)
        assert_close(value("posterior", read, trajectory, over=over, layers="exit"), plain)


@pytest.mark.parametrize("process", ["brownian:sigma=0.7", "ou:theta=3"])
def test_an_exit_through_the_map_asks_what_it_guesses(process: str) -> None:
    """Its latents were fitted to the whole clock: z / m is what they say of the end."""
    trajectory, answers, labels = case(STATES)
    read = reader("mlp", STATES)
    bridge, whole, short = gaussian(process), layer_times(STATES), layer_times(3)
    guess = read(trajectory) / bridge.mean_factor(whole)[:, None, None]
    latent = guess[:3] * bridge.mean_factor(short)[:, None, None]
    expected = surprise(bridge, latent, short, answers, labels)
    found = value("posterior", read, trajectory, process=process, layers="exit", until=0.5)
    assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("word", ["posterior", "axis"])
@pytest.mark.parametrize("layers", ["process", "flat"])
def test_the_first_layers_may_be_left_out(word: str, layers: str) -> None:
    trajectory, answers, labels = case(STATES)
    read = reader("lens", STATES)
    given = {"process": "ou:theta=3", "layers": layers, "until": 5 / STATES}
    found = value(word, read, trajectory, **given, since=2 / STATES)
    (slopes,) = torch.autograd.grad(found.sum(), trajectory.states, retain_graph=True)
    counts = slopes.abs().sum((1, 2)) > 0
    assert counts.tolist() == [False, False, True, True, True, False]
    if word == "posterior" and layers == "process":
        t = layer_times(STATES)
        bridge = gaussian("ou:theta=3")
        latent = read(trajectory, bridge.mean_factor(t))
        assert_close(found, surprise(bridge, latent[2:5], t[2:5], answers, labels))
    if layers == "flat":  # all the same: each layer by itself has the same share
        cost: Any = bridges.get(word, **given, since=2 / STATES)
        weight = cost.inner.marginal(layer_times(STATES)[2:5])
        assert (weight[0].square() / weight[1]).std() > 0  # which the process would not have given


def test_one_layer_always_counts() -> None:
    trajectory, *_ = case(STATES)
    read = reader("lens", STATES)
    found = value("posterior", read, trajectory, since=0.49, until=0.5)
    (slopes,) = torch.autograd.grad(found.sum(), trajectory.states)
    assert (slopes.abs().sum((1, 2)) > 0).sum() == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"since": -0.1}, "since=-0.1: expected a share of the layers, from 0, below until=1.0"),
        ({"since": 1.0}, "since=1.0"),
        ({"since": 0.5, "until": 0.5}, "below until=0.5"),
        ({"since": math.nan}, "since=nan"),
        ({"since": "a"}, "since='a'"),
        ({"since": True}, "since=True"),
        ({"since": 0.3, "process": "ou:likelihood=path"}, "since=0.3: expected a process with"),
        ({"layers": "late"}, "layers"),
    ],
)
@pytest.mark.parametrize("word", ["posterior", "axis"])
def test_bad_numbers_are_refused(word: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        bridges.get(word, **options)
