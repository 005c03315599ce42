"""The posterior's cost: Bayes' rule word by word, its numbers, and whether its odds are true."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from label_cases import (
    DIM,
    HIDDEN,
    PROCESSES,
    READERS,
    TOKENS,
    case,
    gaussian,
    identity,
    log_density,
    one_word,
    reader,
    surprise,
)
from scipy import integrate, stats
from torch import Tensor, nn
from torch.testing import assert_close
from zoo_cases import f64, generator

import bridges
from bridges import BadInput, LabelEnds, Trajectory
from bridges.fitting.learning import learn
from bridges.latent.trajectory import layer_times
from bridges.processes import Posterior

pytestmark = pytest.mark.slow

EXACT = {"rtol": 1e-8, "atol": 1e-10}
"""float64: solves with covariances of condition up to 1e6."""


def posterior(process: str = "brownian", **options: Any) -> Posterior:
    made = bridges.get("posterior", process=process, **options)
    assert isinstance(made, Posterior)
    return made


# Bayes' rule


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("process", PROCESSES)
def test_it_is_bayes_rule_word_by_word(process: str, name: str) -> None:
    """Of the whole path, and the mean over the first k layers; mixtures of one to three words."""
    (trajectory, answers, labels), bridge = case(), gaussian(process)
    t, read = trajectory.times(), reader(name, len(trajectory.states))
    z = read(trajectory, bridge.mean_factor(t))
    first = [surprise(bridge, z[:k], t[:k], answers, labels) for k in range(1, len(t) + 1)]
    given = read, trajectory, answers, labels
    assert_close(posterior(process).of_labels(*given), first[-1], **EXACT)
    by_prefix = posterior(process, over="prefixes").of_labels(*given)
    assert_close(by_prefix, torch.stack(first).mean(0), **EXACT)
    part = posterior(process, over="prefixes", until=0.5).of_labels(*given)
    assert_close(part, torch.stack(first[:3]).mean(0), **EXACT)


def test_the_first_layers_of_a_path_are_its_log_prob_path() -> None:
    """The process's own density, of a process with memory, where `until` leaves the last ones out."""
    (trajectory, answers, _), bridge = case(), gaussian("fractional:hurst=0.8,likelihood=path")
    t, read, vectors = (
        trajectory.times(),
        reader("lens", 6),
        nn.functional.normalize(f64(1, 2, -1, 3), dim=0),
    )
    words = torch.stack([vectors, -vectors, vectors.flip(0)])
    z = read(trajectory, bridge.mean_factor(t))
    each = [bridge.log_prob_path(z[:4], t[:4], v.expand(TOKENS, -1)) for v in words]
    expected = nn.functional.cross_entropy(torch.stack(each, 1), answers, reduction="none")
    found = posterior("fractional:hurst=0.8,likelihood=path", until=4 / 6)
    assert_close(found.of_labels(read, trajectory, answers, one_word(words)), expected, **EXACT)


@pytest.mark.parametrize("name", READERS)
def test_flat_layers_weigh_the_same(name: str) -> None:
    """By loops over layers and words: w |p - v|^2 with w the mean of m^2 / 2 s^2 where they count."""
    (trajectory, answers, _), bridge = case(), gaussian("ou:theta=3")
    read = reader(name, 6)
    factor, variance = bridge.marginal(trajectory.times())
    z, words = read(trajectory, factor), f64(*range(12)).reshape(3, 4).cos()
    count = 4
    weight = sum((factor[i] ** 2 / (2 * variance[i])).item() for i in range(count)) / count
    for n in range(TOKENS):
        scores = []
        for v in words:
            far = [((z[i, n] / factor[i] - v) ** 2).sum().item() for i in range(count)]
            scores.append(-weight * sum(far))
        expected = -f64(*scores).log_softmax(0)[answers[n]]
        cost = posterior("ou:theta=3", layers="flat", until=0.7)
        found = cost.of_labels(read, trajectory, answers, one_word(words))[n]
        assert found.item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)


def test_of_targets_that_are_tokens_the_others_are_the_words_of_the_batch_each_once() -> None:
    trajectory, _, _ = case()
    words = nn.functional.normalize(torch.randn(3, DIM, generator=generator(4)).double(), dim=1)
    answers = torch.tensor([2, 0, 2, 1, 2])
    cost, read = posterior("ou"), reader("mlp", 6)
    mine = cost.cost(read, trajectory, words[answers])
    assert_close(mine, cost.of_labels(read, trajectory, answers, one_word(words)), **EXACT)
    alone = cost.cost(read, trajectory, words[:1].expand(TOKENS, -1))
    assert (alone == 0).all()


# Its numbers


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(PROCESSES),
    st.integers(1, 9),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(0, 1000),
)
def test_posteriors_sum_to_one_and_take_no_notice_of_what_labels_share(
    process: str, states: int, classes: int, words: int, seed: int
) -> None:
    """A drift across all contrasts costs nothing; labels have any number of words."""
    rng = generator(seed)
    vectors = torch.randn(classes, words, DIM, generator=rng, dtype=torch.float64)
    vectors[..., -1] = 0.4  # what they share
    some = torch.rand(classes, words, generator=rng) < 0.6
    some[:, 0] = True
    weights = torch.where(some, 0.0, -math.inf).double().log_softmax(1)
    labels, cost = LabelEnds(vectors, weights), posterior(process)
    hidden = torch.randn(states, TOKENS, HIDDEN, generator=rng, dtype=torch.float64)
    moved = hidden.clone()
    moved[..., 3] += torch.randn(states, TOKENS, generator=rng, dtype=torch.float64)
    rows = torch.zeros(TOKENS, dtype=torch.int64)
    values = []
    for one in (hidden, moved):
        trajectory = Trajectory(one, torch.zeros(states, 1, HIDDEN).double(), rows)
        each = [
            cost.of_labels(identity(HIDDEN, DIM), trajectory, torch.full_like(rows, c), labels)
            for c in range(classes)
        ]
        values.append(torch.stack(each))
    assert (values[0] > -1e-9).all()
    assert_close((-values[0]).exp().sum(0), torch.ones(TOKENS).double(), rtol=1e-7, atol=0)
    close = 1e-9 * values[0].abs().max().item() + 1e-9
    assert_close(*values, rtol=0, atol=close)


def test_one_label_costs_nothing_and_equal_labels_their_number() -> None:
    trajectory, answers, labels = case()
    read = reader("lens", 6)
    first = LabelEnds(labels.vectors[:1], labels.log_weights[:1])
    same = LabelEnds(*(x[:1].expand(3, *x.shape[1:]) for x in (labels.vectors, labels.log_weights)))
    for words, label, expected in ((first, 0 * answers, 0.0), (same, answers, math.log(3))):
        value = posterior().of_labels(read, trajectory, label, words)
        assert_close(value, torch.full((TOKENS,), expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
        (gradient,) = torch.autograd.grad(value.sum(), trajectory.states)
        assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("over", ["path", "prefixes"])
@pytest.mark.parametrize(
    "process", ["brownian:sigma=1e-6", "ou:theta=700", "gp:kernel=rbf,likelihood=path"]
)
def test_values_and_gradients_are_finite_where_the_odds_are_extreme(process: str, over: str) -> None:
    """In float32, at states up to 22 000, as a language model has them, and precisions of 1e14."""
    trajectory, answers, labels = case()
    few = LabelEnds(labels.vectors.float(), labels.log_weights.float())
    for size in (1e-4, 1.0, 2.2e4):
        states = (size * trajectory.states).detach().float().requires_grad_()
        seen = Trajectory(states, trajectory.context.float(), trajectory.rows)
        for layers in ("process", "flat")[: 1 + ("path" not in process)]:
            cost = posterior(process, over=over, layers=layers)
            for name in ("identity", "lens"):
                if layers == "flat" and name == "identity" and process == "ou:theta=700":
                    continue  # there is no telling p from m p = 0
                value = cost.of_labels(reader(name, 6).float(), seen, answers, few)
                (gradient,) = torch.autograd.grad(value.sum(), states)
                assert value.dtype == torch.float32
                assert (value >= 0).all()
                assert value.isfinite().all()
                assert gradient.isfinite().all()


def test_float32_is_enough_where_states_are_far_and_words_alike() -> None:
    """States at 2e4, words of cosine 1 - 1e-4. Distances to each word, subtracted in float32, are off
    by more than a nat; about the middle of the words the odds keep six digits.
    """
    bridge, t = gaussian("brownian"), layer_times(25)
    rng = generator(5)
    states = (2e4 * torch.randn(25, TOKENS, DIM, generator=rng)).requires_grad_()
    base = torch.randn(DIM, generator=rng)
    words = nn.functional.normalize(
        torch.stack([base, base + 0.02 * torch.randn(DIM, generator=rng)]), dim=1
    )
    answers, rows = torch.tensor([0, 1, 0, 1, 1]), torch.zeros(TOKENS, dtype=torch.int64)
    trajectory = Trajectory(states, torch.zeros(25, 1, DIM), rows)
    found = posterior().of_labels(identity(DIM, DIM).float(), trajectory, answers, one_word(words))
    expected = surprise(bridge, states.double(), t, answers, one_word(words.double()))
    assert_close(found.double(), expected, rtol=1e-5, atol=1e-3)
    _, variance = bridge.marginal(t)
    naive = torch.stack(
        [
            -(
                (states - t.float()[:, None, None] * v).square() / (2 * variance.float()[:, None, None])
            ).sum((0, 2))
            for v in words
        ],
        1,
    )
    off = nn.functional.cross_entropy(naive, answers, reduction="none").double() - expected
    assert off.abs().max() > 1


@pytest.mark.parametrize("process", ["brownian", "ou:likelihood=path", "smooth:likelihood=path"])
def test_autocast_changes_nothing(process: str) -> None:
    trajectory, answers, labels = case()
    few = LabelEnds(labels.vectors.float(), labels.log_weights.float())
    seen = Trajectory(trajectory.states.float(), trajectory.context.float(), trajectory.rows)
    cost, read = posterior(process), reader("lens", 6).float()
    plain = cost.of_labels(read, seen, answers, few)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cost.of_labels(read, seen, answers, few), plain)


# Whether its odds are true

COUNT = 20_000
LAWS = [
    ("brownian:sigma=2", "brownian:sigma=2,likelihood=path"),
    ("ou:theta=3,sigma=3", "ou:theta=3,sigma=3,likelihood=path"),
    ("fractional:hurst=0.3,sigma=2", "fractional:hurst=0.3,sigma=2,likelihood=path"),
    ("brownian:sigma=2", "brownian:sigma=2"),
    ("alpha:alpha=2,sigma=2", "brownian:sigma=3"),
]
"""The law of the paths, and that of the cost."""


def simulated(law: str, words: Tensor, count: int, seed: int) -> tuple[Trajectory, Tensor]:
    """Paths of 13 layers to one word each, which are their states too."""
    rng = generator(seed)
    answers = torch.randint(len(words), (count,), generator=rng)
    states = gaussian(law).sample(layer_times(13), words[answers], generator=rng)
    rows = torch.zeros(count, dtype=torch.int64)
    return Trajectory(states, torch.zeros(13, 1, words.shape[1]).double(), rows), answers


@pytest.mark.parametrize(("law", "process"), LAWS)
def test_its_mean_surprise_is_that_of_normal_odds(law: str, process: str) -> None:
    """Of two words, whose log-odds are normal: E softplus(-x), integrated, within four standard errors.

    With n and C the cost's mean factors and covariance, a = C^-1 n, and m and K those of the paths' law,
    the odds of words u and -u on a path to u are 2 a'(z u), which is N(2 a'm |u|^2, 4 a'K a |u|^2).
    """
    words = nn.functional.normalize(f64(1.0, 0.5, 2.0, -0.3).reshape(2, 2), dim=1)
    words = words - words.mean(0)
    trajectory, answers = simulated(law, words, COUNT, 11)
    found = posterior(process).of_labels(identity(2, 2), trajectory, answers, one_word(words))
    true, mine, t = gaussian(law), gaussian(process), layer_times(13)
    kernel = [b.covariance(t[:, None], t[None]).numpy() for b in (true, mine)]
    factor = [b.mean_factor(t).numpy() for b in (true, mine)]
    inverse = (
        np.diag(1 / kernel[1].diagonal()) if mine.likelihood == "marginal" else np.linalg.inv(kernel[1])
    )
    a, apart = inverse @ factor[1], (words[0] - words[1]).square().sum().item()
    centre, spread = a @ factor[0] * apart / 2, math.sqrt(a @ kernel[0] @ a * apart)  # |u|^2 = apart / 4
    expected, _ = integrate.quad(
        lambda x: np.logaddexp(0, -x) * stats.norm.pdf(x, centre, spread),
        *(centre - 12 * spread, centre + 12 * spread),
        limit=200,
    )
    error = found.std().item() / math.sqrt(COUNT)
    assert found.mean().item() == pytest.approx(expected, abs=4 * error)
    assert error < 0.02 * expected


@pytest.mark.parametrize(
    ("law", "process", "learned"),
    [
        ("brownian:sigma=2", "brownian:likelihood=path,learn=sigma", 2.0),
        ("ou:theta=3,sigma=3", "ou:theta=3,likelihood=path,learn=sigma", 3.0),
        ("fractional:hurst=0.7,sigma=3", "fractional:hurst=0.7,likelihood=path,learn=sigma", 3.0),
        ("brownian:sigma=2", "brownian:learn=sigma", None),
    ],
)
def test_with_a_learned_sigma_the_odds_are_calibrated(
    law: str, process: str, learned: float | None
) -> None:
    """Three words, 4000 paths to learn on and as many to judge: in each fifth by confidence the share
    of right answers is the mean probability within 3.5 standard errors.

    Layers by themselves count the same evidence many times: with the sigma that the paths were made with
    they are sure of too much, and the sigma learned is larger.
    """
    words = nn.functional.normalize(torch.randn(3, DIM, generator=generator(8)).double(), dim=1)
    cost, read, labels = posterior(process).double(), identity(DIM, DIM), one_word(words)
    seen, answers = simulated(law, words, 4000, 21)
    parameters = list(cost.parameters())
    learn(cost.inner, lambda: cost.of_labels(read, seen, answers, labels).mean(), parameters)
    sigma = cost.inner.sigma.item()
    new, truth = simulated(law, words, 4000, 22)
    assert _fifths(cost, new, truth, labels) < 3.5
    if learned is None:
        assert sigma > 3
        assert _fifths(posterior("brownian:sigma=2"), new, truth, labels) > 10
    else:
        assert sigma == pytest.approx(learned, rel=0.06)


def _fifths(cost: Posterior, trajectory: Trajectory, answers: Tensor, labels: LabelEnds) -> float:
    """The most that confidence is off in a fifth of the tokens by confidence, in standard errors."""
    guesses = [torch.full_like(answers, c) for c in range(len(labels))]
    with torch.no_grad():
        read = identity(DIM, DIM)
        each = [(-cost.of_labels(read, trajectory, c, labels)).exp() for c in guesses]
    sure, label = torch.stack(each, 1).max(1)
    right, worst = (label == answers).double(), 0.0
    for part in sure.argsort().chunk(5):
        error = math.sqrt((sure[part] * (1 - sure[part])).sum().item()) / len(part)
        worst = max(worst, abs(sure[part].mean() - right[part].mean()).item() / error)
    return worst


def test_a_density_of_one_word_is_torchs_and_ours() -> None:
    """The reference of this file against the process's own densities."""
    t, z, v = (
        f64(0.2, 0.5, 0.9),
        torch.randn(3, 2, DIM, generator=generator(6)).double(),
        f64(1, 0, 2, -1),
    )
    for text in PROCESSES:
        bridge = gaussian(text)
        ours = (
            bridge.log_prob(z, t, v.expand(2, -1)).sum(0)
            if bridge.likelihood == "marginal"
            else bridge.log_prob_path(z, t, v.expand(2, -1))
        )
        assert_close(log_density(bridge, z, t, v), ours, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"process": "sde"}, "process='sde': expected a Gaussian bridge"),
        ({"process": "posterior"}, "process='posterior': expected a Gaussian bridge"),
        ({"process": "ou:theta=-1"}, "theta=-1.0: expected a finite number above 0"),
        ({"over": "paths"}, "unknown over 'paths'; did you mean 'path'"),
        ({"layers": "even"}, "unknown layers 'even'"),
        (
            {"layers": "flat", "process": "ou:likelihood=path"},
            "expected a process with likelihood=marginal",
        ),
        *(
            ({"until": until}, "expected a share of the layers")
            for until in (0, -1, 1.5, math.nan, "1", True)
        ),
    ],
)
def test_bad_parameters_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        posterior(**options)
