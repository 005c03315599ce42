"""A small plan of the evidence, and cells as its results have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.evidence.records import Cell
from pets.study.statistics.setting import Setting

SAID: dict[str, Any] = {
    "text": ["text.txt"],
    "models": {"tiny": "model"},
    "common": {
        "pets": ["lora"],
        "loss": "labels",
        "ratios": [0.5],
        "shots": [4],
        "seeds": [1, 2],
        "steps": 2,
        "batch_size": 4,
        "eval_every": 1,
        "max_length": 20,
        "lr": 1e-2,
    },
    "studies": [
        {
            "name": "main",
            "model": "tiny",
            "tasks": ["films"],
            "arms": ["vanilla", "posterior@lens", "early-exit"],
            "readings": ["calibration", "depth", "shift"],
        }
    ],
    "comparisons": [
        {"name": "first", "studies": ["main"], "arm": "posterior@lens", "controls": ["early-exit"]}
    ],
}


FILMS = Setting("films", 4, "lora")


def cell(arm: str, seed: int, score: float, **more: Any) -> Cell:
    line = {
        **{"task": "films", "shots": 4, "pet": "lora", "arm": arm, "seed": seed, "score": score},
        **{"restart": 0, "tries": [{"curve": more.pop("curve", [[0, 0.5], [60, score]])}]},
        **{"readings": more, "metric": "accuracy"},
    }
    return Cell(line)


def said_of_sst2() -> dict[str, Any]:
    return {**SAID, "studies": [{**SAID["studies"][0], "tasks": ["sst2"]}]}


def write_plan(folder: Path, said: dict[str, Any]) -> None:
    (folder / "PLAN.md").write_text(f"# A plan\n\n```toml\n{_toml(said)}```\n", encoding="utf-8")


def _toml(said: dict[str, Any]) -> str:
    parts = [f"text = {json.dumps(said['text'])}\n"]
    for name in ("models", "common"):
        own = "".join(f"{key} = {json.dumps(value)}\n" for key, value in said[name].items())
        parts.append(f"[{name}]\n{own}")
    for name in ("studies", "comparisons"):
        for one in said[name]:
            own = "".join(f"{key} = {json.dumps(value)}\n" for key, value in one.items())
            parts.append(f"[[{name}]]\n{own}")
    return "\n".join(parts)
