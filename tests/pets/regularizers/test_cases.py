"""Every regularizer passes the battery for those of others, and the battery finds what it looks for."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from bridges import BadInput
from pets import regularizers
from pets.regularizers import Objective
from pets.regularizers.passes import Pass
from pets.testing import ObjectiveCase


class TestAnchor(ObjectiveCase):
    name = "anchor"
    weight = 1.0


class TestJump(ObjectiveCase):
    name = "jump"
    weight = 1.0
    parameters: ClassVar = {"last": 2}


class TestEarlyExit(ObjectiveCase):
    name = "early-exit"
    weight = 0.3
    parameters: ClassVar = {"first": 0.3}


class TestContrast(ObjectiveCase):
    name = "contrast"
    weight = 0.1
    parameters: ClassVar = {"first": 0.25, "temperature": 0.2}


class TestLabelSmoothing(ObjectiveCase):
    name = "label-smoothing"
    weight = 0.1


class TestRDrop(ObjectiveCase):
    name = "r-drop"
    weight = 1.0
    neutral = False


class TestR3F(ObjectiveCase):
    name = "r3f"
    weight = 1.0


class TestNEFTune(ObjectiveCase):
    name = "neftune"
    weight = 5.0


class TestDropout(ObjectiveCase):
    name = "dropout"
    weight = 0.1


class TestWeightDecay(ObjectiveCase):
    name = "weight-decay"
    weight = 1.0


class Leaving(Objective):
    """Leaves a hook behind."""

    def attach(self, model: nn.Module) -> None:
        model.register_forward_hook(lambda *_: None)

    def term(self, seen: Pass) -> Tensor:
        return seen.loss * 2


class Endless(Objective):
    """Whose gradient is no number."""

    def term(self, seen: Pass) -> Tensor:
        return (seen.read.trajectory.states[0] * 0).norm() + seen.loss / 0


class Late(Objective):
    """Begins at another strength than 0."""

    def loss(self, seen: Pass) -> Tensor:
        return seen.loss * (1 + torch.rand(()).item() + self.weight)


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (Leaving, "test_a_step_follows_the_seed_and_leaves_the_model"),
        (Endless, "test_what_it_adds_is_finite_and_so_are_its_gradients"),
        (Late, "test_at_strength_0_it_is_nothing"),
    ],
)
def test_the_battery_fails_for_what_is_wrong(kind: type[Objective], test: str) -> None:
    with regularizers.catalogue.restored():
        regularizers.catalogue.register("wrong", kind)

        class Case(ObjectiveCase):
            name = "wrong"
            weight = 1.0

        with pytest.raises(AssertionError):
            getattr(Case(), test)()


@pytest.mark.parametrize("text", ["early-exit:first=2,weight=1", "jump:last=0,weight=1"])
def test_options_in_a_text_are_checked(text: str) -> None:
    with pytest.raises(BadInput, match="expected"):
        regularizers.parse(text)
