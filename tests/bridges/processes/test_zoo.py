"""The battery of `bridges.testing` over the bridges, and what the battery itself finds."""

from __future__ import annotations

import unittest
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import bridges
from bridges import GaussianBridge
from bridges.testing import BridgeTestCase

pytestmark = pytest.mark.slow


class TestBrownian(BridgeTestCase):
    name = "brownian"
    parameters: ClassVar = {"sigma": 0.7}
    extremes = ({"sigma": 1e-3}, {"sigma": 10.0})


class TestBrownianByDimension(BridgeTestCase):
    name = "brownian"
    parameters: ClassVar = {"sigma": [0.3, 0.7, 2.0], "learn": "sigma"}


class TestOU(BridgeTestCase):
    name = "ou"
    parameters: ClassVar = {"theta": 2.0, "sigma": 0.7}
    extremes = ({"theta": 1e-6}, {"theta": 50.0})


class TestLearnedOU(BridgeTestCase):
    name = "ou"
    parameters: ClassVar = {"theta": 2.0, "sigma": 0.7, "learn": "theta+sigma"}
    extremes = ({"theta": 0.01}, {"theta": 50.0})


class TestClock(BridgeTestCase):
    name = "clock"
    parameters: ClassVar = {"clock": [0.5, 3.0, 1.0, 0.2], "learn": "clock+sigma"}
    extremes = ({"clock": 128}, {"clock": [1.0, 0.05, 1.0, 0.05]})


class TestFixedClock(BridgeTestCase):
    name = "clock"
    parameters: ClassVar = {"clock": [0.5, 3.0, 1.0], "learn": "", "sigma": [0.5, 1.0]}


class TestAlpha(BridgeTestCase):
    name = "alpha"
    parameters: ClassVar = {"alpha": 0.5, "sigma": 0.7}
    extremes = ({"alpha": 1e-6}, {"alpha": 50.0})


class TestLearnedAlpha(BridgeTestCase):
    name = "alpha"
    parameters: ClassVar = {"alpha": [0.5, 2.0, 3.0], "learn": "alpha+sigma"}
    extremes = ({"alpha": 0.01}, {"alpha": 50.0})


class TestFractional(BridgeTestCase):
    name = "fractional"
    parameters: ClassVar = {"hurst": 0.7, "sigma": 0.7, "learn": "hurst+sigma"}
    extremes = ({"hurst": 0.05}, {"hurst": 0.95})


class TestGP(BridgeTestCase):
    name = "gp"
    parameters: ClassVar = {"kernel": "matern32", "lengthscale": 0.4, "learn": "lengthscale+sigma"}
    extremes = ({"lengthscale": 0.05}, {"lengthscale": 10.0}, {"kernel": "matern12"}, {"kernel": "rbf"})


class TestSmooth(BridgeTestCase):
    name = "smooth"
    parameters: ClassVar = {"sigma": [0.7, 1.0, 3.0], "learn": "sigma"}


class TestStudent(BridgeTestCase):
    name = "student"
    law = False
    normal = False


class TestRandomEnd(BridgeTestCase):
    name = "random"
    parameters: ClassVar = {"target": "ou:theta=2", "keep": 0.8}
    extremes = ({"keep": 1e-6}, {"target": "fractional:hurst=0.05,likelihood=path"})
    law = False
    normal = False


class TestLearnedRandomEnd(BridgeTestCase):
    name = "random"
    parameters: ClassVar = {"target": "ou:theta=2,likelihood=path,learn=theta+sigma"}
    law = False
    normal = False


class TestLearnedStudent(BridgeTestCase):
    name = "student"
    parameters: ClassVar = {"base": "ou:theta=2,learn=theta+sigma"}
    law = False
    normal = False


class TestPosterior(BridgeTestCase):
    name = "posterior"
    parameters: ClassVar = {"process": "ou:theta=2,sigma=0.7"}
    extremes = (
        {"process": "brownian:sigma=1e-3"},
        {"process": "fractional:hurst=0.95,likelihood=path", "over": "prefixes"},
        {"process": "ou:theta=50", "layers": "flat", "since": 0.3},
        {"process": "fractional:hurst=0.95,likelihood=path", "layers": "exit", "until": 0.7},
    )
    law = False


class TestLearnedPosterior(BridgeTestCase):
    name = "posterior"
    parameters: ClassVar = {
        "process": "alpha:alpha=[0.5,2,3],learn=alpha+sigma,likelihood=path",
        "over": "prefixes",
        "until": 0.7,
    }
    law = False


class TestAxis(BridgeTestCase):
    name = "axis"
    parameters: ClassVar = {"process": "ou:theta=2,sigma=0.7"}
    extremes = (
        {"process": "brownian:sigma=1e-3"},
        {"process": "fractional:hurst=0.05,likelihood=path", "rest": 0.5},
        {"process": "alpha:alpha=0.5", "layers": "flat", "until": 0.5},
    )
    law = False


class TestLearnedAxis(BridgeTestCase):
    name = "axis"
    parameters: ClassVar = {"process": "fractional:learn=hurst+sigma,likelihood=path", "rest": 0.2}
    law = False


class TestRegression(BridgeTestCase):
    name = "regression"
    law = False


class TestKinetic(BridgeTestCase):
    name = "kinetic"
    law = False


class TestNone(BridgeTestCase):
    name = "none"
    law = False


# The battery finds what is wrong


class Late(GaussianBridge):
    """Moments as they should be, by which the wrong ones below are known."""

    formula = "m(t) = t^3"

    def __init__(self, sigma: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.sigma = sigma

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return t**3, self.covariance(t, t)

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        return self.sigma**2 * torch.minimum(s, t) * (1 - torch.maximum(s, t))


class Unpinned(Late):
    """Ends anywhere."""

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return t**3, t


class Negative(Late):
    """No variance in the first half."""

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return t**3, (t - 0.5).clamp(min=0) * (1 - t)


class Disagreeing(Late):
    """A covariance of another process."""

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        return 1.001 * torch.minimum(s, t) * (1 - torch.maximum(s, t))

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return t**3, t * (1 - t)


class Degenerate(Late):
    """One normal, times t (1 - t)."""

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        return s * (1 - s) * t * (1 - t)


class Pretending(Late):
    """Says that it is Markov."""

    markov = True

    def covariance(self, s: Tensor, t: Tensor) -> Tensor:
        return torch.minimum(s, t) * (1 - torch.maximum(s, t)) + s * (1 - s) * t * (1 - t)


class Wide(Late):
    """Samples five per cent too wide."""

    def sample(self, t: Tensor, end: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        mean = self.mean(t, end)
        return mean + 1.05 * (super().sample(t, end, generator=generator) - mean)


class Seedless(Late):
    """Takes no notice of the generator."""

    def sample(self, t: Tensor, end: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return super().sample(t, end)


class Unnormalised(Late):
    """Densities without their normaliser."""

    def log_prob(self, z: Tensor, t: Tensor, end: Tensor) -> Tensor:
        return super().log_prob(z, t, end) + self.variance(t).log()[:, None]


class Forgetful(Late):
    """Keeps another number than it was given."""

    def __init__(self, sigma: float = 1.0, **options: Any) -> None:
        super().__init__(2 * sigma, **options)


class Doubled(Late):
    """A path cost of the wrong scale."""

    def cost(self, *arguments: Any, **options: Any) -> Tensor:
        return super().cost(*arguments, **options) * (2 if self.likelihood == "path" else 1)


class Detached(Late):
    """A cost through which half of the gradient is lost."""

    def cost(self, latent_map: Any, trajectory: Any, end: Tensor, **options: Any) -> Tensor:
        cut = bridges.Trajectory(trajectory.states, trajectory.context.detach(), trajectory.rows)
        whole = super().cost(latent_map, trajectory, end, **options)
        return (whole + super().cost(latent_map, cut, end, **options)) / 2


class Coarse(Late):
    """Loses its digits to an offset in float32."""

    def cost(self, *arguments: Any, **options: Any) -> Tensor:
        return super().cost(*arguments, **options) + 1e6 - 1e6


class Mixed(Late):
    """End points that look at each other."""

    def cost(self, latent_map: Any, trajectory: Any, end: Tensor, **options: Any) -> Tensor:
        value = super().cost(latent_map, trajectory, end, **options)
        return value - value.mean(0) if end.dim() == 3 else value


class Ranked(Late):
    """Labels of which the first is the cheapest."""

    def of_labels(
        self, latent_map: Any, trajectory: Any, answers: Tensor, labels: Any, **options: Any
    ) -> Tensor:
        return super().of_labels(latent_map, trajectory, answers, labels, **options) + answers


class Misread(Late):
    """Guesses of a lens that are multiplied by another process's mean."""

    def mean_factor(self, t: Tensor) -> Tensor:
        return t


class Stateful(Late):
    """Depends on what no file has."""

    drawn = 0

    def cost(self, *arguments: Any, **options: Any) -> Tensor:
        Stateful.drawn += 1
        return super().cost(*arguments, **options) + Stateful.drawn


@pytest.mark.parametrize(
    ("wrong", "test"),
    [
        (Unpinned, "test_it_is_pinned_at_both_ends"),
        (Negative, "test_its_variance_is_positive_between_them"),
        (Disagreeing, "test_its_covariance_is_symmetric_pinned_and_has_its_variance"),
        (Degenerate, "test_its_covariance_is_positive_definite"),
        (Pretending, "test_a_claim_to_be_markov_is_true"),
        (Pretending, "test_its_path_cost_is_its_joint_density"),
        (Wide, "test_its_samples_have_its_law"),
        (Seedless, "test_its_samples_follow_the_generator_and_meet_the_ends"),
        (Unnormalised, "test_its_density_integrates_to_one"),
        (Unnormalised, "test_its_joint_density_is_the_law_of_its_moments"),
        (Forgetful, "test_its_parameters_rebuild_it"),
        (Doubled, "test_one_layer_has_one_cost"),
        (Doubled, "test_its_path_cost_is_its_joint_density"),
        (Detached, "test_its_gradients_are_right"),
        (Coarse, "test_its_cost_is_finite_and_right_in_few_bits"),
        (Mixed, "test_several_end_points_are_each_by_itself"),
        (Ranked, "test_labels_are_no_more_than_their_words"),
        (Misread, "test_its_mean_is_its_factor_times_the_end_point"),
        (Stateful, "test_a_cost_with_it_is_saved_and_loaded"),
    ],
)
def test_the_battery_finds_it(wrong: type[Late], test: str) -> None:
    """The right one passes the same test."""
    for base, passes in ((Late, True), (wrong, False)):
        case = type("Case", (BridgeTestCase,), {"name": f"is-{base.__name__.lower()}"})()
        type(base.__name__, (base,), {"__doc__": base.__doc__}, name=case.name)
        case.parameters = {"sigma": 0.7}
        if passes:
            getattr(case, test)()
        else:
            with pytest.raises((AssertionError, RuntimeError, bridges.BadInput)):
                getattr(case, test)()


def test_the_battery_finds_a_bridge_without_a_description() -> None:
    class Bare(GaussianBridge, name="bare"):
        def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return t, t * (1 - t)

    case = BridgeTestCase()
    case.name, case.joint = "bare", False  # type: ignore[misc]
    case.test_its_density_integrates_to_one()
    with pytest.raises(AssertionError, match="the class needs a formula"):
        case.test_it_is_registered_and_described()
    with pytest.raises(unittest.SkipTest, match="bare is declared to have no covariance"):
        case.test_its_samples_have_its_law()
    case.joint = True  # type: ignore[misc]
    with pytest.raises(AssertionError, match=r"bare has no covariance\(s, t\)"):
        case.test_its_samples_have_its_law()
    case.name = "regression"  # type: ignore[misc]
    with pytest.raises(AssertionError, match="regression is no GaussianBridge: set law = False"):
        case.test_it_is_pinned_at_both_ends()
