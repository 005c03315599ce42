"""The battery's second half: costs, their gradients, few bits, files."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from bridges.cost.running_cost import RunningCost
from bridges.latent.end_points import EndPoints
from bridges.latent.label_ends import LabelEnds
from bridges.latent.latent_map import Reader
from bridges.latent.trajectory import Trajectory
from bridges.model.fingerprint import Fingerprint
from bridges.model.spec import ModelSpec
from bridges.processes.base import Cost
from bridges.testing.case import HIDDEN, ROWS, Case, rng

_FEW_BITS = [
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.bfloat16, torch.bfloat16),
]
"""Dtypes of the states and of the map."""


class CostTests(Case):
    """The cost is the likelihood it says, its gradients are right, and it bears extremes and files."""

    def test_one_layer_has_one_cost(self) -> None:
        costs = []
        for given in self.likelihoods():
            bridge = self.joint_process(**given)
            end, trajectory = self.ends(bridge, 4), self.trajectory(1)
            costs.append(torch.stack([bridge.cost(x, trajectory, end) for x in self.readers(bridge, 1)]))
        assert_close(*costs, rtol=self.exact, atol=self.exact)

    def test_its_path_cost_is_its_joint_density(self) -> None:
        """Up to a constant in the states, over models of 1 to 24 layers; as it is, if it is learned.

        Through a lens that is the density of its guesses, by the change of variables z = m(t) p.
        """
        bridge = self.joint_process(likelihood="path")
        end = self.ends(bridge, 4)
        for states in (1, 2, 7, 25):
            two = [self.trajectory(states, seed=s) for s in (0, 9)]
            t = two[0].times()
            factor, _ = bridge.marginal(t)
            for reader in self.readers(bridge, states):
                mine = [bridge.cost(reader, x, end) for x in two]
                density = [-bridge.log_prob_path(reader(x, factor), t, end) / states for x in two]
                close = self.exact * max(1.0, density[0].abs().max().item())
                assert_close(mine[0] - mine[1], density[0] - density[1], rtol=0, atol=close)
                if bridge.learn:
                    each = torch.ones(states, end.shape[-1]).to(factor) * factor.reshape(states, -1)
                    volume = each.log().sum() / states if reader.guesses else 0
                    assert_close(mine[0], density[0] - volume, rtol=0, atol=close)

    def test_several_end_points_are_each_by_itself(self) -> None:
        for given in self.likelihoods():
            bridge, trajectory = self.bridge(**given), self.trajectory(5)
            ends = self.ends(bridge, 3, 4)
            for reader in self.readers(bridge, 5):
                value = bridge.cost(reader, trajectory, ends, generator=rng(7))
                each = [bridge.cost(reader, trajectory, v, generator=rng(7)) for v in ends]
                assert value.shape == (3, 4)
                assert_close(value, torch.stack(each), rtol=self.exact, atol=self.exact)

    def test_normalised_states_have_no_size(self) -> None:
        """A reader that normalises gives states a thousand times as large the same cost."""
        for given in self.likelihoods():
            bridge, trajectory = self.bridge(**given), self.trajectory(5)
            large = Trajectory(1e3 * trajectory.states, 1e3 * trajectory.context, ROWS)
            for reader in self.readers(bridge, 5):
                if reader.normalises:
                    both = [
                        bridge.cost(reader, x, self.ends(bridge, 4), generator=rng(7))
                        for x in (trajectory, large)
                    ]
                    assert_close(*both, rtol=self.exact, atol=self.exact)

    def test_labels_are_no_more_than_their_words(self) -> None:
        """In another order, or with a word written twice, they are the same labels."""
        answers, order = torch.tensor([0, 2, 1, 0]), torch.tensor([2, 0, 1])
        for given in self.likelihoods():
            bridge, trajectory = self.bridge(**given), self.trajectory(5)
            labels, place = self.labels(bridge), order.argsort()
            moved = LabelEnds(labels.vectors[order], labels.log_weights[order])
            twice = LabelEnds(
                torch.cat([labels.vectors] * 2, 1), torch.cat([labels.log_weights - math.log(2)] * 2, 1)
            )
            for reader in self.readers(bridge, 5):
                given_labels = ((answers, labels), (place[answers], moved), (answers, twice))
                first, *others = (
                    bridge.of_labels(reader, trajectory, *words, generator=rng(7))
                    for words in given_labels
                )
                assert first.shape == (4,)
                for other in others:
                    close = self.exact * max(1.0, first.abs().max().item())
                    assert_close(other, first, rtol=0, atol=close)

    def test_its_gradients_are_right(self) -> None:
        """By finite differences in a random direction, to all that it is made of; among labels too."""
        answers = torch.tensor([0, 2, 1, 0])
        for given in self.likelihoods():
            bridge, trajectory = self.bridge(**given), self.trajectory(4)
            for reader in self.readers(bridge, 4):
                fixed = bridge, reader, self.ends(bridge, 4), self.labels(bridge)

                def cost(states: Tensor, context: Tensor, *_: Tensor, fixed: Any = fixed) -> Tensor:
                    bridge, reader, end, labels = fixed
                    moved = Trajectory(states, context, ROWS)
                    towards = bridge.cost(reader, moved, end, generator=rng(7))
                    among = bridge.of_labels(reader, moved, answers, labels, generator=rng(7))
                    return torch.stack([towards, among])

                inputs = trajectory.states, trajectory.context, *bridge.parameters()
                if cost(*inputs).requires_grad:
                    assert torch.autograd.gradcheck(cost, inputs, atol=1e-6, rtol=1e-4, fast_mode=True)

    def test_its_cost_is_finite_and_right_in_few_bits(self) -> None:
        """Models of 1 to 128 layers, whose times come as near to 0 and 1 as 1/130, and the extremes.

        With a map in float32 it agrees with float64, on states in bfloat16 as on any; with a map in
        bfloat16 it stays finite. So do all gradients.
        """
        for extreme in ({}, *self.extremes):
            for likelihood in self.likelihoods():
                given = {**likelihood, **extreme}
                for states in (2, 3, 25, 129):
                    bridge = self.bridge(**given)
                    for reader in self.readers(bridge, states):
                        self._check_few_bits(copy.deepcopy(bridge), reader, states, given)

    def _check_few_bits(
        self, bridge: Cost, reader: Reader, states: int, given: Mapping[str, Any]
    ) -> None:
        drawn, end = self.trajectory(states), self.ends(bridge, 4)
        rounded = [x.detach().bfloat16() for x in (drawn.states, drawn.context)]
        whole = [x.double() for x in rounded]
        exact = bridge.cost(reader, Trajectory(whole[0], whole[1], ROWS), end, generator=rng(7)).detach()
        for dtype, weights in _FEW_BITS:
            where = f"{given}, {states} states in {dtype}, {type(reader).__name__} in {weights}"
            leaves = [x.to(dtype).requires_grad_() for x in rounded]
            few = Trajectory(leaves[0], leaves[1], ROWS)
            bridge, reader, end = bridge.to(weights), reader.to(weights), end.to(weights)
            value = bridge.cost(reader, few, end, generator=rng(7))
            assert value.dtype == weights, where
            assert value.isfinite().all(), where
            if weights == torch.float32:
                off = (value.double() - exact).abs() / exact.abs().clamp(min=1)
                assert (off <= self.single).all(), f"{where}: off by {off.max()}"
            if value.requires_grad:
                learned = [p for p in bridge.parameters() if p.requires_grad]
                read = leaves if reader.reads_context else leaves[:1]
                grads = torch.autograd.grad(value.float().mean(), [*read, *learned])
                assert all(grad.isfinite().all() for grad in grads), where

    def test_a_cost_with_it_is_saved_and_loaded(self) -> None:
        for given in self.likelihoods():
            bridge = self.bridge(**given).float()
            spec = ModelSpec("none", "bert", 3, HIDDEN, 11, "same", Fingerprint((1.0,) * 16))
            points = EndPoints(self.ends(bridge, 11).float())
            for reader in self.readers(bridge, 4):
                cost = RunningCost(spec, bridge, reader.float(), points)
                with tempfile.TemporaryDirectory() as folder:
                    cost.save_pretrained(folder)
                    loaded = RunningCost.from_pretrained(folder)
                assert loaded.config() == cost.config()
                assert loaded.digest() == cost.digest()
                hidden = [torch.randn(1, 3, HIDDEN, generator=rng(i)) for i in range(4)]
                targets = torch.tensor([[-100, 7, 2]])
                values = [one(hidden, targets, generator=rng(7)) for one in (cost, loaded)]
                assert torch.equal(*values)
