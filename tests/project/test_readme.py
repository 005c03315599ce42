"""The README's Python runs, in order, and its commands exist."""

from __future__ import annotations

import contextlib
import re
import unittest
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from places import REPOSITORY
from tiny import TEXTS, tiny_bert, tiny_model
from transformers import BertForMaskedLM, PreTrainedTokenizerFast

from pets.cli import cli

_HEAD = "ForSequenceClassification"
README = (REPOSITORY / "README.md").read_text()


def test_python_blocks_run(
    bert: BertForMaskedLM,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"plm": bert, "tokenizer": tokenizer, "texts": TEXTS}
    first, *others = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(first.replace("texts)", "texts, max_steps=4, eval_every=2)"), names)
    ids = torch.tensor([[2, 4, 10, 11, 3]])
    batch = {"input_ids": ids, "labels": torch.tensor([[-100, 5, -100, -100, -100]])}
    output = names["model"].train()(**batch)
    output.loss.backward()
    assert output.running_cost > 0
    names["handle"].remove()
    names["batch"] = batch
    names["prompts"] = torch.tensor([[2, 7, 10, 4, 3], [2, 4, 12, 5, 3]])
    masked = torch.tensor([[2, 4, 5 + k, 9 + k, 3] for k in range(8)])
    names["labelled_batches"] = [{"input_ids": masked, "labels": torch.arange(8) % 2}]
    classifier = tiny_model(
        "bert",
        head="ForSequenceClassification",
        num_labels=2,
        num_hidden_layers=3,
        max_position_embeddings=bert.config.max_position_embeddings,
    )
    classifier.bert.load_state_dict(tiny_bert().bert.state_dict(), strict=False)  # it has a pooler too
    names["classifier"] = classifier.train()
    for block in others:
        exec(block, names)
    assert classifier(input_ids=ids, labels=torch.tensor([1])).running_cost > 0


def test_commands_and_options_exist() -> None:
    for line in re.findall(r"^\$ bridge-pets (.*)$", README, re.MULTILINE):
        name, *words = line.split()
        command = cli.get_command(click.Context(cli), name)
        if isinstance(command, click.Group):
            command = command.get_command(click.Context(command), words[0])
        assert command is not None, name
        options = {opt for p in command.params if isinstance(p, click.Option) for opt in p.opts}
        assert {w for w in words if w.startswith("--")} <= options


def test_links_and_folders_exist() -> None:
    root = REPOSITORY
    for target in re.findall(r"\]\((?!http)(.*?)\)", README) + re.findall(
        r"^\| `(\w+/)`", README, re.MULTILINE
    ):
        assert (root / target).exists(), target


def test_what_contributing_shows_passes_its_batteries() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    for shown in ("TestQuick", "TestConfidence"):
        case, ran = names[shown](), 0
        for test in (name for name in dir(case) if name.startswith("test_")):
            with contextlib.suppress(unittest.SkipTest):
                getattr(case, test)()
                ran += 1
        assert ran > 8, shown


def test_contributing_names_what_is_there() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    for path in re.findall(r"`((?:bridges|pets|kernels|tests|docs)/[\w/.]*)`", text):
        assert (REPOSITORY / path).exists(), path
    for target in re.findall(r"^\$ make (\w+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
