"""The adapted lens: against sklearn's ridge on explicit features, refitted without each example."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from bridges import BadInput
from bridges.fitting.adapting import STRENGTHS, Adapted, adapt, damping

LAYERS, WIDTH, DIM, RANK = 3, 7, 5, 2
LENS_SHARE = 0.05


def problem(classes: int = 2, each: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Arguments of `adapt`: states of which some directions know the label, the later layers more."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng, dtype=torch.float64)

    labels = torch.arange(classes).repeat(each)
    means = torch.arange(LAYERS)[:, None, None] * normal(LAYERS, classes, WIDTH)
    stretched = normal(LAYERS, WIDTH, WIDTH)
    return {
        "weight": normal(LAYERS, DIM, WIDTH),
        "bias": normal(LAYERS, DIM),
        "states": 1 + means[:, labels] + normal(LAYERS, len(labels), WIDTH),
        "labels": labels,
        "ends": torch.nn.functional.normalize(normal(classes, DIM)),
        "damped": damping(stretched @ stretched.mT, RANK),
    }


def normalised(states: Tensor) -> Tensor:
    return states / states.square().mean(-1, keepdim=True).sqrt()


def contrasts(ends: Tensor) -> Tensor:
    """[d, d], the projection on the span of the ends' differences."""
    span = (ends[1:] - ends[:1]).T
    return span @ torch.linalg.pinv(span)


class Explicit:
    """The ridge of one layer in a space where its metric is the identity, by sklearn."""

    def __init__(self, given: dict[str, Tensor], layer: int) -> None:
        self.x = normalised(given["states"][layer])
        self.targets = given["ends"][given["labels"]] @ contrasts(given["ends"])
        self.mean = self.x.mean(0)
        root = torch.eye(WIDTH, dtype=torch.float64) - given["damped"][layer] @ given["damped"][layer].T
        values, vectors = torch.linalg.eigh(root)
        maps = [
            vectors * values.clamp(min=0).sqrt(),
            given["weight"][layer].T @ contrasts(given["ends"]),
        ]
        shares = (1 - LENS_SHARE, LENS_SHARE)
        centred = self.x - self.mean
        sizes = [(centred @ way).square().sum(1).mean() for way in maps]
        self.map = torch.cat(
            [way * (share / size).sqrt() for way, share, size in zip(maps, shares, sizes, strict=True)],
            1,
        )

    def predict(self, strength: float, new: Tensor, without: int | None = None) -> Tensor:
        """Of x [M, H], fitted on all examples or without one."""
        kept = [i for i in range(len(self.x)) if i != without]
        # the ridge stays that of all N, as it does where one residual is divided by 1 - h
        ridge = Ridge(alpha=strength * len(self.x), solver="svd")
        features = (self.x - self.mean) @ self.map
        ridge.fit(features[kept].numpy(), self.targets[kept].numpy())
        return torch.from_numpy(ridge.predict(((new - self.mean) @ self.map).numpy()))

    def left_out(self, strength: float) -> Tensor:
        each = [self.predict(strength, self.x[i : i + 1], without=i) for i in range(len(self.x))]
        return torch.cat(each)

    def r2(self, predictions: Tensor) -> float:
        spread = self.targets - self.targets.mean(0)
        return float(1 - (self.targets - predictions).square().sum() / spread.square().sum())


def read(adapted: Adapted, layer: int, x: Tensor) -> Tensor:
    return x @ adapted.weight[layer].T + adapted.bias[layer]


CASES = pytest.mark.parametrize(("classes", "each"), [(2, 2), (2, 6), (3, 4), (4, 3)])
NEW = normalised(torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64))


@CASES
def test_the_contrasts_are_sklearns_ridge(classes: int, each: int) -> None:
    """1e-9: the strengths are down to 1e-3, and sklearn takes a singular value decomposition."""
    given = problem(classes, each)
    adapted, span = adapt(**given), contrasts(given["ends"])
    for layer in range(LAYERS):
        explicit, strength = Explicit(given, layer), float(adapted.strength[layer])
        expected = explicit.predict(strength, NEW)
        centre = read(adapted, layer, explicit.mean) @ span
        of_mean = explicit.targets.mean(0)
        found = read(adapted, layer, NEW) @ span - centre + of_mean
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@CASES
def test_what_no_label_differs_in_stays_the_lens(classes: int, each: int) -> None:
    given = problem(classes, each)
    adapted = adapt(**given)
    rest = torch.eye(DIM, dtype=torch.float64) - contrasts(given["ends"])
    torch.testing.assert_close(rest @ adapted.weight, rest @ given["weight"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(adapted.bias @ rest, given["bias"] @ rest, rtol=1e-12, atol=1e-12)


@CASES
def test_left_out_is_what_a_fit_without_the_example_reads(classes: int, each: int) -> None:
    given = problem(classes, each)
    adapted = adapt(**given)
    for layer in range(LAYERS):
        explicit, strength = Explicit(given, layer), float(adapted.strength[layer])
        fitted = explicit.r2(explicit.predict(strength, explicit.x))
        assert float(adapted.fitted[layer]) == pytest.approx(fitted, abs=1e-9)
        left_out = explicit.r2(explicit.left_out(strength))
        assert float(adapted.left_out[layer]) == pytest.approx(left_out, abs=1e-9)
        for i in range(len(given["labels"])):
            reach = NEW @ adapted.shape[layer, i] + adapted.offset[layer, i]
            change = explicit.predict(strength, NEW) - explicit.predict(strength, NEW, without=i)
            found = reach[:, None] * adapted.pull[layer, i]
            torch.testing.assert_close(found, change, rtol=1e-9, atol=1e-9)


@CASES
def test_left_out_guesses_are_those_of_a_fit_without_the_example(classes: int, each: int) -> None:
    """Along the contrasts sklearn's, about the same centre; of the rest it learned nothing."""
    given = problem(classes, each)
    adapted, span = adapt(**given), contrasts(given["ends"])
    guesses = adapted.left_out_guesses(given["states"].float())
    assert guesses.dtype == torch.float64
    rest = torch.eye(DIM, dtype=torch.float64) - span
    for layer in range(LAYERS):
        explicit, strength = Explicit(given, layer), float(adapted.strength[layer])
        centre = read(adapted, layer, explicit.mean) @ span - explicit.targets.mean(0)
        expected = explicit.left_out(strength) + centre
        close = {"rtol": 1e-5, "atol": 1e-5}  # the states were float32
        torch.testing.assert_close(guesses[layer] @ span, expected, **close)
        lens = explicit.x @ given["weight"][layer].T + given["bias"][layer]
        torch.testing.assert_close(guesses[layer] @ rest, lens @ rest, **close)


@pytest.mark.parametrize(("classes", "each"), [(2, 3), (3, 2)])
def test_the_strength_is_each_layers_best_left_out(classes: int, each: int) -> None:
    given = problem(classes, each, seed=1)
    errors = torch.zeros(len(STRENGTHS), LAYERS, dtype=torch.float64)
    for layer in range(LAYERS):
        explicit = Explicit(given, layer)
        for i, strength in enumerate(STRENGTHS):
            gap = explicit.targets - explicit.left_out(strength)
            errors[i, layer] = gap.square().sum()
    best = [STRENGTHS[i] for i in errors.argmin(0).tolist()]
    assert len(set(best)) > 1
    assert adapt(**given).strength.tolist() == pytest.approx(best)


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_where_the_states_say_nothing_no_label_is_nearer(classes: int) -> None:
    given = problem(classes)
    given["states"] = given["states"][:, :1].expand(-1, len(given["labels"]), -1)
    adapted = adapt(**given)
    for layer in range(LAYERS):
        latent = read(adapted, layer, normalised(given["states"][layer, 0]))
        distances = (latent - given["ends"]).norm(dim=1)
        torch.testing.assert_close(distances, distances[:1].expand(classes), rtol=1e-9, atol=1e-9)
    assert (adapted.left_out <= 0).all()
    assert (adapted.fitted.abs() < 1e-9).all()


def test_class_means_come_near_the_ends_where_the_states_know_the_label() -> None:
    given = problem(3, 8)
    given["states"] = given["states"] + 50 * torch.eye(WIDTH, dtype=torch.float64)[given["labels"]]
    adapted, span = adapt(**given), contrasts(given["ends"])
    x = normalised(given["states"])
    for label in range(3):
        latents = torch.stack([read(adapted, k, x[k, given["labels"] == label]) for k in range(LAYERS)])
        expected = (given["ends"][label] @ span).expand(LAYERS, -1)
        torch.testing.assert_close(latents.mean(1) @ span, expected, rtol=0, atol=0.02)


def test_the_lens_and_the_texts_covariance_help_few_examples() -> None:
    """A direction that the lens reads, hidden under one that varies far more on any text."""
    width, new = 30, 2000

    def states(labels: Tensor, rng: torch.Generator) -> Tensor:
        x = torch.randn(1, len(labels), width, generator=rng, dtype=torch.float64)
        x[..., 0] += 2 * labels - 1
        x[..., 1] *= 20
        return torch.cat([x, torch.full_like(x[..., :1], 30)], 2)  # whose length varies little

    ends = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    lens = torch.zeros(1, 2, width + 1, dtype=torch.float64)
    lens[0, 0, 0] = 0.01  # right, but far too weak
    text = states(torch.zeros(new), torch.Generator().manual_seed(1))
    damped = damping(torch.cov(normalised(text)[0].T)[None], 1)
    test_labels = torch.arange(new) % 2

    def accuracy(weight: Tensor, damped: Tensor | None) -> float:
        total, rng = 0.0, torch.Generator().manual_seed(0)  # the same draws for each
        for _ in range(20):
            labels = torch.arange(2).repeat(4)
            adapted = adapt(weight, torch.zeros(1, 2), states(labels, rng), labels, ends, damped)
            latents = read(adapted, 0, normalised(states(test_labels, rng))[0])
            total += float(((latents[:, 0] > 0) == (test_labels == 1)).double().mean()) / 20
        return total

    plain, with_text = accuracy(0 * lens, None), accuracy(0 * lens, damped)
    with_both = accuracy(lens, damped)
    # 0.84 is what knowing everything reaches; the same draws leave differences of about 0.01
    assert plain + 0.03 < with_text < with_both - 0.03


def test_damping_is_the_inverse_of_the_widest_directions() -> None:
    rng = torch.Generator().manual_seed(2)
    root = torch.randn(2, WIDTH, 20, generator=rng, dtype=torch.float64)
    covariance = root @ root.mT
    found = damping(covariance, RANK)
    values, axes = torch.linalg.eigh(covariance)
    values[:, :-RANK] = values[:, :-RANK].mean(1, keepdim=True)
    flat = (axes * values[:, None]) @ axes.mT
    eye = torch.eye(WIDTH, dtype=torch.float64)
    expected = torch.linalg.inv(flat) * values[:, :1, None]
    torch.testing.assert_close(eye - found @ found.mT, expected, rtol=1e-9, atol=1e-9)
    assert found.shape == (2, WIDTH, RANK)


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_directions_without_spread_are_not_damped(kept: int) -> None:
    """Text of few tokens has some: their spread is rounding, on either side of 0."""
    wide = torch.randn(LAYERS, WIDTH, kept, dtype=torch.float64)
    noise = 1e-17 * torch.randn(LAYERS, WIDTH, WIDTH, dtype=torch.float64)
    found = damping(wide @ wide.mT + noise + noise.mT, WIDTH - 1)
    assert found.isfinite().all()
    sizes = torch.linalg.svdvals(found)
    if kept:
        torch.testing.assert_close(sizes[:, :kept], torch.ones(LAYERS, kept).double())
        assert (sizes[:, kept:] < 1e-12).all()
    assert (sizes <= 1 + 1e-12).all()


def test_length_and_dtype_of_the_states_do_not_matter() -> None:
    given = problem()
    expected = adapt(**given)
    longer = adapt(**{**given, "states": 8 * given["states"]})
    torch.testing.assert_close(longer.weight, expected.weight, rtol=1e-9, atol=1e-9)
    single = adapt(**{**given, "states": given["states"].float(), "weight": given["weight"].float()})
    assert single.weight.dtype == torch.float64
    torch.testing.assert_close(single.weight, expected.weight, rtol=1e-3, atol=1e-3)


def infinite(given: dict[str, Tensor]) -> Tensor:
    states = given["states"].clone()
    states[0, 0, 0] = float("inf")
    return states


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("bias", lambda given: given["bias"][:2], r"bias \[2, 5\].*expected weight \[L, d, H\]"),
        ("states", lambda given: given["states"][0], "expected weight"),
        ("labels", lambda given: given["labels"][:-1], r"labels \[7\].*expected weight"),
        ("ends", lambda given: given["ends"][:, :-1], "expected weight"),
        ("damped", lambda given: given["damped"][:, :-1], "expected weight"),
        ("states", infinite, "states .* not all finite"),
        ("states", lambda given: 0 * given["states"], "is zero"),
        ("labels", lambda given: given["labels"] + 1, "whole numbers from 0 to 1"),
        ("labels", lambda given: given["labels"].double(), "whole numbers from 0 to 1"),
        ("labels", lambda given: 0 * given["labels"], r"\[8, 0\] examples .* each twice"),
        ("ends", lambda given: given["ends"][:1].expand(2, -1), "all the same"),
    ],
)
def test_input_that_does_not_fit_is_refused(name: str, change: Any, message: str) -> None:
    given = problem()
    with pytest.raises(BadInput, match=message):
        adapt(**{**given, name: change(given)})


def test_more_examples_than_memory_holds_the_matrices_of_are_refused() -> None:
    with pytest.raises(BadInput, match="4098 examples to adapt a lens to: expected at most 4096"):
        adapt(**problem(each=2049))


@pytest.mark.parametrize("rank", [0, WIDTH, 2.0])
def test_a_rank_that_does_not_fit_is_refused(rank: int) -> None:
    with pytest.raises(BadInput, match=f"expected 1 to {WIDTH - 1}"):
        damping(torch.eye(WIDTH)[None], rank)
    with pytest.raises(BadInput, match=r"expected \[layers, H, H\]"):
        damping(torch.eye(WIDTH), 1)
