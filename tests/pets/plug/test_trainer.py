"""transformers' Trainer with everything switched on at once, for every PET under a cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from peft import get_peft_model
from plug_cases import NO_DROPOUT, WEIGHT, batches
from safetensors.torch import load_file
from tiny import tiny_bert, tiny_llama
from torch import nn
from transformers import Trainer, TrainingArguments

import pets
from bridges import BadInput, RunningCost


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps precision and accumulation for the whole process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def build(pet: str, kind: str = "bert") -> nn.Module:
    torch.manual_seed(0)
    plm = tiny_bert(**NO_DROPOUT) if kind == "bert" else tiny_llama()
    model = get_peft_model(plm, pets.get(pet, model=plm))
    pets.regularize(model, RunningCost.for_model(plm), WEIGHT)
    return model


def trainer(model: nn.Module, folder: Path, **options: Any) -> Trainer:
    rows = [{k: v[i] for k, v in batch.items()} for batch in batches(2) for i in range(4)]
    arguments = TrainingArguments(
        output_dir=str(folder),
        label_names=["labels"],
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    return Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)


@pytest.mark.parametrize("pet", pets.available())
def test_bf16_accumulation_checkpointing_best_model_and_resume(pet: str, tmp_path: Path) -> None:
    """The rate is high, so that the steps differ in bf16 too."""
    options = {
        "bf16": True,
        "gradient_checkpointing": pet != "prefix",  # see below
        "learning_rate": 30.0,
        "optim": "sgd",
        "lr_scheduler_type": "constant_with_warmup",
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "load_best_model_at_end": True,
        "logging_steps": 1,
    }
    run = trainer(model := build(pet), tmp_path, **options)
    run.train()
    evals = [log["eval_loss"] for log in run.state.log_history if "eval_loss" in log]
    losses = [log["loss"] for log in run.state.log_history if "loss" in log]
    assert len(evals) == len(losses) == 4
    assert losses[0] > evals[0] + 0.5  # in training the cost is added, in evaluation it is not
    best = tmp_path / f"checkpoint-{1 + evals.index(min(evals))}"
    assert run.state.best_model_checkpoint == str(best)
    file = "adapter_model.safetensors"
    model.save_pretrained(tmp_path / "end")  # type: ignore[operator]
    stored, end = load_file(best / file), load_file(tmp_path / "end" / file)
    assert all(torch.equal(end[name], value) for name, value in stored.items())

    last = load_file(tmp_path / "checkpoint-4" / file)
    trainer(build(pet), tmp_path, **options).train(str(tmp_path / "checkpoint-2"))
    again = load_file(tmp_path / "checkpoint-4" / file)
    assert all(torch.equal(again[name], value) for name, value in last.items())
    second = load_file(tmp_path / "checkpoint-2" / file)
    assert any(not torch.equal(second[name], value) for name, value in last.items())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_prefix_under_checkpointing_is_refused_at_the_first_step(
    kind: str, reentrant: bool, tmp_path: Path
) -> None:
    """The Trainer turns it on when everything is made, so that pets.get could not see it."""
    options = {"gradient_checkpointing_kwargs": {"use_reentrant": reentrant}, "save_strategy": "no"}
    run = trainer(build("prefix", kind), tmp_path, gradient_checkpointing=True, **options)
    with pytest.raises(BadInput, match=r"gradient_checkpointing=False.*'bitfit', 'lora' or 'prompt'"):
        run.train()
    assert run.state.global_step == 0
