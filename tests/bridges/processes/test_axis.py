"""The cost of the directions between labels: against a loop, what is nothing to it, what it learns."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from label_cases import DIM, HIDDEN, READERS, TOKENS, case, gaussian, identity, one_word, reader
from torch import Tensor, nn
from torch.testing import assert_close
from zoo_cases import f64, generator

import bridges
from bridges import BadInput, GaussianBridge, LabelEnds, Trajectory
from bridges.fitting.learning import learn
from bridges.latent.trajectory import layer_times
from bridges.processes import Axis

pytestmark = pytest.mark.slow

EXACT = {"rtol": 1e-9, "atol": 1e-11}
PROCESSES = (
    "brownian:sigma=0.7",
    "ou:theta=3,likelihood=path",
    "alpha:alpha=2",
    "clock:clock=[1,3,8,6],learn=",
    "fractional:hurst=0.8,likelihood=path",
    "gp:kernel=matern52,likelihood=path",
    "smooth",
)


def axis(process: str = "brownian", **options: Any) -> Axis:
    made = bridges.get("axis", process=process, **options)
    assert isinstance(made, Axis)
    return made


def ends_of(labels: LabelEnds) -> tuple[Tensor, Tensor]:
    """Each label's mean end point about the mean of all, and the projection onto their span."""
    means = torch.stack([w.exp() @ v for w, v in zip(labels.log_weights, labels.vectors, strict=True)])
    about = means - means.mean(0)
    return about, torch.linalg.pinv(about) @ about


def by_hand(bridge: GaussianBridge, r: Tensor, project: Tensor, rest: float, layers: int) -> Tensor:
    """The quadratic form of one token's residuals r [L, d] about the mean path, over the layers."""
    t = layer_times(len(r))
    kernel = bridge.covariance(t[:, None], t[None])[:layers, :layers]
    if bridge.likelihood == "marginal":
        kernel = kernel.diag().diag()
    inverse, total = torch.linalg.inv(kernel), f64(0)[0]
    for k in range(r.shape[1]):
        for part, weight in ((r @ project, 1.0), (r - r @ project, rest)):
            total = total + weight * part[:layers, k] @ inverse @ part[:layers, k] / (2 * layers)
    return total


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(("rest", "until"), [(0.0, 1.0), (0.3, 0.6)])
def test_it_is_the_bridges_cost_of_the_contrasts(
    process: str, name: str, rest: float, until: float
) -> None:
    """Token by token; about the lens's centre, or the labels' mean."""
    (trajectory, answers, labels), bridge = case(), gaussian(f"{process}")
    read, (about, project) = reader(name, 6), ends_of(labels)
    factor = bridge.mean_factor(trajectory.times())
    middle = torch.einsum("ck,ckd->d", labels.log_weights.exp(), labels.vectors) / 3
    centre = read.centre if name == "lens" else middle.expand(6, -1)
    z = read(trajectory, factor)
    found = axis(process, rest=rest, until=until).of_labels(read, trajectory, answers, labels)
    for n in range(TOKENS):
        r = z[:, n] - factor[:, None] * (centre + about[answers[n]])
        expected = by_hand(bridge, r, project, rest, 6 if until == 1 else 4)
        assert_close(found[n], expected, rtol=1e-7, atol=1e-9)


def test_flat_layers_weigh_the_same() -> None:
    (trajectory, answers, labels), bridge = case(), gaussian("ou:theta=3")
    read, (about, project) = reader("lens", 6), ends_of(labels)
    factor, variance = bridge.marginal(trajectory.times())
    guess = read(trajectory)
    weight = (factor.square() / (2 * variance))[:3].mean()
    found = axis("ou:theta=3", layers="flat", until=0.5).of_labels(read, trajectory, answers, labels)
    far = [
        sum(
            ((guess[i, n] - read.centre[i] - about[answers[n]]) @ project).square().sum()
            for i in range(3)
        )
        for n in range(TOKENS)
    ]
    assert_close(found, weight * torch.stack(far) / 3, **EXACT)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(PROCESSES), st.integers(2, 5), st.integers(0, 1000))
def test_directions_that_no_label_is_about_cost_nothing(process: str, classes: int, seed: int) -> None:
    """Unless `rest` says so; and the best path of each label's costs nothing at all."""
    rng, t = generator(seed), layer_times(5)
    words = torch.randn(classes, DIM + 3, generator=rng, dtype=torch.float64)
    words[:, 2:] = 0.4
    answers = torch.arange(classes)
    labels, read, factor = one_word(words), identity(DIM + 3, DIM + 3), gaussian(process).mean_factor(t)
    rows, context = torch.zeros(classes, dtype=torch.int64), torch.zeros(5, 1, DIM + 3).double()
    states = factor[:, None, None] * words
    noise = torch.randn(states.shape, generator=rng, dtype=torch.float64)
    noise[..., : 2 if classes > 2 else 7] = 0  # two labels span a line, more of them the plane
    cost = axis(process).of_labels(read, Trajectory(states + noise, context, rows), answers, labels)
    assert cost.abs().max() < 1e-9
    if classes > 2:
        heavy = axis(process, rest=0.5).of_labels(
            read, Trajectory(states + noise, context, rows), answers, labels
        )
        assert (heavy > 1e-3).all()


def test_one_label_or_equal_ones_cost_nothing() -> None:
    trajectory, answers, labels = case()
    same = LabelEnds(*(x[:1].expand(3, *x.shape[1:]) for x in (labels.vectors, labels.log_weights)))
    one = LabelEnds(labels.vectors[:1], labels.log_weights[:1])
    for words, label in ((same, answers), (one, 0 * answers)):
        for process in ("brownian", "ou:learn=sigma"):
            value = axis(process).of_labels(reader("lens", 6), trajectory, label, words)
            assert (value == 0).all()
            (gradient,) = torch.autograd.grad(value.sum(), trajectory.states)
            assert (gradient == 0).all()


def test_two_labels_before_tuning_are_as_near() -> None:
    """At the centre of a lens, the sum over labels has no gradient along their contrast."""
    trajectory, answers, labels = case()
    read = reader("lens", 6)
    read.weight.zero_()
    read.bias.copy_(read.centre)
    words = LabelEnds(labels.vectors[1:, :1], labels.log_weights[1:, :1] * 0)
    costs = [axis().of_labels(read, trajectory, torch.full_like(answers, c), words) for c in (0, 1)]
    assert_close(*costs, **EXACT)


@pytest.mark.parametrize("name", ["identity", "lens"])
@pytest.mark.parametrize("rest", [0.0, 1.0])
@pytest.mark.parametrize(
    "process", ["brownian:learn=sigma", "fractional:hurst=0.3,likelihood=path,learn=sigma"]
)
def test_a_learned_sigma_is_that_of_the_residuals(process: str, rest: float, name: str) -> None:
    """sigma^2 = mean r^2 / s2 at sigma 1, over the directions that have a law and the layers that count:
    two of the four where the others weigh nothing.
    """
    trajectory, answers, labels = case()
    plain = process.replace("learn=sigma", "").rstrip(",:")
    bridge, read, (about, project) = gaussian(plain), reader(name, 6), ends_of(labels)
    factor = bridge.mean_factor(trajectory.times())
    centre = read.centre if name == "lens" else f64(0)
    if name == "identity":
        centre = torch.einsum("ck,ckd->d", labels.log_weights.exp(), labels.vectors) / 3
    detached = Trajectory(trajectory.states.detach(), trajectory.context, trajectory.rows)
    r = (
        read(detached, factor) - factor[:, None, None] * (centre + about[answers])
        if name == "identity"
        else (read(detached, factor) - factor[:, None, None] * (centre[:, None] + about[answers]))
    )
    form = torch.stack([by_hand(bridge, r[:, n], project, rest, 6) for n in range(TOKENS)]).mean()
    dims = 4 if rest else 2
    cost = axis(process, rest=rest).double()
    parameters = list(cost.parameters())
    learn(cost.inner, lambda: cost.of_labels(read, detached, answers, labels).mean(), parameters)
    assert cost.inner.sigma.item() ** 2 == pytest.approx(2 * form.item() / dims, rel=1e-3)
    # The cost is then the mean of -log p of those directions, over the layers.
    value = cost.of_labels(read, detached, answers, labels).mean()
    t = trajectory.times()
    kernel = bridge.covariance(t[:, None], t[None])
    kernel = kernel.diag().diag() if bridge.likelihood == "marginal" else kernel
    volume = torch.logdet(2 * math.pi * 2 * form / dims * kernel)
    volume = volume - 2 * factor.log().sum() if name == "lens" else volume
    assert_close(value, dims * (0.5 + volume / 12), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("process", ["brownian", "gp:likelihood=path"])
def test_float32_and_autocast(process: str) -> None:
    trajectory, answers, labels = case()
    few = LabelEnds(labels.vectors.float(), labels.log_weights.float())
    seen = Trajectory(trajectory.states.float(), trajectory.context.float(), trajectory.rows)
    cost, read = axis(process, rest=0.1), reader("lens", 6)
    exact = cost.of_labels(read, trajectory, answers, labels)
    plain = cost.of_labels(read.float(), seen, answers, few)
    assert plain.dtype == torch.float32
    assert_close(plain.double(), exact, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cost.of_labels(read, seen, answers, few), plain)


def test_contrasts_span_what_tells_labels_apart() -> None:
    vectors = nn.functional.normalize(torch.randn(4, 6, generator=generator(2)).double(), dim=1)
    about, basis = one_word(vectors).contrasts()
    assert_close(about, vectors - vectors.mean(0), rtol=1e-12, atol=1e-12)
    assert_close(basis @ basis.T, torch.eye(3).double(), rtol=0, atol=1e-12)
    assert_close(about @ basis.T @ basis, about, rtol=1e-12, atol=1e-12)
    twice, of_twice = one_word(torch.cat([vectors, vectors])).contrasts()
    assert len(of_twice) == 3
    assert_close(twice[:4], about, rtol=1e-12, atol=1e-12)
    many, of_many = one_word(torch.randn(9, HIDDEN, generator=generator(1))).contrasts()
    assert of_many.shape == (HIDDEN, HIDDEN)
    assert many.dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"process": "student"}, "process='student': expected a Gaussian bridge"),
        ({"process": "brownian:sigma=[1,2]"}, "expected parameters that are the same in all dimensions"),
        ({"process": "clock", "layers": "flat"}, "layers='flat' takes no notice of what 'clock' learns"),
        *(({"rest": rest}, "expected a number from 0") for rest in (-1, math.inf, math.nan, "1", True)),
    ],
)
def test_bad_parameters_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        axis(**options)
