"""The battery's second half: costs, their gradients, few bits, files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from bridges.cost.running_cost import RunningCost
from bridges.latent.end_points import EndPoints
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
            costs.append(bridge.cost(self.latent_map(bridge), self.trajectory(1), self.ends(bridge, 4)))
        assert_close(*costs, rtol=self.exact, atol=self.exact)

    def test_its_path_cost_is_its_joint_density(self) -> None:
        """Up to a constant in the states, over models of 1 to 24 layers; as it is, if it is learned."""
        bridge = self.joint_process(likelihood="path")
        latent_map, end = self.latent_map(bridge), self.ends(bridge, 4)
        for states in (1, 2, 7, 25):
            two = [self.trajectory(states, seed=s) for s in (0, 9)]
            t = two[0].times()
            mine = [bridge.cost(latent_map, x, end) for x in two]
            density = [-bridge.log_prob_path(latent_map(x), t, end) / states for x in two]
            close = self.exact * max(1.0, density[0].abs().max().item())
            assert_close(mine[0] - mine[1], density[0] - density[1], rtol=0, atol=close)
            if bridge.learn:
                assert_close(mine[0], density[0], rtol=0, atol=close)

    def test_several_end_points_are_each_by_itself(self) -> None:
        for given in self.likelihoods():
            bridge, trajectory = self.bridge(**given), self.trajectory(5)
            latent_map, ends = self.latent_map(bridge), self.ends(bridge, 3, 4)
            value = bridge.cost(latent_map, trajectory, ends, generator=rng(7))
            each = [bridge.cost(latent_map, trajectory, v, generator=rng(7)) for v in ends]
            assert value.shape == (3, 4)
            assert_close(value, torch.stack(each), rtol=self.exact, atol=self.exact)

    def test_its_gradients_are_right(self) -> None:
        """By finite differences, to states and context and to what is learned."""
        for given in self.likelihoods():
            bridge, trajectory = self.bridge(**given), self.trajectory(4)
            fixed = bridge, self.latent_map(bridge), self.ends(bridge, 4)

            def cost(states: Tensor, context: Tensor, *_: Tensor, fixed: Any = fixed) -> Tensor:
                bridge, latent_map, end = fixed
                moved = Trajectory(states, context, ROWS)
                value: Tensor = bridge.cost(latent_map, moved, end, generator=rng(7))
                return value

            inputs = trajectory.states, trajectory.context, *bridge.parameters()
            if cost(*inputs).requires_grad:
                assert torch.autograd.gradcheck(cost, inputs, atol=1e-6, rtol=1e-4)

    def test_its_cost_is_finite_and_right_in_few_bits(self) -> None:
        """Models of 1 to 128 layers, whose times come as near to 0 and 1 as 1/130, and the extremes.

        With a map in float32 it agrees with float64, on states in bfloat16 as on any; with a map in
        bfloat16 it stays finite. So do all gradients.
        """
        for extreme in ({}, *self.extremes):
            for likelihood in self.likelihoods():
                given = {**likelihood, **extreme}
                for layers in (1, 2, 24, 128):
                    self._check_few_bits(self.bridge(**given), layers + 1, given)

    def _check_few_bits(self, bridge: Cost, states: int, given: Mapping[str, Any]) -> None:
        drawn, end, latent_map = self.trajectory(states), self.ends(bridge, 4), self.latent_map(bridge)
        rounded = [x.detach().bfloat16() for x in (drawn.states, drawn.context)]
        whole = [x.double() for x in rounded]
        exact = bridge.cost(
            latent_map, Trajectory(whole[0], whole[1], ROWS), end, generator=rng(7)
        ).detach()
        for dtype, weights in _FEW_BITS:
            where = f"{given}, {states} states in {dtype}, map in {weights}"
            leaves = [x.to(dtype).requires_grad_() for x in rounded]
            few = Trajectory(leaves[0], leaves[1], ROWS)
            bridge, latent_map, end = bridge.to(weights), latent_map.to(weights), end.to(weights)
            value = bridge.cost(latent_map, few, end, generator=rng(7))
            assert value.dtype == weights, where
            assert value.isfinite().all(), where
            if weights == torch.float32:
                off = (value.double() - exact).abs() / exact.abs().clamp(min=1)
                assert (off <= self.single).all(), f"{where}: off by {off.max()}"
            if value.requires_grad:
                learned = [p for p in bridge.parameters() if p.requires_grad]
                grads = torch.autograd.grad(value.float().mean(), [*leaves, *learned])
                assert all(grad.isfinite().all() for grad in grads), where

    def test_a_cost_with_it_is_saved_and_loaded(self) -> None:
        for given in self.likelihoods():
            bridge = self.bridge(**given).float()
            spec = ModelSpec("none", "bert", 3, HIDDEN, 11, "same", Fingerprint((1.0,) * 16))
            points = EndPoints(self.ends(bridge, 11).float())
            cost = RunningCost(spec, bridge, self.latent_map(bridge).float(), points)
            with tempfile.TemporaryDirectory() as folder:
                cost.save_pretrained(folder)
                loaded = RunningCost.from_pretrained(folder)
            assert loaded.config() == cost.config()
            assert loaded.digest() == cost.digest()
            hidden = [torch.randn(1, 3, HIDDEN, generator=rng(i)) for i in range(4)]
            targets = torch.tensor([[-100, 7, -100]])
            values = [one(hidden, targets, generator=rng(7)) for one in (cost, loaded)]
            assert torch.equal(*values)
