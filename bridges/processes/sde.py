"""Learned-drift SDE bridge: the states steer a random path that should look like a pinned process."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bridges.errors import BadInput, check_counts, shown
from bridges.latent.latent_map import Layers, Reader
from bridges.latent.lens import Lens
from bridges.latent.trajectory import Trajectory, layer_times
from bridges.processes.base import catalogue
from bridges.processes.constants import constant
from bridges.processes.gaussian import GaussianBridge
from bridges.processes.snapshot import snapshot
from bridges.processes.wrapped import Wrapped
from kernels.path.picard import FixedSweeps
from kernels.path.solver import SolverReport
from kernels.path.spline import natural_spline_matrix
from kernels.sde import PathGrid, sde_cost

_PANELS = 64
"""Panels in which a step's weight is shared between its two ends: for 24 steps or more, to 1e-4."""

TOLERANCE = 1e-4
"""Of the path, relative; see `kernels.path.solver.SolverSettings`."""

LOOK = 64
"""Replays of a captured cost after which the host looks whether its sweeps are still enough."""

_MOST_STEPS = 10_000
logger = logging.getLogger(__name__)
_READS = ("both", "state")


class DriftNetwork(Layers):
    """p(t, y, LayerNorm(X(t))): where the path is to end, as seen from time t, state y and the layers.

    A stack of linear layers with 0.909 SiLU between (arXiv 2305.17670, section 3.3). Its first layer
    is kept in two parts: ``layers[0]`` reads X in R^{2H}, ``path`` reads [t; y] in R^{1+d}. Without a
    path there is no latent trajectory.

    Args:
        hidden_size: H.
        widths: widths of the layers; the last is d.
        of_states: X is in R^H, the token's own states.
    """

    makes_latents = False

    def __init__(self, hidden_size: int, widths: Sequence[int], *, of_states: bool = False) -> None:
        super().__init__(hidden_size, widths)
        if of_states:
            self.layers[0] = nn.Linear(hidden_size, widths[0])
        self.path = nn.Linear(1 + widths[-1], widths[0], bias=False)


class SDEBridge(Wrapped, name="sde"):
    """Path-space KL from a learned SDE, steered by the states and blind to v, to a pinned process.

    The target's pinned drift is affine, ``b = alpha(t) y + beta(t) v``. The learned drift has the
    same form with the network's guess of the end point in the place of v:

        f = alpha(t) y + beta(t) p(t, y, LayerNorm(X(t)))
        cost = E 1/2  integral from 0 to t_(L+1) of beta(t)^2 / sigma^2 |p - v|^2 dt

    Captured as a CUDA graph, where the host cannot look whether the path has converged, it takes one
    sweep more than the solves before it; every so often the largest residual since is looked at, and
    where it was above the tolerance the graph is made anew with another sweep more.

    X is the natural cubic spline through (0, 0) and the layers' states. f never sees v: the cost
    measures whether the states reveal it. The affine part is integrated exactly between nodes, with the
    target's own transition, and the cost's weight exactly against p's linear interpolation, so that few
    nodes are enough (benchmarks/NOTES.md has the bias).

    Each call draws one path per token; give a ``generator`` to fix the draw. As a process on its own,
    without states to steer it, it is its target: `mean`, `variance`, `sample` and `log_prob` are the
    target's.

    Source: arXiv 2305.17670, section 3.3; the affine form of f is ours.

    Args:
        target: a Markov Gaussian bridge, as in `bridges.parse`: "brownian", "ou:theta=2".
        steps: of the time grid, at least; every gap between two layers gets the same number, so that
            the layers' times are always nodes.
        reads: what the drift sees of the layers: "both" the token's states and the mean ones of its
            sequence, or the token's own "state" alone, as published.

    Raises:
        BadInput: for a target that is no Markov Gaussian bridge, or a number or name out of range.
    """

    graphs = True
    formula = "E 1/2 int beta^2 / sigma^2 |p(t, y, X) - v|^2 dt,  dy = (alpha y + beta p) dt + sigma dW"
    purpose = (
        "A cost that is learned: how far a path that the layers steer is from the target process. It "
        "measures whether the states reveal v."
    )

    def __init__(self, target: str = "brownian", steps: int = 24, reads: str = "both") -> None:
        check_counts(steps=steps)
        if reads not in _READS:
            raise BadInput(f"reads={shown(reads)}: expected {' or '.join(map(repr, _READS))}")
        if steps > _MOST_STEPS:
            raise BadInput(f"steps={steps}: expected at most {_MOST_STEPS}, which is more than enough")
        process = catalogue.parse(target)
        if not isinstance(process, GaussianBridge) or not process.is_markov():
            raise BadInput(
                f"target={shown(target)}: expected a Markov Gaussian bridge, which needs a covariance "
                "with c(s,u) c(t,t) = c(s,t) c(t,u); for example 'brownian' or 'ou'"
            )
        if process.learn or process.dims is not None:
            raise BadInput(
                f"target={shown(target)}: expected fixed parameters, the same in every dimension; what "
                "is learned here is the drift"
            )
        super().__init__(process)
        self.target = target
        self.steps = steps
        self.reads = reads
        self.last_solve: SolverReport | None = None
        self._worst: list[Tensor] = []  # of captured solves, one for each device
        self._replays = self._spare = 0

    def make_map(self, hidden_size: int, widths: Sequence[int]) -> DriftNetwork:
        return DriftNetwork(hidden_size, widths, of_states=self.reads == "state")

    def make_lens(self, num_states: int, hidden_size: int, dim: int) -> Lens:
        raise BadInput(
            "map='lens': the drift of 'sde' is a network that reads the states themselves, so there are "
            "no latents for a lens to make; use map='mlp', or another bridge, such as 'brownian'"
        )

    def terms(self, trajectory: Trajectory) -> int:
        return 1

    def cost(
        self,
        latent_map: Reader,
        trajectory: Trajectory,
        end: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """An unbiased draw of each token's KL on the grid; ``last_solve`` says what it took."""
        if not isinstance(latent_map, DriftNetwork):
            raise BadInput(f"{type(latent_map).__name__} is no drift network: make it with make_map")
        trajectory = latent_map.seen(trajectory)
        weight = latent_map.weights[0]
        grid = self._grid(len(trajectory.states), weight)
        device = end.device if generator is None else generator.device
        noise = torch.randn(
            len(grid.decay), *end.shape[-2:], generator=generator, dtype=weight.dtype, device=device
        )
        value, self.last_solve = sde_cost(
            trajectory.states,
            trajectory.context if self.reads == "both" else None,
            trajectory.rows,
            latent_map.path.weight,
            latent_map.weights,
            latent_map.biases,
            end,
            noise.to(end.device),
            grid,
            reduction="none",
            tolerance=TOLERANCE,
            fixed=self._fixed(trajectory.states.device),
        )
        return value

    def graph_state(self) -> Hashable | None:
        solve = self.last_solve
        if solve is None or solve.solver != "picard" or not solve.backward_evaluations:
            return None  # nothing is known of the sweeps that it takes
        process = snapshot(self.process)
        if process is None:
            return None
        self._replays += 1
        for worst in self._worst if self._replays % LOOK == 0 else ():
            if not float(worst) <= TOLERANCE:
                self._spare += 1
                logger.info("captured paths changed by %.1e in their last sweep", float(worst))
            worst.zero_()
        return process, self.steps, self.reads, self._spare

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also of one that was pickled before its cost could be captured."""
        super().__setstate__({"_worst": [], "_replays": 0, "_spare": 0, **state})

    def _fixed(self, device: torch.device) -> FixedSweeps | None:
        """The sweeps of a solve that is being captured."""
        if device.type != "cuda":
            return None
        if not torch.cuda.is_current_stream_capturing():
            if all(worst.device != device for worst in self._worst):
                self._worst.append(torch.zeros((), device=device))
            return None
        assert self.last_solve is not None
        more, solve = 1 + self._spare, self.last_solve
        (worst,) = (worst for worst in self._worst if worst.device == device)
        return FixedSweeps(solve.evaluations + more, solve.backward_evaluations + more, worst)

    def _grid(self, num_states: int, like: Tensor) -> PathGrid:
        steps = self.steps
        key = "grid", num_states, steps, like.device, like.dtype
        return constant(self.process, key, lambda: path_grid(self.process, num_states, steps).to(like))


def path_grid(target: GaussianBridge, num_states: int, steps: int = 1) -> PathGrid:
    """Nodes, transitions and quadrature of the cost of a drift of the target's affine form.

    Between two nodes the path moves by the target's transition with p in the place of the end point.
    A frozen p makes the KL of that step ``|p - v|^2 gain^2 / (2 variance)`` of the transition, and
    gain^2 / variance equals the integral of beta^2 / sigma^2 over the step. The step's weight is shared
    between its ends as the integral of that density against linear interpolation.

    Args:
        target: Markov.
        num_states: L+1 layers' states.
        steps: at least, a multiple of L+1 in the end.
    """
    knots = torch.cat([torch.zeros(1, dtype=torch.float64), layer_times(num_states)])
    per_layer = -(-steps // num_states)
    inside = torch.arange(per_layer, dtype=torch.float64) / per_layer
    times = torch.cat([(knots[:-1, None] + knots.diff()[:, None] * inside).flatten(), knots[-1:]])
    decay, gain, variance = target.transition(times[:-1], times[1:])
    edges = torch.linspace(0, 1, _PANELS + 1, dtype=torch.float64)
    fine = times[:-1, None] + times.diff()[:, None] * edges
    _, step_gain, step_variance = target.transition(fine[:, :-1], fine[:, 1:])
    share = (edges[:-1] + edges[1:]) / 2
    density = step_gain**2 / step_variance
    weight = torch.zeros_like(times)
    weight[:-1] += (density * (1 - share)).sum(1)
    weight[1:] += (density * share).sum(1)
    one, zero = torch.ones_like(times), torch.zeros_like(times)
    spline = natural_spline_matrix(knots, times)[:, 1:]  # the first knot is 0 and adds nothing
    return PathGrid(times, spline, decay, gain, variance.sqrt(), one, zero, one, weight)
