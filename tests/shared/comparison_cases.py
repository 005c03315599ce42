"""A comparison small enough for tests: a tiny model, SST-2 in its words, two arms of one step or two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny import TEXTS, tiny_bert, tiny_tokenizer

from pets.study.cells.grid import Grid
from pets.tuning.settings import TuneSettings

FIT = {"max_steps": 4, "batch_size": 4, "max_length": 16, "held_out": 8, "eval_every": 2}
SETTINGS = TuneSettings(max_steps=4, batch_size=4, eval_every=2, max_length=20, learning_rate=1e-2)


def save_inputs(folder: Path) -> Path:
    """A model and a GLUE folder, for `sources`."""
    save_model(folder / "model")
    save_glue(folder / "glue")
    return folder


def sources(inputs: Path, *, data: str = "glue") -> tuple[str, Path, tuple[str, ...]]:
    """What `compare` and a context take after the grid and the folder: model, data, text."""
    return str(inputs / "model"), inputs / data, tuple(TEXTS)


def save_model(folder: Path) -> None:
    tiny_bert(initializer_range=0.3).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def save_glue(folder: Path, *, flip: bool = False) -> None:
    """SST-2 and CoLA as the original files are; with ``flip`` the reported labels are the others'."""
    for task, header in (("SST-2", "sentence\tlabel\n"), ("CoLA", "")):
        (folder / task).mkdir(parents=True)
        lines = [(f"{text} {'good' if k % 2 else 'bad'}", k % 2) for k, text in enumerate(TEXTS)]
        for name, part in (("train.tsv", lines[:44]), ("dev.tsv", lines[44:])):
            changed = [(t, 1 - y) for t, y in reversed(part)] if flip and name == "dev.tsv" else part
            rows = [f"x\t{y}\t\t{t}" if task == "CoLA" else f"{t}\t{y}" for t, y in changed]
            (folder / task / name).write_text(header + "\n".join(rows) + "\n", encoding="utf-8")


def small_grid(**changes: Any) -> Grid:
    axes: dict[str, Any] = {
        "tasks": ("sst2",),
        "shots": (4,),
        "pets": ("lora",),
        "arms": ("brownian", "brownian@random-map"),
        "seeds": (42, 43),
        "weights": (0.5, 5.0),
        "settings": SETTINGS,
        "fit": FIT,
    }
    return Grid(**{**axes, **changes})


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
