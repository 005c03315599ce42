"""A model folder that comes with Python code of its own, as those on the hub that need trust do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny import tiny_bert, tiny_tokenizer

CODE = """
import pathlib
from transformers import BertConfig, BertForMaskedLM
from .helpers import FACTOR
pathlib.Path({trace!r}).write_text("ran")
class OwnConfig(BertConfig):
    model_type = "ownbert"
class OwnModel(BertForMaskedLM):
    config_class = OwnConfig
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output["logits"] = output["logits"] * FACTOR
        return output
"""
CLASSES = {"AutoConfig": "modeling.OwnConfig", "AutoModelForMaskedLM": "modeling.OwnModel"}


def save_own_code(folder: Path, *, model_type: str = "ownbert", factor: float = 1.0) -> Path:
    """A tiny BERT whose logits its own code multiplies.

    Returns:
        A file that is there once the code has run.
    """
    tiny_bert().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    trace = folder.parent / f"{folder.name}-ran"
    (folder / "modeling.py").write_text(CODE.format(trace=str(trace)))
    (folder / "helpers.py").write_text(f"FACTOR = {factor}\n")
    edit(folder / "config.json", model_type=model_type, auto_map=CLASSES)
    return trace


def edit(path: Path, **changes: Any) -> None:
    """Other values in a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
