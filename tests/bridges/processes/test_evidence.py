"""What the first layers of a path say of its label: Bayes' rule by torch's densities, and its truth."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from label_cases import DIM, PROCESSES, case, gaussian, log_density, one_word
from torch import Tensor, nn
from torch.testing import assert_close
from zoo_cases import BRIDGES, f64, generator

import bridges
from bridges import BadInput, GaussianBridge, LabelEnds
from bridges.latent.trajectory import layer_times

EXACT = {"rtol": 1e-8, "atol": 1e-8}
"""float64: solves with covariances of condition up to 1e6."""
pytestmark = pytest.mark.slow

LEARNED = (
    "ou:learn=theta+sigma",
    "ou:theta=[0.5,1,2,8],likelihood=path,learn=theta",
    "clock:clock=4,likelihood=path,learn=clock",
    "fractional:hurst=0.3,likelihood=path,learn=hurst+sigma",
)
CONDITIONED = (
    "brownian:sigma=0.7",
    "brownian:sigma=[0.5,1,2,3]",
    "ou:theta=3",
    "ou:theta=[0.5,1,2,8]",
    "alpha:alpha=1",
    "clock:clock=[1,3,8,6],sigma=2",
    "gp:kernel=matern12",
)
"""Markov processes conditioned on their end."""
TELLING = (
    "fractional:hurst=0.25",
    "fractional:hurst=0.8",
    "gp:kernel=matern32",
    "smooth",
    "alpha:alpha=3",
    "alpha:alpha=0.6",
)
"""With memory, or, as "alpha", drawn to its end with another strength than a conditioned one is: then
every step tells where it goes."""


def posterior(process: str | Any, latent: Tensor, labels: LabelEnds) -> Tensor:
    bridge = bridges.parse(process) if isinstance(process, str) else process
    return bridge.evidence(layer_times(len(latent))).log_odds(latent, labels).log_softmax(-1)


def by_densities(bridge: GaussianBridge, z: Tensor, labels: LabelEnds) -> Tensor:
    """The same word by word: of a layer by itself, or of the path so far."""
    t = layer_times(len(z))
    layers = []
    for k in range(len(z)):
        first = 0 if bridge.likelihood == "path" else k
        each = [
            torch.logsumexp(
                torch.stack(
                    [
                        log_density(bridge, z[first : k + 1], t[first : k + 1], v) + w
                        for v, w in zip(vectors, weights, strict=True)
                        if w > -math.inf
                    ]
                ),
                0,
            )
            for vectors, weights in zip(labels.vectors, labels.log_weights, strict=True)
        ]
        layers.append(torch.stack(each, 1))
    return torch.stack(layers).log_softmax(-1)


def latents(states: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(states, 5, DIM, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("process", [*PROCESSES, *LEARNED])
def test_it_is_bayes_rule_word_by_word(process: str) -> None:
    """Labels of two, one and three words of unlike weights."""
    _, _, labels = case()
    bridge, z = gaussian(process), latents()
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter += 0.3
        assert_close(posterior(bridge, z, labels), by_densities(bridge, z, labels), **EXACT)


@pytest.mark.parametrize("process", [p for p in PROCESSES if "path" in p and "matern52" not in p])
def test_prefixes_are_log_prob_path(process: str) -> None:
    bridge, z, t = gaussian(process), latents(), layer_times(6)
    words = nn.functional.normalize(torch.randn(3, DIM, generator=generator(3)).double(), dim=1)
    found = posterior(bridge, z, one_word(words))
    for k in range(1, 7):
        each = [bridge.log_prob_path(z[:k], t[:k], v.expand(5, -1)) for v in words]
        assert_close(found[k - 1], torch.stack(each, 1).log_softmax(1), **EXACT)


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([p for p in PROCESSES if "[0" not in p]),
    st.tuples(st.integers(1, 9), st.integers(0, 4), st.integers(1, 5), st.integers(1, 4)),
    st.integers(1, 5),
    st.integers(0, 1000),
)
def test_of_any_shape(process: str, shape: tuple[int, int, int, int], words: int, seed: int) -> None:
    states, tokens, classes, dim = shape
    rng = generator(seed)
    vectors = torch.randn(classes, words, dim, generator=rng, dtype=torch.float64)
    some = torch.rand(classes, words, generator=rng) < 0.6
    some[:, 0] = True
    labels = LabelEnds(vectors, torch.where(some, 0.0, -math.inf).double().log_softmax(1))
    z = torch.randn(states, tokens, dim, generator=rng, dtype=torch.float64)
    bridge = gaussian(process)
    found = posterior(bridge, z, labels)
    assert found.shape == (states, tokens, classes)
    assert_close(found.exp().sum(-1), torch.ones(states, tokens).double())
    if tokens:  # torch's densities are of one at least
        assert_close(found, by_densities(bridge, z, labels), rtol=1e-7, atol=1e-7)
    float32 = posterior(bridge, z.float(), labels)
    assert float32.dtype == torch.float64


@pytest.mark.parametrize("process", CONDITIONED)
def test_of_a_conditioned_markov_process_the_last_layer_tells_all(process: str) -> None:
    """What came before says nothing more of the end: path and layer by itself are the same."""
    path = f"{process}{',' if ':' in process else ':'}likelihood=path"
    _, _, labels = case(states=25)
    z = latents(25)
    assert_close(posterior(path, z, labels), posterior(process, z, labels), rtol=1e-7, atol=1e-7)
    toward = gaussian(path).evidence(layer_times(25)).toward
    before = toward.tril(-1) if toward.dim() == 2 else toward.movedim(-1, 0).tril(-1)
    assert before.abs().max() < 1e-9 * toward.abs().max()


@pytest.mark.parametrize("process", TELLING)
def test_of_others_it_does_not(process: str) -> None:
    path = f"{process}{',' if ':' in process else ':'}likelihood=path"
    _, _, labels = case()
    z = latents()
    whole, alone = posterior(path, z, labels), posterior(process, z, labels)
    assert_close(whole[0], alone[0], **EXACT)  # nothing came before
    assert all((whole[k] - alone[k]).abs().max() > 0.01 for k in range(1, 6))


def test_a_layer_knows_nothing_of_those_behind_it() -> None:
    _, _, labels = case()
    for process in PROCESSES:
        z = latents()
        before = posterior(process, z, labels)
        z[4:] = 1e6
        assert_close(posterior(process, z, labels)[:4], before[:4], rtol=1e-12, atol=1e-12)


def test_what_is_in_another_process_is_asked_of_that() -> None:
    _, _, labels = case()
    z, inner = latents(), "ou:theta=2,likelihood=path"
    expected = posterior(inner, z, labels)
    for made in (bridges.get("posterior", process=inner), bridges.get("axis", process=inner)):
        assert torch.equal(posterior(made, z, labels), expected)


def test_a_random_end_mixes_the_labels() -> None:
    """With probability keep the path ends at the label's own words, else at another label's."""
    z = latents()
    labels = one_word(nn.functional.normalize(f64(1, 2, -1, 3, 2, 0, 1, 1, -3, 1, 0, 1).reshape(3, 4)))
    keep = 0.7
    own = posterior("ou:likelihood=path", z, labels).exp()
    mixture = keep * own + (1 - keep) / 2 * (1 - own)
    random = bridges.get("random", target="ou:likelihood=path", keep=keep)
    assert_close(posterior(random, z, random.ends(labels)), mixture.log(), **EXACT)


@pytest.mark.parametrize("law", ["brownian:sigma=1", "ou:theta=3,sigma=1", "fractional:hurst=0.3"])
def test_it_is_calibrated_where_paths_are_of_the_law(law: str) -> None:
    """At every layer: of 6 000 paths to labels drawn at random, in each fifth by the posterior the
    share of the label is its mean within four standard errors. Layers by themselves too.
    """
    count, states = 6_000, 5
    rng, path = generator(5), f"{law},likelihood=path"
    words = nn.functional.normalize(torch.randn(3, 2, DIM, generator=rng).double(), dim=-1)
    shares = f64(0.3, 0.7, 0.5, 0.5, 0.9, 0.1).reshape(3, 2)
    labels = LabelEnds(words, shares.log())
    answers = torch.randint(3, (count,), generator=rng)
    chosen = torch.multinomial(shares[answers], 1, generator=rng)[:, 0]
    z = gaussian(law).sample(layer_times(states), words[answers, chosen], generator=rng)
    for process in (path, law):  # one layer's own evidence is true by itself as well
        for probability in posterior(process, z, labels).exp():
            for part in probability[:, 0].argsort().chunk(5):
                said, is_label = probability[part, 0], (answers[part] == 0).double()
                error = (said * (1 - said)).sum().sqrt() / len(part)
                assert abs(said.mean() - is_label.mean()) < 4 * error
    sure = posterior(path, z, labels).exp()[:, torch.arange(count), answers].mean(1)
    assert (sure.diff() > 0.003).all()  # and it learns
    assert sure[-1] > sure[0] + 0.1


def test_a_float32_law_keeps_its_digits_at_the_last_of_128_layers() -> None:
    words = nn.functional.normalize(torch.randn(2, DIM, generator=generator(2)).double(), dim=1)
    z = latents(129)
    single = gaussian("ou:theta=3,likelihood=path").float()
    assert_close(
        posterior(single, z, one_word(words)),
        posterior("ou:theta=3,likelihood=path", z, one_word(words)),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", BRIDGES)
def test_every_cost_of_the_zoo_has_a_posterior_or_says_that_it_has_none(name: str) -> None:
    bridge = bridges.get(name)
    if name in ("sde", "student", "regression", "kinetic", "none"):
        with pytest.raises(BadInput, match=rf"^'?{name}'? has no Gaussian law.*take the cost of"):
            bridge.evidence(layer_times(4))
    else:
        assert bridge.evidence(layer_times(4)).toward.shape[:2] == (4, 4)
