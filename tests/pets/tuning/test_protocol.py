"""The published protocol in a run: clipping, identity, scores; ours stays what it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from torch import Tensor

from bridges import BadInput, RunningCost
from pets.tasks import prompts
from pets.tasks import protocol as protocols
from pets.tasks.asking import Asking
from pets.tasks.base import Example, TaskData
from pets.tasks.glue import SST2
from pets.tasks.protocol import OURS, PROTOCOLS, PUBLISHED
from pets.tuning.evaluation import score
from pets.tuning.preparing import prepared
from pets.tuning.settings import CAME_LATER, TuneSettings
from pets.tuning.tune import data_sha256, tune

WORDS = ("film", "book", "story", "dog", "cat", "bird")
TASK = SST2(["bad", "good"])
TRAIN = tuple(Example(f"{w} was {e}", k) for w in WORDS for k, e in enumerate(("poor", "fine")))
DATA = TaskData(TASK, TRAIN, TRAIN[:4])
SETTINGS = TuneSettings(
    shots=2, max_steps=2, batch_size=2, eval_every=1, learning_rate=0.01, protocol="published"
)


def model_of(kind: str = "bert") -> Any:
    return tiny_model(kind, initializer_range=0.4)


def gradients(kind: str, settings: TuneSettings) -> dict[str, Tensor]:
    """Of every trainable parameter, as the optimiser got them in the first step."""
    with prepared(model_of(kind), tiny_tokenizer(), DATA, settings) as loop:
        loop.step(0)
        return {name: p.grad.clone() for name, p in loop.named.items() if p.grad is not None}


def norm(found: dict[str, Tensor]) -> float:
    return float(torch.stack([g.norm() for g in found.values()]).norm())


@pytest.mark.parametrize(
    ("kind", "clips"), [("deberta", True), ("deberta-v2", True), ("bert", False), ("roberta", False)]
)
def test_gradients_of_deberta_are_clipped(
    kind: str, clips: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clipped = gradients(kind, SETTINGS)
    monkeypatch.setitem(PROTOCOLS, "published", dataclasses.replace(PUBLISHED, clip={}))
    whole = gradients(kind, SETTINGS)
    assert norm(whole) > 1.2  # otherwise there is nothing to clip
    factor = 1 / norm(whole) if clips else 1.0
    for name, gradient in whole.items():
        torch.testing.assert_close(clipped[name], gradient * factor)
    assert (norm(clipped) < 1.0001) == clips


def test_ours_clips_nothing() -> None:
    assert norm(gradients("deberta", dataclasses.replace(SETTINGS, protocol="ours"))) > 1.2
    assert not OURS.clip


def test_a_protocol_is_part_of_the_identity_where_it_is_not_ours() -> None:
    """So the runs of earlier versions, which say nothing of it, are known again."""
    assert "protocol" not in TuneSettings().identity
    assert SETTINGS.identity["protocol"] == "published"
    names = {field.name for field in dataclasses.fields(TuneSettings)}
    assert names - set(TuneSettings().identity) == set(CAME_LATER)


def test_an_unknown_protocol_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match=r"unknown protocol 'publised'; did you mean 'published'\?"):
        TuneSettings(protocol="publised")
    assert protocols.protocol("ours") is OURS


def test_the_data_are_what_is_read_of_them() -> None:
    plain, stopped = Example("It is B", 0), Example("It is B", 0, "It is. B")
    hashes = [
        data_sha256(TaskData(TASK, (example,), ()), protocol=protocol)
        for example in (plain, stopped)
        for protocol in (OURS, PUBLISHED)
    ]
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]


@pytest.mark.parametrize("pet", ["lora", "prompt"])
def test_a_published_run_is_scored_as_it_was_tuned(tmp_path: Path, pet: str) -> None:
    plm, tokenizer = model_of(), tiny_tokenizer()
    cost = RunningCost.for_model(plm, "brownian")
    settings = dataclasses.replace(SETTINGS, pet=pet, max_steps=3)
    run = tmp_path / "run"
    result = tune(plm, tokenizer, DATA, settings, run, cost=cost, progress=False)
    assert result["settings"]["protocol"] == "published"
    assert json.loads((run / "result.json").read_text()) == result
    asking = Asking(plm, prompts.Encoder(tokenizer), TASK, PUBLISHED)
    assert score(plm, asking, DATA.reported, run / "pet", 128).metrics == result["reported"]
    assert not plm.bert.embeddings._forward_pre_hooks
    ours = dataclasses.replace(settings, protocol="ours")
    with pytest.raises(BadInput, match="protocol 'published' there, None here"):
        tune(plm, tokenizer, DATA, ours, run, cost=cost, progress=False)
    other = tune(plm, tokenizer, DATA, ours, tmp_path / "ours", cost=cost, progress=False)
    assert other["settings"]["protocol"] == "ours"
    assert "protocol" not in json.loads((tmp_path / "ours" / "run.json").read_text())["settings"]
    assert other["curves"] != result["curves"]
