"""Controls: costs that a claim about bridges has to be measured against, under the same names."""

from __future__ import annotations

import torch
from torch import Tensor

from bridges.latent.latent_map import Reader
from bridges.latent.trajectory import Times, Trajectory
from bridges.processes.base import Cost
from bridges.processes.brownian import BrownianBridge
from bridges.processes.constants import constant
from bridges.processes.likelihood import Steps, steps_cost


class Control(Cost):
    """A cost of the trajectory that belongs to no process: it has no law to draw or to ask for."""

    def terms(self, trajectory: Trajectory) -> int:
        return len(trajectory.states)


class Regression(Control, name="regression"):
    """Flat deep supervision: every layer is drawn to the end point, with the same weight.

        mean over the L+1 layers i of |z_i - v|^2 / 2

    What is left of a bridge's cost when layers need not take their time.
    """

    graphs = True
    formula = "mean over layers of |z_i - v|^2 / 2"
    purpose = (
        "A control: flat deep supervision, every layer drawn to v with the same weight. No process."
    )

    def cost(
        self,
        latent_map: Reader,
        trajectory: Trajectory,
        end: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        times = trajectory.clock
        return steps_cost(latent_map, trajectory, end, constant(self, times, lambda: _equal(times)))


def _equal(times: Times) -> Steps:
    """Every layer as the others."""
    one = torch.ones_like(times.tensor())
    return Steps(None, one, one, one)


class Kinetic(Control, name="kinetic"):
    """Squared increments: the shortest path from 0 to the end point, at an even pace.

    The kinetic energy of the path through z_0 = 0, the layers' z_1 ... z_{L+1} and z_{L+2} = v, whose
    times are ``t_i = i / (L+2)``, over the number of layers:

        1 / (L+1)  sum over i = 1 .. L+2 of |z_i - z_(i-1)|^2 / (2 (t_i - t_(i-1)))

    It is least, ``|v|^2 / (2 (L+1))``, on the straight line. It is the path likelihood of the Brownian
    bridge with sigma 1 and this constant: the two have the same gradients, so ``brownian`` with
    ``likelihood="path"`` asks for a shortest path and no more.
    """

    graphs = True
    formula = (
        "sum over i = 1..L+2 of |z_i - z_{i-1}|^2 / (2 (t_i - t_{i-1})) / (L+1),  z_0 = 0, z_{L+2} = v"
    )
    purpose = (
        "A control: the shortest path at an even pace, every increment alike. No process. It is "
        "`brownian:likelihood=path` plus a constant, the same gradients, so it is no control of that "
        "bridge: `regression` and `brownian:likelihood=path@shuffled-ends` are."
    )

    def __init__(self) -> None:
        super().__init__()
        self.brownian = BrownianBridge(likelihood="path")

    def mean_factor(self, t: Tensor) -> Tensor:
        return self.brownian.mean_factor(t)

    def cost(
        self,
        latent_map: Reader,
        trajectory: Trajectory,
        end: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        around = self.brownian.cost(latent_map, trajectory, end)
        straight = end.square().sum(-1) / (2 * len(trajectory.states))
        return around + straight.to(around.dtype)


class Nothing(Control, name="none"):
    """No cost: what a run is without one, in everything else the same.

    Its cost is 0 and has no gradient, so there is nothing to fit.
    """

    formula = "0"
    purpose = "A control: no cost at all, everything else the same."
    fits = False

    def cost(
        self,
        latent_map: Reader,
        trajectory: Trajectory,
        end: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        return end.new_zeros(end.shape[:-1], dtype=latent_map.dtype)
