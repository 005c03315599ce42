"""Regularizers by name: what is known of them, their text form, and one of a third party."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bridges import BadInput
from bridges.model.identity import own_code
from pets import regularizers
from pets.regularizers.base import Loss
from pets.tasks.classifier import PromptClassifier
from pets.tuning.settings import TuneSettings
from tests.pets.tuning.test_tuning import run


def test_what_is_known_of_a_regularizer() -> None:
    record = regularizers.info("r-drop")
    assert record.cls is regularizers.RDrop
    assert record.description == "Regularized dropout: Liang et al., NeurIPS 2021, arXiv 2106.14448."
    assert list(record.defaults) == ["weight"]


def test_a_regularizer_in_one_word() -> None:
    objective = regularizers.parse("r-drop:weight=1")
    assert isinstance(objective, regularizers.RDrop)
    assert objective.weight == 1.0
    assert regularizers.weighed("r-drop:weight=1") == ("r-drop", 1.0)
    assert regularizers.weighed("r-drop") == ("r-drop", None)
    assert type(regularizers.weighed("r-drop:weight=1")[1]) is float  # as --weight 1 is
    with pytest.raises(BadInput, match="expected weight=number"):
        regularizers.weighed("r-drop:weight=much")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("r-drip:weight=1", "unknown regularizer 'r-drip'; did you mean 'r-drop'"),
        ("r-drop", "regularizer 'r-drop' needs 'weight'; it takes weight"),
        ("r-drop:alpha=1", "regularizer 'r-drop' has no parameter 'alpha'; it takes weight"),
        ("r-drop:weight=much", "weight='much': expected the alpha of r-drop, a finite number"),
        ("dropout:weight=1", "weight=1: expected the probability of dropout, a number in"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        regularizers.parse(text)


def test_settings_hold_the_weight_in_one_place() -> None:
    with pytest.raises(BadInput, match="regularizer='r-drop:weight=1': its weight is a setting of its"):
        TuneSettings(regularizer="r-drop:weight=1")


def test_the_code_of_a_third_partys_parts_is_a_part_of_a_run() -> None:
    class Own(regularizers.RDrop, name="own"):
        """R-Drop under another name."""

    assert own_code(*TuneSettings(regularizer="r-drop").parts) is None
    assert own_code(*TuneSettings(regularizer="own").parts) is not None


def test_a_third_partys_regularizer_is_tuned_with_by_name(tmp_path: Path) -> None:
    class Shrink(regularizers.Objective, name="shrink"):
        """A ridge on the scores."""

        number, tried = "weight", (0.1, 1.0)

        def __init__(self, weight: float, power: int = 2) -> None:
            super().__init__(weight)
            self.power = power

        def on(self, classifier: PromptClassifier) -> Loss:
            def loss(**batch: Tensor) -> Tensor:
                output = classifier(**batch)
                value: Tensor = output.loss + self.weight * output.logits.abs().pow(self.power).mean()
                return value

            return loss

    plain = run(tmp_path / "plain", max_steps=2, eval_every=1)
    losses = {}
    for text in ("shrink", "shrink:power=3"):
        result = run(tmp_path / text, max_steps=2, eval_every=1, regularizer=text, weight=0.1)
        assert result["settings"]["regularizer"] == text
        losses[text] = result["curves"][1]["loss"]
    assert len({*losses.values(), plain["curves"][1]["loss"]}) == 3
    assert regularizers.weighed("shrink:power=3,weight=0.1") == ("shrink:power=3", 0.1)
    assert regularizers.strengths("shrink", 2) == [0.1, 1.0]
    assert torch.is_grad_enabled()
