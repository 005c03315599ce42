"""How sure a PET is, against other libraries."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import brier_score_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from benchmarks.evidence.readings import sureness


@pytest.mark.parametrize("classes", [2, 4])
def test_sureness_is_what_other_libraries_say(classes: int) -> None:
    torch.manual_seed(0)
    odds, answers = 2 * torch.randn(500, classes), torch.randint(classes, (500,))
    found = sureness(odds, answers)
    p = odds.double().softmax(1)
    ece = multiclass_calibration_error(p, answers, num_classes=classes, n_bins=15, norm="l1")
    assert found["ece"] == pytest.approx(float(ece), abs=1e-6)  # theirs is in float32
    assert found["accuracy"] == float((odds.argmax(1) == answers).double().mean())
    brier = brier_score_loss(
        answers.numpy(), p.numpy(), labels=list(range(classes)), scale_by_half=False
    )
    assert found["brier"] == pytest.approx(brier, abs=1e-12)


def test_sureness_of_the_sure_and_the_unsure() -> None:
    right = torch.tensor([0, 1, 1])
    sure = 1e3 * torch.nn.functional.one_hot(right, 2)
    assert sureness(sure, right) == {"accuracy": 1.0, "ece": 0.0, "brier": 0.0}
    assert sureness(sure, 1 - right) == {"accuracy": 0.0, "ece": 1.0, "brier": 2.0}
    unsure = sureness(torch.zeros(4, 2), torch.tensor([0, 0, 0, 0]))
    assert unsure == {"accuracy": 1.0, "ece": 0.5, "brier": 0.5}
