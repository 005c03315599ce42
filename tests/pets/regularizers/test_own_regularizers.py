"""A regularizer of one's own that is not right yet: what is refused or told, and in which words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from plug_cases import make_batch, with_lora
from tiny import tiny_bert
from torch import Tensor, nn

import bridges
import pets
from bridges import BadInput, RunningCost
from pets import regularizers
from pets.regularizers import Objective
from pets.regularizers.base import catalogue
from pets.regularizers.passes import Pass

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    with catalogue.restored():
        catalogue.register("turn", Turn)
        yield


@pytest.fixture
def model() -> nn.Module:
    return with_lora(tiny_bert()).train()


class Turn(Objective):
    """How much the direction of the states turns from layer to layer."""

    reads = frozenset({"states"})
    made: Any = None

    def term(self, seen: Pass) -> Tensor:
        states = seen.read.trajectory.states  # [L+1, N, H]
        turned = 1 - torch.cosine_similarity(states[1:], states[:-1], dim=-1)  # [L, N]
        found: Tensor = self.made(seen, turned)
        return found


Turn.name = "turn"  # registered in each test alone: others ask for all there are


def run(model: nn.Module, what: Any = None, weight: Any = None, **batch: Any) -> Tensor:
    what = Turn(0.5) if what is None else what
    with pets.regularize(model, what, weight):
        loss: Tensor = model(**(batch or make_batch())).loss
    return loss


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda seen, x: seen.mean(x), r"a number for each target, \[N\] = \[4\], and got \(3, 4\)"),
        (lambda seen, x: seen.mean(x.mean()), r"\[N\] = \[4\], and got \(\): sum or average"),
        (lambda seen, x: seen.mean(x[:, 0]), r"and got \(3,\): sum or average"),
        (lambda seen, x: seen.mean(0.5), r"and got float"),
        (lambda seen, x: x.mean(0), r"the term of turn is shape \(4,\): expected a scalar tensor"),
        (lambda seen, x: float(x.mean()), r"the term of turn is 0\.\d+: expected a scalar tensor"),
    ],
)  # fmt: skip
def test_a_term_is_one_number_made_of_one_for_each_target(
    model: nn.Module, made: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Turn, "made", staticmethod(made))
    batch = make_batch()
    targets = int((batch["labels"] != -100).sum())
    with pytest.raises(BadInput, match=message.replace("4", str(targets))):
        run(model, **batch)


def test_the_mean_is_over_targets(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def made(passed: Pass, turned: Tensor) -> Tensor:
        seen.append(turned.detach())
        return passed.mean(turned.mean(0))

    monkeypatch.setattr(Turn, "made", staticmethod(made))
    torch.manual_seed(1)
    with_it = run(model)
    torch.manual_seed(1)
    without: Tensor = model(**make_batch()).loss
    assert float(with_it - without) == pytest.approx(0.5 * float(seen[0].mean()), abs=1e-6)


def test_a_term_without_a_gradient_is_told_of_once(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Turn, "made", staticmethod(lambda seen, x: seen.mean(x.detach().mean(0))))
    with pets.regularize(model, Turn(0.5)):
        for _ in range(2):
            model(**make_batch()).loss.backward()
    assert caplog.messages == [
        "the term of turn has no gradient: in the loss it changes nothing (said once)"
    ]
    caplog.clear()
    with pets.regularize(model, [(Turn(0.5), 0)]), torch.no_grad():
        model(**make_batch())
    assert not caplog.messages, "no gradient is wanted"


@pytest.mark.parametrize(
    "reads", ["states", {"hidden"}, frozenset({"states", "head"}), ["states"], None]
)
def test_what_can_be_read_is_said_where_a_class_is_written(reads: Any) -> None:
    with pytest.raises(
        BadInput, match=r"hidden-reader: reads = .*; expected a set of 'scores' and 'states'"
    ):
        type("Hidden", (Objective,), {"reads": reads}, name="hidden-reader")  # type: ignore[call-overload]


def test_who_reads_states_has_to_say_so(model: nn.Module) -> None:
    class Silent(Turn, name="silent"):
        reads = frozenset()

    for ask in (
        lambda seen: seen.read.trajectory.states.mean(),
        lambda seen: seen.frozen.trajectory.states.mean(),
        lambda seen: seen.head(torch.zeros(1, 1, 1)).mean(),
    ):
        Silent.term = lambda self, seen, ask=ask: ask(seen)  # type: ignore[method-assign, misc, assignment]
        with pytest.raises(
            BadInput, match=r"does not say that it reads states: reads = frozenset\({'states'}\)"
        ):
            run(model, Silent(0.5))


def test_what_does_nothing_is_refused(model: nn.Module) -> None:
    class Nothing(Objective, name="does-nothing"):
        reads = frozenset({"states"})

    for what in (Nothing(0.5), "does-nothing"):
        with pytest.raises(
            BadInput, match=r"does-nothing does nothing: give Nothing a term\(self, seen\)"
        ):
            run(model, what)
    for name in regularizers.available():
        made = regularizers.get(name, weight=regularizers.strengths(name, 1)[0])
        assert made.does_nothing == (name == "does-nothing")


def test_two_weights_are_one_too_many(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Turn, "made", staticmethod(lambda seen, x: seen.mean(x.mean(0))))
    for what in ("turn:weight=5", Turn(5.0), [("turn", 5)], ["turn:weight=5", ("label-smoothing", 0.1)]):
        with pytest.raises(
            BadInput, match=r"weight=0.5 plays no part: turn.* already; give one of the two"
        ):
            run(model, what, 0.5)
    for what, weight, expected in (
        ("turn:weight=5", None, {"turn": 5.0}),
        (Turn(5.0), 5.0, {"turn": 5.0}),
        ("turn", 0.5, {"turn": 0.5}),
        (["turn:weight=5", "label-smoothing"], 0.5, {"turn": 5.0, "label-smoothing": 0.5}),
    ):
        with pets.regularize(model, what, weight) as handle:
            assert handle.weights == expected


def test_a_bridge_that_reads_nothing_yet_is_no_cost(model: nn.Module) -> None:
    for bridge in (bridges.get("ou"), bridges.OUBridge):
        with pytest.raises(BadInput, match=r"is a bridge, which is a cost once .*RunningCost.for_model"):
            run(model, bridge)
    with pytest.raises(BadInput, match=r"cost=5: expected a bridges.RunningCost"):
        run(model, 5)
    run(model, RunningCost.for_model(tiny_bert(), "ou", fit=False))
