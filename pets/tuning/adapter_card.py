"""The model card of a tuned PET: README.md beside its files, which says how to load it and to ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bridges.model.spec import hub_name
from kernels.version import __version__
from pets.methods.peft_types import OURS
from pets.tasks.base import Task
from pets.tuning.settings import TuneSettings

CARD_FILE = "README.md"


def card(plm: Any, task: Task, settings: TuneSettings, cost: str | None) -> str:
    """The card's text; what came out of the run is in its result.

    Args:
        plm: that was tuned.
        task: for which.
        settings: of the run.
        cost: the running cost's bridge or the regularizer; None for the PET alone.
    """
    name = hub_name(plm)
    front = {
        "library_name": "peft",
        "base_model": name,
        "tags": ["bridge-pets", "parameter-efficient-tuning", settings.pet],
    }
    asked = [f"    {line}" for line in (task.template or "").splitlines()]
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in front.items() if value is not None),
        "---",
        f"# {settings.pet} for {_plain(task.name)}",
        "",
        f"Tuned on {name or Path(plm.config.name_or_path).name or type(plm).__name__} by bridge-pets "
        f"{__version__}, "
        f"{f'with {_plain(cost)}' if cost else 'alone'}. It is a peft adapter:",
        "",
        "```python",
        *(["import pets  # makes it known to peft", ""] if settings.pet.upper() in OURS else []),
        "from peft import PeftModel",
        "",
        "model = PeftModel.from_pretrained(plm, FOLDER).eval()",
        "```",
        "",
        *(
            ["An example is asked so, with the model's answer where `{mask}` or `{answer}` stands:", ""]
            if asked
            else ["An example is asked as the task's published layout has it."]
        ),
        *asked,
        *(["", "What is before the answer is a user's turn in the chat template."] if task.chat else []),
        "",
        *(f"- `{_plain(label.name)}` is answered `{_plain(label.word)}`" for label in task.labels),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _plain(text: str) -> str:
    """In one line, and no end of a code span."""
    return " ".join(text.split()).replace("`", "'")
