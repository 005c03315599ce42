"""A PET that was only selected scores later what it would have scored at the end of its run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_tokenizer

import pets
from bridges import BadInput
from pets.tasks import prompts
from pets.tasks.asking import Asking
from pets.tasks.base import Example, TaskData
from pets.tuning.evaluation import check_tokens, score
from pets.tuning.tune import data_sha256, tune
from tests.pets.tuning.test_tuning import DATA, SETTINGS, TASK, model


def run(folder: Path, plm: Any, data: TaskData = DATA, **changes: Any) -> dict[str, Any]:
    settings = dataclasses.replace(SETTINGS, max_steps=6, eval_every=3, **changes)
    return tune(plm, tiny_tokenizer(), data, settings, folder, progress=False)


@pytest.mark.parametrize("pet", pets.available())
def test_select_then_score_is_the_whole_run(tmp_path: Path, pet: str) -> None:
    plm = model()
    whole = run(tmp_path / "whole", plm, pet=pet, learning_rate=1e-2)
    selected = run(
        tmp_path / "selected",
        plm,
        DATA.without_reported,
        pet=pet,
        learning_rate=1e-2,
    )
    assert selected["reported"] is None
    assert "reported" not in selected["examples"]
    assert {k: v for k, v in whole.items() if k in ("curves", "dev", "dev_loss", "best_step")} == {
        k: v for k, v in selected.items() if k in ("curves", "dev", "dev_loss", "best_step")
    }
    before = {name: p.clone() for name, p in plm.state_dict().items()}
    asking = Asking(plm, prompts.Encoder(tiny_tokenizer()), TASK)
    found = score(plm, asking, DATA.reported, tmp_path / "selected" / "pet", 40)
    assert found.metrics == whole["reported"]
    assert found.truncated == whole["truncated"]["reported"]
    assert found.right is not None
    assert sum(found.right) / len(DATA.reported) == found.metrics["accuracy"]
    assert list(before) == list(plm.state_dict())
    assert all(torch.equal(before[name], p) for name, p in plm.state_dict().items())


def test_scoring_refuses_what_is_no_pet(tmp_path: Path) -> None:
    plm = model()
    asking = Asking(plm, prompts.Encoder(tiny_tokenizer()), TASK)
    with pytest.raises(BadInput, match="holds no PET"):
        score(plm, asking, DATA.reported, tmp_path, 40)


def test_a_text_of_one_token_is_one_that_the_model_knows() -> None:
    plm = model()
    check_tokens([(prompts.Row([5], 0), 0)], plm)
    with pytest.raises(BadInput, match="token 5000"):
        check_tokens([(prompts.Row([5], 0), 0), (prompts.Row([5000], 0), 0)], plm)
    with pytest.raises(BadInput, match="token 5000"):
        check_tokens([(prompts.Row([5], 0, ((6,), (5000,))), 0)], plm)


def test_a_restart_is_another_start_on_the_same_split(tmp_path: Path) -> None:
    plm = model()
    results = [run(tmp_path / f"{k}", plm, restart=k) for k in (0, 1, 2)]
    again = run(tmp_path / "again", plm, restart=1)
    assert again["curves"] == results[1]["curves"]
    frozen = {r["curves"][0]["dev_loss"] for r in results}
    assert len(frozen) == 1  # step 0 is the frozen model on the same dev split
    assert len({r["curves"][1]["loss"] for r in results}) == 3
    with pytest.raises(BadInput, match="restart=-1"):
        dataclasses.replace(SETTINGS, restart=-1)


def test_an_encoder_splits_no_text_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    inner = prompts.plain_token_ids
    monkeypatch.setattr(
        prompts, "plain_token_ids", lambda t, texts: asked.append(len(texts)) or inner(t, texts)
    )
    encoder = prompts.Encoder(tiny_tokenizer())
    texts = ["good film", "bad film", "good film"]
    assert encoder.encode(texts, 20) == prompts.encode(tiny_tokenizer(), texts, 20)
    assert encoder.encode([*texts, "a cat"], 4).truncated == 4
    assert asked == [2, 3, 1]


def test_words_in_another_column_are_other_data() -> None:
    def of(one: str, two: str) -> str:
        task = TASK.with_template("{one} and {two}: {mask}")
        row = Example(f"{one} {two}", 0, fields=(("one", one), ("two", two)))
        return data_sha256(TaskData(task, (row,), ()))

    assert of("good film", "dog") != of("good", "film dog")
    assert of("good film", "dog") == of("good film", "dog")
