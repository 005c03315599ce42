"""The card beside a tuned PET: who finds it can load the adapter and ask as it was tuned."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from tiny import tiny_bert

from pets import tasks
from pets.tasks.base import Label, Task
from pets.tuning.adapter_card import card
from pets.tuning.settings import TuneSettings


def of(task: Task, pet: str = "lora", cost: str | None = None) -> str:
    return card(tiny_bert(), task, TuneSettings(pet=pet, shots=4), cost)


def test_it_says_how_an_example_is_asked_and_answered() -> None:
    task = tasks.get("sst2").with_template("{text}\nGood? {answer}")
    text = of(task, cost="posterior")
    assert "with posterior" in text
    assert "\n    {text}\n    Good? {answer}\n" in text
    assert re.findall(r"- `(\w+)` is answered `(\w+)`", text) == [
        (label.name, label.word) for label in task.labels
    ]
    assert "chat" not in text
    assert "in the chat template" in of(task.with_template(task.template, chat=True))
    assert "published layout" in of(tasks.get("sst2"))
    assert ", alone." in of(tasks.get("sst2"))


@pytest.mark.parametrize("pet", ["lora", "bitfit", "adapter", "ia3"])
def test_its_code_loads_the_kind_of_adapter_that_it_is(pet: str) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", of(tasks.get("sst2"), pet), re.DOTALL)
    compile(code, "card", "exec")
    assert ("import pets" in code) == (pet in ("bitfit", "adapter"))


def test_the_hub_can_read_it_whatever_names_there_are(tmp_path: Path) -> None:
    task = tasks.get("sst2")
    task.name = "a `b`\n---\nc"
    task.labels = (Label("`x`", "y\n- z"), Label("ö", "ü"))
    (tmp_path / "README.md").write_text(of(task), encoding="utf-8")
    read = ModelCard.load(tmp_path / "README.md")
    assert read.data.to_dict() == {
        "library_name": "peft",
        "tags": ["bridge-pets", "parameter-efficient-tuning", "lora"],
    }
    assert "# lora for a 'b' --- c\n" in read.text
    assert "- `'x'` is answered `y - z`\n- `ö` is answered `ü`\n" in read.text + "\n"
