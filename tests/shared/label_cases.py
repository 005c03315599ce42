"""What the tests of costs about the label share: labels, readers, and each word's density by torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal
from zoo_cases import generator

import bridges
from bridges import GaussianBridge, LabelEnds, LatentMap, Trajectory
from bridges.latent.latent_map import Reader
from bridges.latent.lens import Lens

HIDDEN, DIM, TOKENS = 6, 4, 5
PROCESSES = (
    "brownian:sigma=0.7",
    "brownian:sigma=[0.5,1,2,3]",
    "brownian:likelihood=path",
    "ou:theta=3",
    "ou:theta=[0.5,1,2,8],likelihood=path",
    "alpha:alpha=0.6",
    "alpha:alpha=3,likelihood=path",
    "clock:clock=[1,3,8,6]",
    "clock:clock=[1,3,8,6],sigma=2,likelihood=path",
    "fractional:hurst=0.25",
    "fractional:hurst=0.8,likelihood=path",
    "gp:kernel=matern12,likelihood=path",
    "gp:kernel=matern32,lengthscale=[0.2,0.5,1,2],likelihood=path",
    "gp:kernel=matern52,lengthscale=0.3",
    "smooth",
    "smooth:sigma=2,likelihood=path",
)
"""Every Gaussian process of the zoo, either likelihood: layers by themselves, by steps, and jointly."""
READERS = ("identity", "mlp", "lens")


def reader(name: str, states: int) -> Reader:
    """Frozen, in float64; of "identity" the states' first numbers are the latents."""
    torch.manual_seed(3)
    if name == "lens":
        made: Reader = Lens(states, HIDDEN, DIM)
        made.centre.normal_()
    elif name == "mlp":
        made = LatentMap(HIDDEN, (7, DIM))
    else:
        made = identity(HIDDEN, DIM)
    return made.double().requires_grad_(False)


def identity(hidden: int, dim: int) -> LatentMap:
    made = LatentMap(hidden, (dim,)).double().requires_grad_(False)
    made.weights[0].copy_(torch.eye(2 * hidden)[hidden : hidden + dim])
    made.biases[0].zero_()
    return made


def case(states: int = 6, seed: int = 0) -> tuple[Trajectory, Tensor, LabelEnds]:
    """Five tokens in two sequences, their labels, and three labels of two, one and three words."""
    rng = generator(seed)
    shapes = ((states, TOKENS, HIDDEN), (states, 2, HIDDEN), (3, 3, DIM))
    hidden, context, vectors = (torch.randn(s, generator=rng, dtype=torch.float64) for s in shapes)
    shares = torch.tensor([[0.3, 0.7, 0], [1, 0, 0], [0.5, 0.2, 0.3]], dtype=torch.float64)
    vectors = nn.functional.normalize(vectors, dim=-1) * (shares > 0)[..., None]
    trajectory = Trajectory(hidden.requires_grad_(), context, torch.tensor([0, 1, 1, 0, 1]))
    return trajectory, torch.tensor([0, 1, 2, 1, 0]), LabelEnds(vectors, shares.log())


def one_word(vectors: Tensor) -> LabelEnds:
    """Labels [C, d] of a word each."""
    return LabelEnds(vectors[:, None], torch.zeros(len(vectors), 1).to(vectors))


def gaussian(text: str) -> GaussianBridge:
    bridge = bridges.parse(text)
    assert isinstance(bridge, GaussianBridge)
    return bridge


def log_density(bridge: GaussianBridge, z: Tensor, t: Tensor, end: Tensor) -> Tensor:
    """Of latents [k, N, d] at times t [k] towards one end point [d], by torch's distributions: [N]."""
    factor, variance = (x.reshape(len(t), -1).expand(-1, len(end)) for x in bridge.marginal(t))
    mean = factor * end
    if bridge.likelihood == "marginal":
        return Normal(mean[:, None], variance.sqrt()[:, None]).log_prob(z).sum((0, 2))
    kernel = bridge.covariance(t[:, None], t[None]).reshape(len(t), len(t), -1)
    each = kernel.expand(-1, -1, len(end)).movedim(-1, 0)
    return MultivariateNormal(mean.T, each).log_prob(z.permute(1, 2, 0)).sum(-1)


def surprise(bridge: GaussianBridge, z: Tensor, t: Tensor, answers: Tensor, labels: LabelEnds) -> Tensor:
    """``-log softmax_c log sum_k w_ck p(z | v_ck)`` at each token's label, word by word: [N]."""
    odds = []
    for vectors, weights in zip(labels.vectors, labels.log_weights, strict=True):
        words = [
            log_density(bridge, z, t, v) + w
            for v, w in zip(vectors, weights, strict=True)
            if w > -math.inf
        ]
        odds.append(torch.logsumexp(torch.stack(words), 0))
    return -torch.stack(odds).log_softmax(0)[answers, torch.arange(len(answers))]
