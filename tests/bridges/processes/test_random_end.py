"""The bridge of a random end: its law, its cost among labels, its files."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from tiny import TEXTS, tiny_bert, tiny_model, tiny_tokenizer
from torch import Tensor
from torch.testing import assert_close
from zoo_cases import f64, generator
from zoo_tools import trajectory

import bridges
import pets
from bridges import BadInput, GaussianBridge, LabelEnds, LatentMap, RandomEndBridge, RunningCost
from pets import Verbalizer

pytestmark = pytest.mark.slow

TARGETS = ["brownian", "ou:theta=3", "fractional:hurst=0.3", "smooth", "ou:likelihood=path"]
CANDIDATES = f64(1.5, -0.5, 0.3)
"""End points in one dimension, the own one first."""
RARE = 1e-4
"""Least p-value of a Kolmogorov-Smirnov test; the draws are fixed."""


def random(**parameters: Any) -> RandomEndBridge:
    bridge = bridges.get("random", **parameters)
    assert isinstance(bridge, RandomEndBridge)
    return bridge


def target_of(bridge: RandomEndBridge) -> GaussianBridge:
    process = bridges.parse(bridge.target)
    assert isinstance(process, GaussianBridge)
    return process


def candidates(count: int) -> Tensor:
    """[3, count, 1]."""
    return CANDIDATES[:, None, None].expand(-1, count, 1)


def mixture_cdf(bridge: RandomEndBridge, time: float, points: np.ndarray) -> np.ndarray:
    """The integral of exp(log_prob) up to each point, by cumulated trapezoids on a fine grid."""
    grid = torch.linspace(-8, 8, 40_001, dtype=torch.float64)
    density = bridge.log_prob(grid[None, :, None], f64(time), candidates(len(grid)))[0].exp()
    cdf = integrate.cumulative_trapezoid(density.numpy(), grid.numpy(), initial=0)
    return np.interp(points, grid.numpy(), cdf)


# The law


@pytest.mark.parametrize("target", ["brownian", "ou:theta=3", "smooth"])
def test_samples_have_the_moments_of_the_mixture(target: str) -> None:
    """40 000 paths: joint second moments too, which a candidate drawn anew at each time has not."""
    bridge, t, count = random(target=target, keep=0.6), f64(0.2, 0.5, 0.9), 40_000
    path = bridge.sample(t, candidates(count), generator=generator(1))[..., 0]
    process = target_of(bridge)
    weights, factor = f64(0.6, 0.2, 0.2), process.marginal(t)[0]
    mean, square = weights @ CANDIDATES, weights @ CANDIDATES.square()
    between = (square - mean**2) * factor[:, None] * factor
    covariance = process.covariance(t[:, None], t[None]) + between
    assert_close(bridge.mean(t, candidates(1))[:, 0, 0], factor * mean, rtol=1e-12, atol=0)
    assert torch.equal(bridge.variance(t), process.variance(t))
    assert ((path.mean(1) - factor * mean).abs() < 4 * (covariance.diag() / count).sqrt()).all()
    centred = path - (factor * mean)[:, None]
    found = centred @ centred.T / count
    fourth = centred.square() @ centred.square().T / count
    assert ((found - covariance).abs() < 4 * ((fourth - found.square()) / count).sqrt()).all()


@pytest.mark.parametrize("target", ["brownian", "ou:theta=3", "fractional:hurst=0.3"])
@pytest.mark.parametrize("time", [0.1, 0.5, 0.95])
def test_samples_have_the_density(target: str, time: float) -> None:
    """Kolmogorov-Smirnov of 5000 samples against the integral of exp(log_prob)."""
    bridge = random(target=target, keep=0.5)
    drawn = bridge.sample(f64(time), candidates(5000), generator=generator(2)).flatten().numpy()
    assert stats.kstest(drawn, lambda x: mixture_cdf(bridge, time, x)).pvalue > RARE
    other = random(target=target, keep=0.9)
    if time > 0.1:  # and the test can tell another probability
        assert stats.kstest(drawn, lambda x: mixture_cdf(other, time, x)).pvalue < RARE


@pytest.mark.parametrize("keep", [1e-6, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("time", [0.01, 0.5, 0.97])
def test_the_density_integrates_to_one(keep: float, time: float) -> None:
    bridge, t = random(target="ou", keep=keep), f64(time)
    spread = bridge.variance(t).sqrt().item()
    means = [bridge.mean(t, v[None, None]).item() for v in CANDIDATES]
    edges = sorted({m + 12 * side * spread for m in means for side in (-1, 0, 1)})

    def density(z: float) -> float:
        return math.exp(bridge.log_prob(f64(z)[None, None], t, candidates(1)).item())

    total = sum(integrate.quad(density, *pair, epsabs=1e-11)[0] for pair in itertools.pairwise(edges))
    assert total == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("target", TARGETS)
def test_densities_are_the_weighted_sum_of_the_targets(target: str) -> None:
    """Each time by itself and the whole path, where one candidate is meant throughout; far off too."""
    bridge, t = random(target=target, keep=0.7), f64(0.1, 0.4, 0.8)
    process, ends = target_of(bridge), torch.randn(4, 5, 2, generator=generator(3)).double()
    z = torch.randn(3, 5, 2, generator=generator(4)).double()
    weights = (0.7, 0.1, 0.1, 0.1)
    for found, density in (
        (bridge.log_prob(z, t, ends), process.log_prob),
        (bridge.log_prob_path(z, t, ends), process.log_prob_path),
    ):
        total = sum(w * density(z, t, v).exp() for w, v in zip(weights, ends, strict=True))
        assert isinstance(total, Tensor)
        seen = total > 0
        assert seen.any()
        assert_close(found[seen], total[seen].log(), rtol=1e-10, atol=1e-10)
    assert bridge.log_prob(1e3 * z, t, ends).isfinite().all()


def test_the_path_density_is_not_the_product_of_its_steps() -> None:
    """Bayes: the candidate's probability given a path that runs to it."""
    bridge, t = random(keep=0.5), f64(0.5, 0.9)
    ends = f64(1.0, -1.0)[:, None, None]
    z = f64(-0.5, -0.9)[:, None, None]
    own = math.log(0.5) + bridge.process.log_prob_path(z, t, ends[0]).item()
    posterior = math.exp(own - bridge.log_prob_path(z, t, ends).item())
    # Towards v the density of the path is that of z_2 = -0.9 given the end, up to what both share.
    odds = math.exp(stats.norm.logpdf(-0.9, 0.9, 0.3) - stats.norm.logpdf(-0.9, -0.9, 0.3))
    assert posterior == pytest.approx(odds / (1 + odds), rel=1e-9)


@pytest.mark.parametrize("target", TARGETS)
def test_kept_for_sure_or_without_others_it_is_the_target(target: str) -> None:
    """To the bit, samples included."""
    t, ends = f64(0.1, 0.5, 0.9), torch.randn(3, 4, 2, generator=generator(5)).double()
    z = torch.randn(3, 4, 2, generator=generator(6)).double()
    sure, maybe = random(target=target, keep=1), random(target=target, keep=0.3)
    process = target_of(sure)
    for bridge, end in ((sure, ends), (sure, ends[0]), (maybe, ends[:1]), (maybe, ends[0])):
        assert torch.equal(bridge.mean(t, end), process.mean(t, ends[0]))
        assert torch.equal(bridge.log_prob(z, t, end), process.log_prob(z, t, ends[0]))
        assert torch.equal(bridge.log_prob_path(z, t, end), process.log_prob_path(z, t, ends[0]))
        drawn, plain = (
            b.sample(t, e, generator=generator(7)) for b, e in ((bridge, end), (process, ends[0]))
        )
        assert torch.equal(drawn, plain)


def test_samples_run_from_0_to_a_candidate_and_follow_the_generator() -> None:
    bridge, t = random(target="ou", keep=0.4), torch.linspace(0, 1, 5)
    ends = torch.randn(3, 500, 2, generator=generator(8))
    before = torch.random.get_rng_state()
    first, again, other = (bridge.sample(t, ends, generator=generator(s)) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.dtype == torch.float32
    assert (first[0] == 0).all()
    met = (first[-1] == ends).all(-1)
    assert (met.sum(0) == 1).all()
    chances = f64(0.4, 0.3, 0.3)
    assert ((met.double().mean(1) - chances).abs() < 4 * (chances * (1 - chances) / 500).sqrt()).all()


# The cost


@pytest.mark.parametrize("shape", [(5, 4), (3, 5, 4)], ids=["N", "K, N"])
@pytest.mark.parametrize("target", TARGETS)
def test_the_cost_towards_an_end_point_is_the_targets(target: str, shape: tuple[int, ...]) -> None:
    bridge, (seen, _) = random(target=target), trajectory()
    latent_map = LatentMap(6, (8, 4)).double()
    ends = torch.randn(shape, generator=generator(5), dtype=torch.float64)
    process = target_of(bridge)
    assert torch.equal(bridge.cost(latent_map, seen, ends), process.cost(latent_map, seen, ends))
    assert bridge.terms(seen) == process.terms(seen) == 6


IDS = torch.tensor([[2, 5, 10, 11, 6, 7, 3], [2, 6, 12, 5, 20, 7, 3]])
CLASSES = torch.full_like(IDS, -100)
CLASSES[0, 2], CLASSES[1, 3], CLASSES[1, 5] = 0, 1, 2
WORDS = [[[7], [9]], [[30]], [[10], [11], [12]]]
SHARES = [[0.25, 0.75], [1.0], [0.25, 0.25, 0.5]]


def in_a_model(bridge: str | RandomEndBridge) -> tuple[RunningCost, list[Tensor], LabelEnds]:
    """A cost in float64, the states of a tiny BERT, and three labels of one to three words."""
    plm = tiny_bert()
    with torch.no_grad():
        hidden = plm.bert(IDS, output_hidden_states=True).hidden_states
    cost = RunningCost.for_model(plm, bridge, latent_dim=8).double()
    return cost, [h.double() for h in hidden], LabelEnds.of_words(cost.end_points, WORDS, SHARES)


def by_hand(cost: RunningCost, hidden: list[Tensor], keep: float) -> Tensor:
    """-log(sum over labels j and their words k of P(j) w_jk exp(-n c_jk)) / n, in probabilities."""
    where, layers = CLASSES != -100, len(hidden)
    total = torch.zeros(3, dtype=torch.float64)
    for label, (words, shares) in enumerate(zip(WORDS, SHARES, strict=True)):
        for (token,), share in zip(words, shares, strict=True):
            path, found = cost.trajectory(hidden, torch.full_like(IDS, token).where(where, -100))
            each = cost.bridge.cost(cost.latent_map, path, cost.end_points(found))
            prior = f64((1 - keep) / 2, keep)[(CLASSES[where] == label).long()]
            total = total + prior * share * torch.exp(-layers * each)
    return -total.log().mean() / layers


@pytest.mark.parametrize("target", ["brownian", "ou:theta=2,likelihood=path", "alpha:learn=alpha"])
@pytest.mark.parametrize("keep", [0.9, 0.2])
def test_a_cost_among_labels_is_the_log_sum_over_their_words(target: str, keep: float) -> None:
    cost, hidden, labels = in_a_model(random(target=target, keep=keep))
    leaves = [h.clone().requires_grad_() for h in hidden]
    found, expected = cost(leaves, CLASSES, labels=labels), by_hand(cost, leaves, keep)
    assert_close(found, expected, rtol=1e-10, atol=0)
    slopes = [torch.autograd.grad(x, leaves) for x in (found, expected)]
    assert_close(*slopes, rtol=1e-8, atol=1e-12)


def test_a_trajectory_that_fits_another_label_is_pulled_less_to_its_own() -> None:
    """The gradient is the candidates' costs' own, weighted by their probabilities given the states."""
    bridge, t = random(keep=0.8), f64(0.5)
    process, ends = target_of(bridge), f64(1.0, -1.0)[:, None, None]
    slopes = []
    for at in (0.5, -0.5, -3.0):
        z = f64(at)[None, None].requires_grad_()
        each = torch.stack([process.log_prob(z, t, v) for v in ends]).flatten().detach()
        weight = torch.softmax(f64(0.8, 0.2).log() + each, 0)
        (slope,) = torch.autograd.grad(bridge.log_prob(z, t, ends).sum(), z)
        expected = (weight * (0.5 * ends.flatten() - at) / 0.25).sum()
        assert_close(slope.squeeze(), expected, rtol=1e-10, atol=0)
        slopes.append(slope.item())
    plain = [(0.5 - at) / 0.25 for at in (0.5, -0.5, -3.0)]
    assert slopes[1] < 0.4 * plain[1]
    assert slopes[2] == pytest.approx(plain[2] - 4, rel=1e-3)  # to v_2 alone, by then


@pytest.mark.parametrize("target", ["brownian", "ou:theta=2"])
def test_kept_for_sure_or_of_one_label_or_of_tokens_a_cost_is_the_targets(target: str) -> None:
    """To the bit."""
    cost, hidden, labels = in_a_model(random(target=target, keep=1))
    plain, _, _ = in_a_model(target)
    assert torch.equal(cost(hidden, CLASSES, labels=labels), plain(hidden, CLASSES, labels=labels))
    cost, _, _ = in_a_model(random(target=target, keep=0.5))
    assert torch.equal(cost(hidden, IDS), plain(hidden, IDS))
    one, zeros = LabelEnds.of_words(cost.end_points, WORDS[:1], SHARES[:1]), CLASSES.clamp(max=0)
    assert torch.equal(cost(hidden, zeros, labels=one), plain(hidden, zeros, labels=one))
    assert cost(hidden, CLASSES, labels=labels) != plain(hidden, CLASSES, labels=labels)


def test_confused_labels_keep_their_words_and_their_probabilities() -> None:
    _, _, labels = in_a_model("brownian")
    mixed = labels.confused(0.7)
    ends, log_weights = mixed(torch.tensor([2, 0]))
    assert ends.shape == (9, 2, 8)
    chances = log_weights.exp()
    assert_close(chances.sum(0), torch.ones(2).double(), rtol=1e-12, atol=0)
    words = [[0.15 * 0.25, 0.15 * 0.75, 0], [0.15, 0, 0], [0.7 * 0.25, 0.7 * 0.25, 0.7 * 0.5]]
    assert_close(chances[:, 0], f64(*words[0], *words[1], *words[2]), rtol=1e-12, atol=0)
    assert torch.equal(ends[:, 0].reshape(3, 3, 8), labels.vectors)
    assert labels.confused(1) is labels


def test_a_classifier_is_tuned_among_its_labels() -> None:
    """Through `pets.regularize`: the mixture, with a gradient that reaches the model."""
    words = Verbalizer.of_words(
        tiny_tokenizer(), {"no": "bad", "maybe": ["slow", "fine"], "yes": "good"}
    )
    plm = tiny_model("bert", head="ForSequenceClassification", num_labels=3)
    costs = [RunningCost.for_model(plm, bridge) for bridge in ("random:keep=0.6", "brownian")]
    classes, seen = torch.tensor([2, 0]), []
    for cost in costs:
        plm.zero_grad()
        with pets.regularize(plm, cost, 1e6, verbalizer=words):
            plm.eval()
            plm.training = True  # without dropout
            output = plm(input_ids=IDS, labels=classes)
            output.loss.backward()
        assert plm.get_input_embeddings().weight.grad.abs().sum() > 0
        seen.append(output.running_cost)
    with torch.no_grad():
        hidden = plm.eval()(input_ids=IDS, output_hidden_states=True).hidden_states
    targets = torch.full_like(IDS, -100)
    targets[:, 0] = classes
    mixed = words.ends(costs[1]).confused(0.6)
    expected = costs[1](hidden, targets, labels=mixed, in_place=True)  # all words written out
    assert_close(seen[0], expected.detach())
    assert abs(seen[0] - seen[1]) > 1e-3


# Words, files, fits


def test_one_word_names_it() -> None:
    bridge = bridges.parse("random:target=ou:theta=2,keep=0.75")
    assert bridge.hyperparameters == {"target": "ou:theta=2", "keep": 0.75}
    assert isinstance(bridge, RandomEndBridge)
    assert isinstance(bridge.process, bridges.OUBridge)
    assert bridge.process.theta == 2.0
    assert bridges.get("random", target="ou:theta=2").hyperparameters["keep"] == 0.9


def test_what_its_target_learns_is_fitted_and_kept(tmp_path: Path) -> None:
    """The text of the target stays; the learned value is in the weights, and the digest sees it."""
    model, bridge = tiny_bert(), random(target="ou:learn=theta+sigma", keep=0.8)
    cost = RunningCost.for_model(model, bridge, widths=(16, 8))
    digest = cost.digest()
    cost.fit(
        model,
        tiny_tokenizer(),
        TEXTS,
        progress=False,
        max_steps=10,
        batch_size=8,
        held_out=12,
        eval_every=5,
    )
    assert abs(bridge.process.sigma.item() - 1) > 1e-3
    assert cost.digest() != digest
    cost.save_pretrained(tmp_path / "cost")
    loaded = RunningCost.from_pretrained(tmp_path / "cost")
    assert loaded.digest() == cost.digest()
    assert loaded.bridge.hyperparameters == {"target": "ou:learn=theta+sigma", "keep": 0.8}
    labels = LabelEnds.of_words(cost.end_points, WORDS)
    with torch.no_grad():
        hidden = model.bert(IDS, output_hidden_states=True).hidden_states
    assert torch.equal(*(one(hidden, CLASSES, labels=labels) for one in (cost, loaded)))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        *(
            ({"keep": keep}, f"keep={keep!r}: expected a probability above 0, to 1")
            for keep in (0, -0.5, 1.5, math.nan, math.inf, "0.5", None, True)
        ),
        ({"target": "sde"}, "target='sde': expected a Gaussian bridge; for example 'brownian' or 'ou'"),
        ({"target": "random"}, "target='random': expected a Gaussian bridge"),
        ({"target": "brown"}, "unknown bridge 'brown'; did you mean 'brownian'"),
        ({"target": "ou:theta=-1"}, "theta=-1.0: expected a finite number above 0"),
    ],
)
def test_bad_parameters_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        random(**parameters)


@pytest.mark.parametrize(
    ("z", "times", "ends", "message"),
    [
        (
            torch.zeros(1, 1, 2),
            [0.0],
            torch.zeros(2, 1, 2),
            r"log_prob needs times inside \(0, 1\), got",
        ),
        (torch.zeros(1, 2, 2), [0.5], torch.zeros(2, 1, 2), r"z has shape \(1, 2, 2\), expected"),
        (torch.zeros(1, 1, 2), [0.5], torch.zeros(2), r"end points must be \[N, d\], got \(2,\)"),
        (
            torch.zeros(1, 1, 2),
            [0.5],
            torch.zeros(0, 1, 2),
            r"are \(0, 1, 2\): expected \[K, N, d\] of one",
        ),
    ],
)
def test_bad_input_is_refused(z: Tensor, times: list[float], ends: Tensor, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        random().log_prob(z.double(), f64(*times), ends.double())
