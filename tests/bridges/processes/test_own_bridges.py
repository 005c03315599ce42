"""A bridge of one's own that is not right yet: what is refused, where, and in which words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tiny import tiny_bert
from torch import Tensor, nn

import bridges
from bridges import BadInput, GaussianBridge, RunningCost
from bridges.fitting.learning import tell_of_bounds
from bridges.processes.base import catalogue
from bridges.processes.parameters import Between, Positive, Scale
from bridges.testing import BridgeTestCase

T = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
END = torch.ones(1, 2, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    with catalogue.restored():
        yield


class Drift(GaussianBridge):
    """Mean-reverting, around a mean that may drift either way."""

    formula = "m(t) = t (1 + drift (1 - t)),  s2(t) = sigma^2 t (1 - t)"
    drift = Between(-3, 3)
    sigma = Scale(1e-3, 10)

    def __init__(self, drift: float = 0.5, sigma: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.drift, self.sigma = drift, sigma

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        at = self.per_dimension(t)
        return at * (1 + self.drift * (1 - at)), self.sigma**2 * at * (1 - at)


def made(marginal: Callable[[Tensor], Any]) -> GaussianBridge:
    class Made(GaussianBridge):
        def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
            found: tuple[Tensor, Tensor] = marginal(t)
            return found

    return Made()


# Numbers that are learned


@pytest.mark.parametrize("drift", [-3.0, -1.0, 0.0, 2.5, 3.0, [-1.0, 2.0]])
def test_a_signed_number_is_kept_and_learned_in_its_range(drift: Any) -> None:
    assert Drift(drift).hyperparameters["drift"] == drift
    learned = Drift(drift, learn="drift").double()
    given = torch.tensor(drift, dtype=torch.float64)
    torch.testing.assert_close(learned.drift.detach(), given, rtol=0, atol=1e-5)
    free = learned._parameters["free_drift"]
    assert free is not None
    for moved, bound in ((-1e3, -3.0), (1e3, 3.0)):
        with torch.no_grad():
            free.fill_(moved)
        assert (learned.drift == bound).all()
    learned = Drift(0.3, learn="drift").double()
    (slope,) = torch.autograd.grad(learned.mean(T, END).sum(), list(learned.parameters()))
    step, free = 1e-6, learned._parameters["free_drift"]
    assert free is not None
    with torch.no_grad():
        sums = [learned.mean(T, END).sum() for _ in (free.add_(step),)]
        sums += [learned.mean(T, END).sum() for _ in (free.sub_(2 * step),)]
    assert float((sums[0] - sums[1]) / (2 * step)) == pytest.approx(float(slope), rel=1e-6)


@pytest.mark.parametrize("value", [-3.1, 5, float("nan"), "a", [0.0, 4.0]])
def test_a_number_out_of_a_signed_range_is_refused(value: Any) -> None:
    with pytest.raises(BadInput, match=r"drift=.*expected a number from -3 to 3"):
        Drift(value)


@pytest.mark.parametrize(
    ("kind", "range_", "message"),
    [
        (Positive, (0, 1), r"Positive\(0, 1\): expected numbers above 0; Between\(low, high\) takes"),
        (Scale, (-1, 1), r"Scale\(-1, 1\): expected numbers above 0"),
        (Between, (1, 1), r"Between\(1, 1\): expected two numbers, low < high"),
        (Positive, (2, 1), r"expected two numbers, low < high"),
        (Positive, ("a", 1), r"expected two numbers"),
    ],
)
def test_a_range_that_is_none_is_refused_where_it_is_written(
    kind: type[Positive], range_: Any, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        kind(*range_)


def test_what_was_learned_up_to_a_bound_is_told(caplog: pytest.LogCaptureFixture) -> None:
    tell_of_bounds(Drift(0.0, learn="drift+sigma"))
    assert not caplog.messages
    tell_of_bounds(Drift([0.0, 2.9999], sigma=1e-3, learn="drift+sigma"))
    assert caplog.messages == [
        "drift of 'Drift' was learned to 3, an end of its range: this text does not tell what it is",
        "sigma of 'Drift' was learned to 0.001, an end of its range: this text does not tell what it is",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("map_name", ["mlp", "lens"])
def test_a_fit_tells_of_bounds(map_name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A spread that begins at an end of its range, and may hardly move."""
    from tiny import WORDS, tiny_tokenizer

    model = tiny_bert()
    bridge = bridges.get("brownian", sigma=1e-3, learn="sigma")
    cost = RunningCost.for_model(model, bridge, map=map_name, latent_dim=4)
    texts = [" ".join(WORDS[k : k + 6]) for k in range(len(WORDS) - 6)]
    few = {"max_tokens": 20} if map_name == "lens" else {"steps": 1, "learning_rate": 1e-9}
    cost.fit(model, tiny_tokenizer(), texts, progress=False, **few)
    told = "sigma of 'brownian' was learned to 0.001" in caplog.text
    assert told == (map_name == "mlp"), "a lens finds the spread by itself"


# Constructors


def test_what_a_constructor_forgot_is_named() -> None:
    class Renamed(GaussianBridge):
        def __init__(self, theta: float = 1.0, **options: Any) -> None:
            super().__init__(**options)
            self.th = theta

        def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return t, t * (1 - t)

    class NoInit(Renamed):
        def __init__(self, theta: float = 1.0, **options: Any) -> None:
            self.theta = theta

    class Unassigned(Drift):
        def __init__(self, drift: float = 1.0, **options: Any) -> None:
            GaussianBridge.__init__(self, **options)

    for bridge, name in ((Renamed(), "theta"), (NoInit(), "likelihood")):
        for look in (repr, lambda b: b.hyperparameters):
            with pytest.raises(BadInput, match=rf"has no attribute '{name}'.*self.{name} = {name}"):
                look(bridge)
    with pytest.raises(BadInput, match="Unassigned declares drift and does not assign it"):
        Unassigned().mean(T, END)
    with pytest.raises(BadInput, match=r"Renamed cannot learn theta; .*theta = Positive\(low, high\)"):
        Renamed(learn="theta")
    with pytest.raises(BadInput, match="no attribute 'theta'"):
        RunningCost.for_model(tiny_bert(), Renamed(), fit=False)


# Formulas


@pytest.mark.parametrize(
    ("marginal", "message"),
    [
        (lambda t: (0.5, t), r"Made.marginal gives tuple of 2: float, Tensor: expected two tensors"),
        (lambda t: (t.numpy(), t), r"gives tuple of 2: ndarray, Tensor: expected two tensors"),
        (lambda t: t, r"gives Tensor: expected two tensors"),
        (lambda t: (t, t, t), r"gives tuple of 3"),
        (lambda t: [t, t], r"gives list of 2: Tensor, Tensor"),
        (lambda t: (t[None], t), r"mean factor of shape \(1, 3\) at times of shape \(3,\)"),
        (lambda t: (t, t[:, None]), r"variance of shape \(3, 1\) at times of shape \(3,\)"),
        (lambda t: (t, t.sum()), r"variance of shape \(\) at times of shape \(3,\)"),
    ],
)
def test_what_is_no_pair_of_numbers_a_time_is_refused(
    marginal: Callable[[Tensor], Any], message: str
) -> None:
    for ask in (lambda b: b.mean(T, END), lambda b: b.variance(T), lambda b: b.mean_factor(T)):
        with pytest.raises(BadInput, match=message):
            ask(made(marginal))


def test_a_list_of_numbers_needs_per_dimension_even_where_shapes_happen_to_fit() -> None:
    """As many times as dimensions, each time would have a number of its own."""

    class Naive(Drift):
        def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return t, self.sigma**2 * t * (1 - t)

    assert Naive(sigma=2.0).variance(T).shape == (3,)
    with pytest.raises(
        BadInput, match=r"each of 3 dimensions: expected \(3, 3\); compute with self.per_d"
    ):
        Naive(sigma=[1.0, 2.0, 8.0]).variance(T)
    assert Drift(sigma=[1.0, 2.0, 8.0]).variance(T).shape == (3, 3)


def test_a_covariance_is_a_number_for_each_pair_of_times() -> None:
    class Wrong(Drift):
        wrong: Any = None

        def covariance(self, s: Tensor, t: Tensor) -> Tensor:
            found: Tensor = self.wrong(s, t)
            return found

    Wrong.wrong = staticmethod(lambda s, t: 1.0)
    with pytest.raises(BadInput, match=r"Wrong.covariance gives float: expected a tensor"):
        Wrong().covariance(T[:, None], T[None])
    Wrong.wrong = staticmethod(lambda s, t: s)
    with pytest.raises(BadInput, match=r"covariance of shape \(3, 1\) at times of shape \(3, 3\)"):
        Wrong().covariance(T[:, None], T[None])


@pytest.mark.parametrize(
    ("marginal", "message"),
    [
        (
            lambda t: (t, -t * (1 - t)),
            r"the variance of Made is -0\.16 at t = 0\.2: .* above 0 wherever",
        ),
        (lambda t: (t, t * (1 - t) * torch.nan), r"the variance of Made is nan at t = 0\.2"),
        (
            lambda t: (t / (t - 0.4), t * (1 - t)),
            r"the mean factor of Made is inf at t = 0\.4: .* finite",
        ),
        (lambda t: (t, (0.5 - t).relu()), r"the variance of Made is 0 at t = 0\.6"),
    ],
)
def test_what_is_no_law_at_a_layer_is_refused_where_a_cost_is_made(
    marginal: Callable[[Tensor], Any], message: str
) -> None:
    for map_name in ("mlp", "lens"):
        with pytest.raises(BadInput, match=message):
            RunningCost.for_model(tiny_bert(), made(marginal), map=map_name, fit=False)


@pytest.mark.parametrize(
    ("marginal", "told"),
    [
        (lambda t: (0 * t, t * (1 - t)), "0, 0, 0, 0"),
        (lambda t: (t, 0.5 + t), "0, 1, 0.5, 1.5"),
        (lambda t: (t, t * (1 - t)), None),
    ],
)
def test_ends_that_are_not_pinned_are_told(
    marginal: Callable[[Tensor], Any], told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    RunningCost.for_model(tiny_bert(), made(marginal), fit=False)
    assert ("is no bridge" in caplog.text) == (told is not None)
    if told is not None:
        assert f"m(0), m(1), s2(0) and s2(1) are {told}, expected 0, 1, 0, 0" in caplog.text


def test_a_parameter_of_torch_is_no_learned_one() -> None:
    class Heat(Drift):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.a = nn.Parameter(torch.zeros(()))

    with pytest.raises(BadInput, match=r"Heat has the torch parameter 'a', .* a = Positive"):
        RunningCost.for_model(tiny_bert(), Heat(), fit=False)
    RunningCost.for_model(tiny_bert(), Heat(learn="sigma"), fit=False)  # by a cost with normaliser


# Calls


def test_what_is_no_bridge_or_no_time_says_what_is_expected() -> None:
    with pytest.raises(
        BadInput, match=r"bridge is the class OUBridge: .* OUBridge\(...\), or its name, 'ou'"
    ):
        RunningCost.for_model(tiny_bert(), bridges.OUBridge)  # type: ignore[arg-type]
    with pytest.raises(
        BadInput, match=r"bridge is the class Drift: expected one that is made, Drift\(...\)$"
    ):
        RunningCost.for_model(tiny_bert(), Drift)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"times must be a floating vector \[T\] in \[0, 1\], got 0.5"):
        Drift().mean(0.5, END)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"end points must be \[N, d\], got 1.0"):
        Drift().mean(T, 1.0)  # type: ignore[arg-type]
    with pytest.raises(
        BadInput, match="One of your own has to be imported first, or be in an installed"
    ):
        bridges.get("drifting")


# The battery


def test_a_battery_without_a_bridge_is_refused_before_its_tests() -> None:
    class TestNowhere(BridgeTestCase):
        name = "nowhere"

    with pytest.raises(BadInput, match="unknown bridge 'nowhere'"):
        TestNowhere.setup_class()

    class TestNothing(BridgeTestCase):
        pass

    with pytest.raises(BadInput, match="TestNothing names no bridge: expected name = "):
        TestNothing.setup_class()


def test_the_battery_says_what_a_case_forgot() -> None:
    class Marginal(Drift, name="marginal-alone"):
        """It has no covariance, and says so nowhere."""

    class TestIt(BridgeTestCase):
        name = "marginal-alone"

    for name in ("test_its_samples_have_its_law", "test_one_layer_has_one_cost"):
        with pytest.raises(
            AssertionError, match=r"no covariance\(s, t\): define one, or say joint = False"
        ):
            getattr(TestIt(), name)()

    class Single(Drift, name="single"):
        """Its numbers are rounded."""

        def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
            factor, variance = super().marginal(t)
            return (factor + 1e-8).float(), variance

    class TestSingle(BridgeTestCase):
        name = "single"
        joint = False

    with pytest.raises(
        AssertionError, match=r"computes in float32: torch.as_tensor\(self.theta, dtype=t"
    ):
        TestSingle().test_it_is_pinned_at_both_ends()

    class Offset(Drift, name="offset"):
        """Its mean is not in proportion to v."""

        def mean(self, t: Tensor, end: Tensor) -> Tensor:
            return super().mean(t, end) + 0.1 * (t * (1 - t))[:, None, None]

    class TestOffset(BridgeTestCase):
        name = "offset"
        joint = False

    with pytest.raises(
        AssertionError, match=r"mean is m\(t\) v, with m from marginal: it has no offset"
    ):
        TestOffset().test_its_mean_is_its_factor_times_the_end_point()


def test_a_law_is_asked_where_its_numbers_are() -> None:
    """On another device than the times come from."""

    class Placed(Drift):
        asked: Any = None

        def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
            Placed.asked = t.device.type
            return super().marginal(t)

    bridge = Placed(sigma=[1.0, 2.0])
    bridge.verify(T)
    assert Placed.asked == "cpu"
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        bridge.to("meta").verify(T)
    assert Placed.asked == "meta"
