"""What ends an answer that is written: asked of the model's head."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import pytest
import torch
from label_tokenizers import made
from own_tasks import write_jsonl
from shared_files import needs_shared, shared
from tiny import tiny_model

from pets.tasks import OwnSettings, OwnTask
from pets.tasks.ending import end_token
from pets.tuning.models import load_plm
from pets.tuning.settings import TuneSettings
from pets.tuning.tune import tune


def test_it_is_the_end_of_the_sequence_unless_the_head_does_not_know_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokenizer = made("bytes-causal")
    plm = tiny_model("llama")
    plm.resize_token_embeddings(len(tokenizer))
    assert end_token(plm, tokenizer) == tokenizer.eos_token_id == 2
    with torch.no_grad():
        plm.get_output_embeddings().weight[2] = plm.get_output_embeddings().weight[0]
    with caplog.at_level(logging.INFO):
        line = end_token(plm, tokenizer)
    assert tokenizer.decode([line]) == "\n"
    assert "answers end with a line" in caplog.text
    assert end_token(plm.to("meta"), tokenizer) == 2


@needs_shared("models", "stories260K")
def test_a_real_model_that_never_saw_the_end_learns_to_answer(tmp_path: Path) -> None:
    """stories260K ends no document; its answers end with a line."""
    plm, tokenizer = load_plm(str(shared("models", "stories260K")))
    things = (["Lily", "Tom", "Ben", "Sara"], ["red", "blue", "green", "pink"], ["ball", "car", "hat"])
    rows = [
        {"story": f"{name} had a {color} {thing}. {name} liked it.", "answer": color}
        for name, color, thing in itertools.product(*things)
    ]
    source = write_jsonl(tmp_path / "colors.jsonl", rows)
    template = "{story} The color was {answer}"
    task = OwnTask(
        OwnSettings("colors", str(source), kind="generation", answers=("answer",), template=template)
    )
    settings = TuneSettings(
        pet_options={"r": 8, "target_modules": "all-linear"},
        shots=16,
        max_steps=40,
        batch_size=8,
        learning_rate=3e-3,
        eval_every=40,
        max_length=48,
    )
    result = tune(plm, tokenizer, task.load(), settings, tmp_path / "run", progress=False)
    assert result["curves"][0]["dev"]["exact_match"] == 0.0
    assert result["reported"]["exact_match"] > 0.8
