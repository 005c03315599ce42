"""Which layers a cost holds on to: of a bridge's cost, and of a regularizer of hidden states."""

from __future__ import annotations

import torch
from torch import Tensor

from bridges import (
    AboutLabel,
    Axis,
    Cost,
    LabelEnds,
    LatentMap,
    ModelSpec,
    Process,
    SDEBridge,
    Trajectory,
)
from bridges.latent.trajectory import layer_times
from bridges.model.fingerprint import Fingerprint
from bridges.processes.sde import path_grid
from pets.regularizers import Objective
from pets.regularizers.passes import Pass, Read

TARGETS, WIDTH = 64, 32
MADE_UP = (
    f"{TARGETS} made-up targets with two labels: states of {WIDTH} numbers that walk at random from "
    "layer to layer and part by label with depth, the last layer's step three times as long as the "
    "others'; the frozen model's states are a tenth of their length away"
)
"""What `made_up` is, in words."""

_DRIFT, _STEP, _LAST, _MOVED = (
    0.12,
    0.3,
    3.0,
    0.1,
)  # of the made-up states, in units of a first one's entry


def layer_weights(bridge: Cost, num_states: int) -> Tensor:
    """How much the cost of a bridge makes of each layer: ``cost = mean_i w_i |p_i - v|^2``, [L+1].

    Here ``z_i = m(t_i) p_i``, so that p_i is the end point as layer i tells it. Every layer is moved
    a little off the mean path by itself; for a Gaussian bridge, layer by layer, that is
    ``m(t_i)^2 / (2 s2(t_i))``. A cost without a mean path counts as m = 1. Of the "sde" cost p is the
    network's guess, and w its quadrature weight. A cost about the label has one between labels at 1 and
    -1; w is how much it falls with p_i, where no layer tells anything, in comparison with that sum.
    """
    times = layer_times(num_states)
    if isinstance(bridge, AboutLabel):
        return _slopes(bridge, times)
    if isinstance(bridge, SDEBridge):
        return path_grid(bridge.process, num_states).weight[1:] * num_states / 2
    end = torch.ones(1, 1, dtype=torch.float64)
    if isinstance(bridge, Process):
        mean, step = bridge.mean(times, end)[:, 0, 0], 1e-3 * bridge.variance(times).sqrt()
    else:
        mean = step = torch.ones_like(times)
    moves = torch.diag(step)
    z = mean[:, None] + torch.cat([moves, -moves, torch.zeros_like(moves[:, :1])], 1)
    cost = bridge.cost(_identity(), _paths(z), end.expand(z.shape[1], 1))
    curvature = (cost[:num_states] + cost[num_states:-1] - 2 * cost[-1]) / step.square()
    return mean.square() * curvature * num_states / 2


def _slopes(bridge: AboutLabel, times: Tensor) -> Tensor:
    """`layer_weights` of a cost about the label; one of `mean_i w_i (p_i - 1)^2` is 2 w_i / (L+1)."""
    labels = LabelEnds(torch.tensor([[[1.0]], [[-1.0]]]).double(), torch.zeros(2, 1).double())
    with torch.enable_grad():
        z = torch.zeros(len(times), 1, dtype=torch.float64, requires_grad=True)
        cost = bridge.of_labels(_identity(), _paths(z), torch.tensor([0]), labels)
        (slope,) = torch.autograd.grad(cost.sum(), z)
    scale = len(times[bridge.counted(len(times))]) if isinstance(bridge, Axis) else 1
    return -slope[:, 0] * bridge.mean_factor(times) * scale / 2


def _identity() -> LatentMap:
    """Reads latents that are the states themselves, in one dimension."""
    identity = LatentMap(1, (1,)).double().requires_grad_(False)
    identity.weights[0].copy_(torch.tensor([[0.0, 1.0]]))
    identity.biases[0].zero_()
    return identity


def _paths(z: Tensor) -> Trajectory:
    """Latent paths [L+1, N] as such states."""
    context = torch.zeros(len(z), 1, 1, dtype=z.dtype)
    return Trajectory(z[..., None], context, torch.zeros(z.shape[1], dtype=torch.int64))


def made_up(num_states: int, targets: int = TARGETS, width: int = WIDTH) -> tuple[Pass, Tensor]:
    """A training forward to ask a regularizer of, the same each time; see `MADE_UP`.

    Args:
        num_states: L+1.
        targets: N, half of them of each label.
        width: H.

    Returns:
        The forward and its states [L+1, N, H], float64 with gradient. Its own loss is 0; its head reads
        the two labels' directions.
    """
    rng = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    answers = torch.arange(targets) % 2
    line = torch.nn.functional.normalize(noise(width), dim=0)
    towards = (2 * answers - 1)[:, None] * line
    steps = _STEP * noise(num_states - 1, targets, width) + _DRIFT * towards
    steps[-1] *= _LAST
    start = noise(1, targets, width)
    frozen = torch.cat([start, start + steps.cumsum(0)])
    # At a right angle, so that every state is moved, and grows, by the same share of its length.
    aside = noise(num_states, targets, width)
    aside -= frozen * (aside * frozen).sum(-1, keepdim=True) / frozen.square().sum(-1, keepdim=True)
    aside *= frozen.norm(dim=-1, keepdim=True) / aside.norm(dim=-1, keepdim=True)
    states = (frozen + _MOVED * aside).requires_grad_()
    spec = ModelSpec("made-up", "made-up", num_states - 1, width, 2, "same", Fingerprint(()))

    def read(of: Tensor) -> Read:
        return Read(Trajectory.of_states(of), answers, 2, None, spec)

    def head(of: Tensor) -> Tensor:
        return (of @ torch.stack([-line, line], 1)).log_softmax(-1)

    def again() -> Pass:
        return Pass(
            states.new_zeros(()),
            lambda: head(states[-1]),
            mean=Tensor.mean,
            again=again,
            read=lambda: read(states),
            head=head,
            frozen=lambda: read(frozen),
        )

    return again(), states


def state_weights(
    objective: Objective, num_states: int, targets: int = TARGETS, width: int = WIDTH
) -> Tensor:
    """How a regularizer's pull on hidden states is shared out among the layers, [L+1]; 0 where none is.

    Asked of the forward that `made_up` makes: how steeply what it adds to the loss changes as one state
    alone moves, in lengths of that state, mean over the targets. They sum to 1, unless all are 0.

    Args:
        objective: one that reads states, not attached to any model.
        num_states, targets, width: of that forward.

    Raises:
        whatever the regularizer raises where these states are not enough for it.
    """
    seen, states = made_up(num_states, targets, width)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        term = objective.term(seen)
        added = objective.loss(seen) if term is None else objective.loss(seen) + term
    if not added.requires_grad:
        return states.new_zeros(num_states).detach()
    (slope,) = torch.autograd.grad(added, states)
    pull: Tensor = (slope.norm(dim=-1) * states.detach().norm(dim=-1)).mean(1)
    total = pull.sum()
    return pull / total if total > 0 else pull
