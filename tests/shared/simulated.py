"""Trajectories drawn from a bridge, and the bridge found in them again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bridges import LatentMap, Trajectory
from bridges.latent.trajectory import layer_times
from bridges.processes.gaussian import GaussianBridge


def observed(
    bridge: GaussianBridge, layers: int, tokens: int, seed: int
) -> tuple[LatentMap, Trajectory, Tensor]:
    """What `cost` is called with when the states themselves are the bridge's paths: two dimensions."""
    rng = torch.Generator().manual_seed(seed)
    end = nn.functional.normalize(torch.randn(tokens, 2, generator=rng).double(), dim=1)
    states = bridge.sample(layer_times(layers), end, generator=rng)
    identity = LatentMap(2, (2,)).double().requires_grad_(False)
    nn.init.zeros_(identity.layers[0].bias)
    identity.layers[0].weight.data = torch.cat([torch.zeros(2, 2), torch.eye(2)], 1).double()
    context = torch.zeros(layers, 1, 2).double()
    return identity, Trajectory(states, context, torch.zeros(tokens, dtype=torch.long)), end


def minimise(bridge: GaussianBridge, data: tuple[LatentMap, Trajectory, Tensor]) -> None:
    optimizer = torch.optim.LBFGS(bridge.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = bridge.cost(*data).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
