"""What a bridge computes of itself is computed once, and anew as soon as it is another bridge."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch
from torch import Tensor

import bridges
from bridges import GaussianBridge, LabelEnds
from bridges.latent.latent_map import LatentMap, Reader
from bridges.latent.lens import Lens
from bridges.latent.trajectory import Times, Trajectory
from bridges.processes.constants import constant, of_one_word

D, H, N, LAYERS = 4, 8, 5, 6
COSTS = (
    "brownian",
    "brownian:likelihood=path",
    "ou:likelihood=path",
    "gp:likelihood=path,kernel=rbf",
    "clock",
    "random:target=ou",
    "student:base=ou",
    "posterior",
    "posterior:process=ou,over=prefixes,until=0.7",
    "posterior:layers=exit,until=0.6",
    "axis",
    "axis:layers=flat,since=0.3,rest=0.5",
    "regression",
    "kinetic",
)


class Counted(GaussianBridge):
    """Counts how often its law is asked for."""

    calls: ClassVar[list[int]] = []

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self.power = power

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append(1)
        return t**self.power, t * (1 - t)


def trajectory() -> Trajectory:
    rng = torch.Generator().manual_seed(0)
    states = torch.randn(LAYERS, N, H, generator=rng)
    return Trajectory(states, torch.randn(LAYERS, 3, H, generator=rng), torch.tensor([0, 1, 2, 2, 0]))


def readers() -> Iterator[Reader]:
    torch.manual_seed(1)
    for reader in (LatentMap(H, (8, D)), Lens(LAYERS, H, D)):
        yield reader.requires_grad_(False)


def labels(words: int = 1) -> LabelEnds:
    vectors = torch.randn(3, words, D, generator=torch.Generator().manual_seed(2))
    return LabelEnds(vectors, torch.full((3, words), 1 / words).log())


ANSWERS = torch.tensor([0, 2, 1, 0, 1])


def value(bridge: bridges.Bridge, reader: Reader, ends: LabelEnds, path: Trajectory) -> Tensor:
    return bridge.of_labels(reader, path, ANSWERS, ends)


def test_a_law_is_asked_for_once() -> None:
    bridge, path = Counted(), trajectory()
    for reader in readers():
        Counted.calls.clear()
        first = value(bridge, reader, labels(), path)
        once = len(Counted.calls)
        assert torch.equal(value(bridge, reader, labels(), path), first)
        assert len(Counted.calls) == once
    bridge.power = 2.0
    assert torch.equal(
        value(bridge, reader, labels(), path), value(Counted(2.0), reader, labels(), path)
    )


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("words", [1, 2])
def test_a_second_time_it_is_the_same_to_the_bit(name: str, words: int) -> None:
    for reader in readers():
        bridge, ends = bridges.parse(name).requires_grad_(False), labels(words)
        paths = [trajectory(), trajectory()]
        found = []
        for path in paths:
            path.states.requires_grad_()
            cost = value(bridge, reader, ends, path)
            found.append((cost, *torch.autograd.grad(cost.sum(), path.states)))
        assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ou:likelihood=path", lambda bridge: setattr(bridge, "theta", 3.0)),
        ("ou", lambda bridge: setattr(bridge, "sigma", 2.0)),
        ("random:target=ou", lambda bridge: setattr(bridge.process, "theta", 3.0)),
        ("random:target=ou", lambda bridge: setattr(bridge, "keep", 0.5)),
        ("posterior:process=ou", lambda bridge: setattr(bridge.inner, "theta", 3.0)),
        ("posterior", lambda bridge: setattr(bridge, "until", 0.5)),
        ("axis:process=ou", lambda bridge: setattr(bridge.inner, "theta", 3.0)),
        ("student:base=ou", lambda bridge: setattr(bridge.process, "theta", 3.0)),
        ("brownian", lambda bridge: setattr(bridge, "likelihood", "path")),
    ],
)
def test_another_number_is_another_law_at_once(name: str, change: object) -> None:
    path, ends = trajectory(), labels()
    for reader in readers():
        used, fresh = (bridges.parse(name) for _ in range(2))
        before = value(used, reader, ends, path)
        change(used), change(fresh)  # type: ignore[operator]
        after = value(used, reader, ends, path)
        assert torch.equal(after, value(fresh, reader, ends, path))
        assert not torch.equal(after, before)


def test_a_loaded_state_is_another_law_at_once() -> None:
    path, ends = trajectory(), labels()
    used, other = (bridges.parse(f"ou:theta={x},learn=theta") for x in (1, 3))
    used.requires_grad_(False), other.requires_grad_(False)
    reader = next(readers())
    before = value(used, reader, ends, path)
    used.load_state_dict(other.state_dict())
    after = value(used, reader, ends, path)
    assert torch.equal(after, value(other, reader, ends, path))
    assert not torch.equal(after, before)


def test_what_is_learned_has_its_gradient_each_time() -> None:
    bridge, path, ends = bridges.parse("ou:learn=theta,likelihood=path"), trajectory(), labels()
    reader = next(readers())
    grads = [
        torch.autograd.grad(value(bridge, reader, ends, path).sum(), bridge.free_theta)[0]
        for _ in range(2)
    ]
    assert torch.equal(*grads)
    assert grads[0] != 0


@pytest.mark.parametrize("name", COSTS)
def test_what_was_kept_in_inference_serves_training(name: str) -> None:
    path, ends = trajectory(), labels()
    for reader in readers():
        bridge, fresh = (bridges.parse(name).requires_grad_(False) for _ in range(2))
        with torch.inference_mode():
            value(bridge, reader, ends, path)
        path.states.requires_grad_()
        mine, other = (value(x, reader, ends, path) for x in (bridge, fresh))
        assert torch.equal(mine, other)
        torch.autograd.grad(mine.sum(), path.states)


@pytest.mark.parametrize("name", ["ou:likelihood=path", "posterior", "sde:target=ou"])
def test_nothing_of_it_is_saved_or_copied(name: str) -> None:
    bridge = bridges.parse(name)
    fresh = pickle.dumps(bridge)
    keys = list(vars(bridge)), list(bridge.state_dict())
    made = constant(bridge, "key", lambda: torch.ones(3))
    assert constant(bridge, "key", lambda: torch.zeros(3)) is made
    assert (list(vars(bridge)), list(bridge.state_dict())) == keys
    assert len(pickle.dumps(bridge)) == len(fresh)
    for other in (copy.deepcopy(bridge), pickle.loads(fresh)):
        assert constant(other, "key", lambda: torch.zeros(3)) is not made


def test_no_more_than_a_few_are_kept() -> None:
    bridge = bridges.get("brownian")
    made = constant(bridge, "used", object)
    for number in range(100):
        constant(bridge, number, object)
        assert constant(bridge, "used", object) is made  # the last ones asked for
    first = constant(bridge, 99, object)
    assert constant(bridge, 99, object) is first
    for number in range(1000, 1040):
        constant(bridge, number, object)
    assert constant(bridge, 99, object) is not first


def test_the_grid_of_an_sde_follows_its_target() -> None:
    used, fresh = bridges.parse("sde:target=ou"), bridges.parse("sde:target=ou:theta=3")
    reader = used.make_map(H, (8, D)).requires_grad_(False)

    def cost(bridge: bridges.Bridge) -> Tensor:
        end = labels().vectors[ANSWERS, 0]
        return bridge.cost(reader, trajectory(), end, generator=torch.Generator().manual_seed(0))

    before = cost(used)
    used.process.theta = 3.0
    assert torch.equal(cost(used), cost(fresh))
    assert not torch.equal(cost(used), before)


@pytest.mark.parametrize("name", ["brownian", "ou:likelihood=path", "kinetic", "student"])
def test_a_mixture_of_one_word_is_that_word(name: str) -> None:
    """The long way round: a second word that has no weight."""
    path, one = trajectory(), labels()
    two = LabelEnds(
        torch.cat([one.vectors, torch.zeros_like(one.vectors)], 1),
        torch.cat([one.log_weights, torch.full_like(one.log_weights, -torch.inf)], 1),
    )
    assert of_one_word(one)
    assert not of_one_word(two)
    for reader in readers():
        bridge = bridges.parse(name)
        torch.testing.assert_close(*(value(bridge, reader, ends, path) for ends in (one, two)))


def test_a_weight_of_one_word_that_is_none_counts() -> None:
    half = LabelEnds(labels().vectors, torch.full((3, 1), 0.5).log())
    assert not of_one_word(half)
    bridge, path, reader = bridges.get("brownian"), trajectory(), next(readers())
    more = value(bridge, reader, half, path) - value(bridge, reader, labels(), path)
    torch.testing.assert_close(more, torch.full((N,), torch.tensor(2.0).log().item() / LAYERS))


def test_times_are_those_of_the_layers() -> None:
    path = trajectory()
    assert torch.equal(path.clock.tensor(), path.times())
    assert torch.equal(Times(2, 6, torch.device("cpu")).tensor(), path.times()[:2])
