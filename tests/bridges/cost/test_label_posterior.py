"""The labels' posterior under a running cost: read through its map or lens, and left-out examples."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_bert
from torch import Tensor
from torch.testing import assert_close

from bridges import BadInput, LabelEnds, RunningCost, Trajectory

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
WORDS = [[[9], [12]], [[7]], [[20], [21], [22]]]


def trajectory(count: int = 7) -> Trajectory:
    states = torch.randn(4, count, 32)
    return Trajectory(states, torch.randn(4, 2, 32), torch.arange(count) % 2)


def ends(cost: RunningCost) -> LabelEnds:
    return LabelEnds.of_words(cost.end_points, WORDS, [[1, 3], [1], [1, 1, 2]])


def by_bayes(cost: RunningCost, seen: Trajectory, *, path: bool) -> Tensor:
    """From the process's own densities of the cost's latents."""
    labels, t, z = ends(cost), seen.times(), cost.latents(seen).double()
    layers = []
    for k in range(len(t)):
        each = []
        for vectors, weights in zip(labels.vectors, labels.log_weights, strict=True):
            words = vectors[weights > -torch.inf].double()
            at = slice(0 if path else k, k + 1)
            law = cost.bridge.log_prob_path if path else cost.bridge.log_prob
            found = [law(z[at], t[at], v.expand(z.shape[1], -1)).reshape(-1) for v in words]
            given = weights[weights > -torch.inf].double()
            each.append(torch.logsumexp(torch.stack(found, 1) + given, 1))
        layers.append(torch.stack(each, 1).log_softmax(1))
    return torch.stack(layers)


@pytest.mark.parametrize("reader", ["mlp", "lens"])
@pytest.mark.parametrize("bridge", ["ou:theta=2", "fractional:hurst=0.3,likelihood=path"])
def test_it_is_bayes_rule_for_the_costs_latents(bridge: str, reader: str) -> None:
    cost, seen = RunningCost.for_model(tiny_bert(), bridge, map=reader, latent_dim=6), trajectory()
    found = cost.posterior(seen, ends(cost))
    assert found.dtype == torch.float64
    assert_close(found, by_bayes(cost, seen, path="path" in bridge), **CLOSE)
    with torch.autocast("cpu", torch.bfloat16):
        if reader == "lens":
            assert torch.equal(cost.posterior(seen, ends(cost)), found)


@pytest.mark.parametrize("bridge", ["posterior:process=ou", "axis:process=ou"])
def test_a_cost_about_the_label_asks_its_process(bridge: str) -> None:
    model, seen = tiny_bert(), trajectory()
    cost = RunningCost.for_model(model, bridge, map="lens", latent_dim=6)
    plain = RunningCost.for_model(model, "ou", map="lens", latent_dim=6)
    assert_close(cost.posterior(seen, ends(cost)), plain.posterior(seen, ends(plain)), **CLOSE)


@pytest.mark.parametrize("bridge", ["student", "regression", "kinetic", "none"])
def test_without_a_gaussian_law_there_is_none(bridge: str) -> None:
    cost = RunningCost.for_model(tiny_bert(), bridge, latent_dim=6)
    with pytest.raises(BadInput, match=f"'?{bridge}'? has no Gaussian law"):
        cost.posterior(trajectory(), ends(cost))


def test_the_sde_has_none() -> None:
    cost = RunningCost.for_model(tiny_bert(), "sde", latent_dim=6)
    with pytest.raises(BadInput, match="no Gaussian law"):
        cost.posterior(trajectory(), ends(cost))


def test_what_was_left_out_is_not_what_was_learned() -> None:
    """States of noise: the adapted lens knows its examples' labels, and what never saw them does not."""
    cost, seen = RunningCost.for_model(tiny_bert(), "brownian", map="lens", latent_dim=6), trajectory(24)
    labels = LabelEnds.of_words(cost.end_points, [[[9]], [[12]]])
    answers = torch.arange(24) % 2
    adapted, guesses = cost.adapted_leaving_out(seen, answers, labels)
    assert adapted.digest() == cost.adapted(seen, answers, labels).digest()
    assert guesses.shape == (4, 24, 6)
    own = adapted.latent_map(seen).double()
    apart = labels.vectors[1, 0].double() - labels.vectors[0, 0].double()
    sign = 2.0 * answers - 1
    learned, left_out = ((x @ apart * sign).mean(1) for x in (own, guesses))
    assert (learned > left_out).all()
