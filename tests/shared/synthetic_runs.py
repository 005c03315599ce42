"""A RUNS folder as `bridge-pets compare` writes it, drawn from a known truth instead of tuned."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]

METRICS = {
    **dict.fromkeys(("sst2", "rte", "qnli", "mnli"), "accuracy"),
    **dict.fromkeys(("mrpc", "qqp"), "f1_macro"),
    "cola": "matthews",
}
LEVELS = {"sst2": 0.72, "rte": 0.56, "qnli": 0.6, "mnli": 0.45, "mrpc": 0.62, "qqp": 0.65, "cola": 0.15}
ARMS = (
    "vanilla",
    "brownian",
    "ou:theta=2.0",
    "sde",
    "regression",
    "brownian@random-map",
    "brownian@shuffled-ends",
    "weight-decay",
    "r3f",
)
REGULARIZERS = {"weight-decay", "dropout", "r3f", "r-drop", "neftune", "label-smoothing"}
LOOKS = tuple(range(0, 210, 20))
LAYERS = 7


@dataclass(frozen=True)
class Truth:
    """What the numbers are drawn from.

    A cell's score is its task's level + an effect of (task, shots, PET, seed) that all arms share
    + the arm's effect + noise of its own.

    Attributes:
        settings: (task, shots) pairs; shots None for the full train set.
        pets, arms, seeds: the other axes.
        effects: true mean difference of an arm to vanilla; 0 where it is not named.
        shared: deviation of what all arms of a seed have in common.
        noise: deviation of a cell's own noise.
        failed: (task, shots, pet, arm, seed) -> error, of cells that did not end.
        strengths: of each try.
        seed: of everything drawn.
    """

    settings: Sequence[tuple[str, int | None]] = (("sst2", 16), ("rte", 16))
    pets: Sequence[str] = ("lora", "bitfit")
    arms: Sequence[str] = ARMS
    seeds: Sequence[int] = (42, 43, 44, 45, 46)
    effects: Mapping[str, float] = field(default_factory=dict)
    shared: float = 0.03
    noise: float = 0.015
    failed: Mapping[tuple[Any, ...], str] = field(default_factory=dict)
    strengths: Sequence[float] = (0.3, 1.0, 3.0)
    seed: int = 0


SMALL = Truth(
    settings=(("sst2", 16),),
    pets=("lora",),
    arms=("vanilla", "brownian", "regression"),
    effects={"brownian": 0.05},
)
"""What most users have: one setting, one bridge, one control, five seeds."""
LARGE = Truth(
    settings=tuple((task, shots) for task in METRICS for shots in (16, 64)),
    pets=("lora", "bitfit", "adapter", "prefix"),
    effects={"r3f": 0.02, "weight-decay": -0.02},
)
"""As large as evidence gets: 56 settings, 2520 cells."""


def rows(truth: Truth) -> list[Row]:
    """The rows of ``results.jsonl``, in grid order."""
    rng = np.random.default_rng(truth.seed)
    found = []
    for (task, shots), pet in itertools.product(truth.settings, truth.pets):
        level = LEVELS[task] + 0.04 * math.log2((shots or 256) / 16)
        shared = {seed: rng.normal(0, truth.shared) for seed in truth.seeds}
        for arm, seed in itertools.product(truth.arms, truth.seeds):
            score = level + shared[seed] + truth.effects.get(arm, 0.0) + rng.normal(0, truth.noise)
            found.append(_row(truth, rng, (task, shots, pet, arm, seed), score))
    return found


def _row(truth: Truth, rng: Any, key: tuple[Any, ...], score: float) -> Row:
    task, shots, pet, arm, _ = key
    bridge, _, control = arm.partition("@")
    has_bridge = arm != "vanilla" and arm not in REGULARIZERS
    row = {
        "format": 1,
        "cell": hashlib.sha256(repr(key).encode()).hexdigest()[:16],
        "status": "done",
        "error": None,
        **dict(zip(("task", "shots", "pet", "arm", "seed"), key, strict=True)),
        "metric": METRICS[task],
        **dict.fromkeys(("score", "reported", "dev", "strength", "restart", "best_step", "tries")),
        "bridge": {"name": bridge.partition(":")[0], "parameters": {}} if has_bridge else None,
        "control": control or None,
        "fit": {"first": 9.31, "best": 4.27, "steps": 400} if has_bridge else None,
        **dict.fromkeys(("trainable_parameters", "examples", "truncated")),
        "settings": {
            "max_steps": LOOKS[-1],
            "batch_size": 8,
            "learning_rate": 1e-3 if pet in ("prefix", "prompt") else 1e-4,
            "eval_every": LOOKS[1],
            "max_length": 64,
        },
        "model": "tiny-synthetic",
        "code": "0123456789ab",
        "versions": {"python": "3.11.2", "torch": "2.13.0", "bridge-pets": "0.1.0"},
        "device": "cpu",
    }
    if key in truth.failed:
        return row | {"status": "failed", "error": truth.failed[key]}
    tries = [
        _try(rng, row["metric"], None if arm == "vanilla" else strength, k, score)
        for k, strength in enumerate(truth.strengths)
    ]
    best = max(range(len(tries)), key=lambda k: (tries[k]["dev"][row["metric"]], -k))
    return row | {
        "score": round(score, 6),
        "reported": {row["metric"]: round(score, 6)},
        "dev": tries[best]["dev"],
        "strength": tries[best]["strength"],
        "restart": best,
        "best_step": tries[best]["best_step"],
        "tries": tries,
        "trainable_parameters": 12345,
        "examples": {"train": 2 * (shots or 500), "dev": 2 * (shots or 50), "reported": 872},
        "truncated": {"train": 0, "dev": 0, "reported": 3},
    }


def _try(rng: Any, metric: str, strength: float | None, restart: int, score: float) -> Row:
    """Curves that rise from a start to the score of the try and stay there, noisily."""
    end = score + rng.normal(0, 0.01)
    curves = []
    for step in LOOKS:
        grown = 1 - math.exp(-step / 50)
        curves.append(
            {
                "step": step,
                "loss": None if step == 0 else round(0.7 - 0.4 * grown, 6),
                "running_cost": None if strength is None or step == 0 else round(5 - 2 * grown, 6),
                "dev": {metric: round(end - 0.2 * (1 - grown) + rng.normal(0, 0.01), 6)},
                "dev_loss": round(0.7 - 0.3 * grown + rng.normal(0, 0.01), 6),
            }
        )
    best = max(curves, key=lambda look: (look["dev"][metric], -look["step"]))
    return {
        "strength": strength,
        "restart": restart,
        "dev": best["dev"],
        "dev_loss": best["dev_loss"],
        "best_step": best["step"],
        "running_cost": curves[-1]["running_cost"],
        "curves": curves,
    }


def step_times(truth: Truth) -> Row:
    """``step-times.json``; the measured ratio is 1 + 0.01 for each letter of the arm's name.

    Memory is 10 MB and 0.1 MB for each.
    """
    return {
        "environment": {"device": "cpu", "threads": 2, "torch": "2.13.0"},
        "step_times": {
            pet: {
                arm: {
                    "milliseconds": 80.0 * (1 + 0.01 * len(arm)),
                    "ratio": 1.0 if arm == "vanilla" else 1 + 0.01 * len(arm),
                    "low": 1.0 if arm == "vanilla" else 0.98 + 0.01 * len(arm),
                    "high": 1.0 if arm == "vanilla" else 1.03 + 0.01 * len(arm),
                    "rounds": 20,
                    "memory": 10_000_000 + 100_000 * len(arm),
                }
                for arm in truth.arms
            }
            for pet in truth.pets
        },
    }


def analysis(truth: Truth) -> list[Row]:
    """``analysis.json``: the frozen model and two arms of the first setting and PET."""
    rng = np.random.default_rng(truth.seed + 1)
    (task, shots), pet, seed = truth.settings[0], truth.pets[0], truth.seeds[0]
    times = [(k + 1) / (LAYERS + 1) for k in range(LAYERS)]
    smooth = [k / 50 for k in range(51)]
    words = ["negative", "positive"]
    found = []
    for arm in ("frozen", "vanilla", "brownian"):
        pull = {"frozen": 0.3, "vanilla": 0.5, "brownian": 0.9}[arm]

        def curve(scale: float = 0.1, pull: float = pull) -> list[float]:
            return [round(float(pull * t + rng.normal(0, scale * 0.3)), 5) for t in times]

        def paths() -> Row:
            mean = curve(0.02)
            return {
                "mean": mean,
                "low": [round(m - 0.2, 5) for m in mean],
                "high": [round(m + 0.2, 5) for m in mean],
                "examples": [curve() for _ in range(6)],
            }

        found.append(
            {
                "of": arm,
                "task": task,
                "shots": shots,
                "pet": None if arm == "frozen" else pet,
                "arm": arm,
                "seed": seed,
                "reader": "brownian",
                "labels": words,
                "times": times,
                "tube": {
                    "t": smooth,
                    "mean": smooth,
                    "deviation": [math.sqrt(t * (1 - t)) for t in smooth],
                },
                "progress": {word: paths() for word in words},
                "contrast": {word: {"end": 0.6, **paths()} for word in words},
                "distance": {
                    word: {
                        end: [round(1.4 - pull * t * (word == end), 5) for t in times] for end in words
                    }
                    for word in words
                },
                "separability": {
                    "chance": 0.5,
                    "probe": [round(0.5 + 0.4 * pull * t, 5) for t in times],
                    "probe_deviation": [0.03] * LAYERS,
                    "silhouette": [round(0.2 * pull * t, 5) for t in times],
                },
                "lens": {
                    "metric": METRICS[task],
                    "score": [round(0.5 + 0.3 * pull * t, 5) for t in times],
                    "probability": {w: [round(0.02 + 0.3 * pull * t, 5) for t in times] for w in words},
                },
                "examples": 200,
            }
        )
    return found


def write_rows(folder: Path, table: Sequence[Mapping[str, Any]]) -> None:
    """``results.jsonl`` of these rows."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in table)
    (folder / "results.jsonl").write_text(text, encoding="utf-8")


def write_runs(folder: Path, truth: Truth, *, whole: bool = True) -> list[Row]:
    """A whole RUNS folder, or the table alone; returns its rows."""
    table = rows(truth)
    write_rows(folder, table)
    if whole:
        (folder / "step-times.json").write_text(json.dumps(step_times(truth)), encoding="utf-8")
        (folder / "analysis.json").write_text(json.dumps(analysis(truth)), encoding="utf-8")
    return table
