"""The probe of every layer is scikit-learn's logistic regression, and so is its choice of a ridge."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from bridges import BadInput
from pets.anytime import probe as probe_module
from pets.anytime.probe import STRENGTHS, Probe, folds

LAYERS = 3


def examples(count: int, width: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Layers that tell more and more of the class, on features of all sizes."""
    rng = torch.Generator().manual_seed(seed)
    answers = torch.arange(count) % classes
    noise = torch.randn(LAYERS, count, width, generator=rng)
    means = torch.randn(classes, width, generator=rng)
    told = torch.linspace(0.1, 0.6, LAYERS)[:, None, None] * means[answers]
    return (noise + told) * torch.logspace(-2, 3, width) + 7, answers


def theirs(states: Tensor, answers: Tensor, classes: int, strength: float) -> LogisticRegression:
    """With the same penalty: of two classes they have one weight, the difference of our two."""
    shares = 2 if classes == 2 else 1
    c = shares / (strength * states.shape[1] * len(states))
    model = LogisticRegression(C=c, tol=1e-10, max_iter=10_000)
    return make_pipeline(StandardScaler(), model).fit(states.double().numpy(), answers.numpy())


@pytest.mark.parametrize(("count", "width", "classes"), [(24, 40, 2), (30, 40, 3), (90, 20, 4)])
def test_it_is_the_logistic_regression_of_scikit_learn(
    count: int, width: int, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, answers = examples(count, width, classes)
    others, _ = examples(50, width, classes, seed=1)
    for strength in (1.0, 0.01, 1e-4):
        monkeypatch.setattr(probe_module, "STRENGTHS", (strength,))
        ours = Probe.fitted(states, answers, classes)(others).softmax(2)
        assert ours.dtype == torch.float64
        for layer in range(LAYERS):
            model = theirs(states[layer], answers, classes, strength)
            wanted = torch.from_numpy(model.predict_proba(others[layer].double().numpy()))
            torch.testing.assert_close(ours[layer], wanted, rtol=0, atol=2e-4)


def test_each_layer_has_the_strength_with_the_least_loss_left_out() -> None:
    states, answers = examples(40, 30, 2)
    found = Probe.fitted(states, answers, 2).strength
    fold = folds(answers, 2)
    for layer in range(LAYERS):
        losses = []
        for strength in STRENGTHS:
            loss = 0.0
            for k in range(5):
                seen, left_out = fold != k, fold == k
                model = theirs(states[layer, seen], answers[seen], 2, strength)
                guessed = model.predict_proba(states[layer, left_out].double().numpy())
                loss += log_loss(answers[left_out], guessed, labels=[0, 1], normalize=False)
            losses.append(loss)
        best = min(range(len(losses)), key=losses.__getitem__)
        assert found[layer] == pytest.approx(STRENGTHS[best])
    assert len(set(found.tolist())) > 1  # or this tells nothing


def test_folds_are_stratified_and_as_many_as_the_smallest_class_allows() -> None:
    answers = torch.tensor([0] * 11 + [1] * 7 + [0])
    fold = folds(answers, 2)
    for label in (0, 1):
        sizes = fold[answers == label].bincount(minlength=5).tolist()
        assert max(sizes) - min(sizes) <= 1
    assert folds(torch.tensor([0, 0, 0, 0, 1, 1]), 2).max() == 1


def test_layers_do_not_meet() -> None:
    states, answers = examples(24, 40, 3)
    together = Probe.fitted(states, answers, 3)
    for layer in range(LAYERS):
        alone = Probe.fitted(states[layer : layer + 1], answers, 3)
        assert together.strength[layer] == alone.strength[0]
        torch.testing.assert_close(
            together(states)[layer], alone(states[layer : layer + 1])[0], rtol=1e-3, atol=1e-3
        )


def test_what_is_the_same_in_all_examples_tells_nothing() -> None:
    """As the state of [MASK] before the first layer, up to rounding."""
    states, answers = examples(25, 40, 2)
    states[0] = 3 + 1e-7 * states[0].sign()
    odds = Probe.fitted(states, answers, 2)(states)[0].softmax(1)
    shares = answers.bincount().double() / len(answers)
    torch.testing.assert_close(odds, shares.expand(25, 2), rtol=0, atol=1e-5)


def test_it_draws_nothing_and_leaves_no_gradient() -> None:
    states, answers = examples(20, 10, 2)
    before = torch.get_rng_state()
    with torch.no_grad():
        fitted = Probe.fitted(states.requires_grad_(), answers, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert not fitted.weight.requires_grad
    assert states.grad is None


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"states": torch.zeros(3, 8)}, r"expected \[K, N, H\]"),
        ({"answers": torch.zeros(7, dtype=torch.long)}, r"expected \[K, N, H\]"),
        ({"states": torch.full((2, 8, 4), torch.nan)}, "not all finite"),
        ({"answers": torch.arange(8)}, "classes from 0 to 1"),
        ({"answers": torch.tensor([0] * 7 + [1])}, r"\[7, 1\] examples .* each twice"),
        ({"answers": torch.zeros(8, dtype=torch.long), "classes": 1}, "two classes"),
    ],
)
def test_bad_input(change: dict[str, object], match: str) -> None:
    given = {"states": torch.randn(2, 8, 4), "answers": torch.arange(8) % 2, "classes": 2, **change}
    with pytest.raises(BadInput, match=match):
        Probe.fitted(**given)  # type: ignore[arg-type]
