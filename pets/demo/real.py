"""The demo on a real model: SmolLM2-135M, a lens, and a cost of the bridge between the labels."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch

from bridges import GaussianBridge, RunningCost
from bridges.storage.files import write_text
from pets.demo import demo
from pets.demo.smollm2 import smollm2
from pets.inside import plots, trajectories
from pets.plug.adapting import adapt
from pets.study.statistics.intervals import markdown_table
from pets.tasks import splits
from pets.tasks.answering import Rows
from pets.tasks.asking import Asking
from pets.tasks.base import Label, TaskData
from pets.tasks.prompts import Encoder
from pets.tuning.models import DTYPES, load_pet

BRIDGE = "axis"
DTYPE_FILE = "dtype"
MAX_LENGTH = 48
REPORTED = 40  # texts of each area
FITTING = {"max_tokens": 6000, "max_length": 48, "batch_size": 16, "held_out": 32}
TUNING: dict[str, Any] = {
    "shots": 16,
    "max_steps": 24,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "eval_every": 12,
    "adapt": "once",
    "loss": "labels",
}
LOOKS = 3  # at the selection split: before, half way and at the end
STEP = 3  # forward passes that one with a backward pass takes as long as
_PRODUCT = (256, 576, 1536)  # of a step's tokens with a layer's weights
_TRIES = 5


class TwoAreas(demo.Docstrings):
    """Is a docstring about files or about tests? Two classes have one axis to be drawn along."""

    name = "file-or-test"
    labels = (Label("file", "file"), Label("test", "test"))
    template = "{text}\nTopic: {answer}"

    def load(self, folder: Any = None) -> TaskData:
        whole = super().load(folder)
        each = [[e for e in whole.reported if e.label == k] for k in range(len(self.labels))]
        return TaskData(self, whole.train, tuple(e for some in each for e in some[:REPORTED]))


def run(folder: Path, seeds: int) -> dict[str, list[float]]:
    """As `pets.demo.demo.run`, on SmolLM2-135M.

    Raises:
        BadInput: as there, and if the model cannot be had.
    """
    with demo.place(folder, [DTYPE_FILE]):
        return _run(folder, seeds)


def _run(folder: Path, seeds: int) -> dict[str, list[float]]:
    started = time.perf_counter()
    data = TwoAreas().load()
    click.echo("1. SmolLM2-135M, a pretrained language model of 30 layers")
    smollm2(demo.cache_folder())  # made first: what cannot be had is told before anything is written
    plm, tokenizer = smollm2(demo.cache_folder(), _dtype(folder))
    click.echo(f"2. fitting a lens for {BRIDGE}: a regression for each layer, on docstrings")
    cost = demo.fitted(plm, tokenizer, BRIDGE, folder / demo.COSTS_FOLDER / BRIDGE, FITTING, map="lens")
    asking = Asking(plm, Encoder(tokenizer), data.task, among_labels=True)
    rows, _ = asking.encode(data.reported, MAX_LENGTH)
    reader = _adapted(plm, cost, asking, data)
    looking = time.perf_counter()
    frozen = _seen(plm, reader, asking, rows)
    _foretell((time.perf_counter() - looking) / len(rows), len(rows), data, seeds)
    costs = {"vanilla": None, BRIDGE: cost}
    how = {"weight": demo.WEIGHT, "max_length": MAX_LENGTH, **TUNING}
    accuracies = demo.tuned(plm, tokenizer, data, costs, folder, seeds, how)
    table = markdown_table(accuracies, "vanilla", "accuracy")
    write_text(folder / demo.TABLE_FILE, table + "\n")
    seen = {"frozen model": frozen}
    for title, arm in (("LoRA, vanilla", "vanilla"), (f"LoRA + {BRIDGE}", BRIDGE)):
        model = load_pet(plm, folder / demo.RUNS_FOLDER / f"{arm}-{demo.FIRST_SEED}" / "pet")
        seen[title] = _seen(model, reader, asking, rows)
        model.unload()
    picture = folder / demo.PICTURE_FILE
    _draw(picture, reader, seen, data.task.words)
    click.echo(
        f"\nIs a docstring of the standard library about files or about tests?\n"
        f"{TUNING['shots']} examples a class, {len(data.reported)} scored, chance 0.50, "
        f"the frozen model {_accuracy(frozen):.2f}\n\n{table}\n\n"
        "The picture's lens was fitted on docstrings without their areas, and adapted to the first "
        "seed's examples, none of which is scored.\n"
        f"wrote {picture} and {folder / demo.TABLE_FILE}, {time.perf_counter() - started:.0f} s"
    )
    return accuracies


def _dtype(folder: Path) -> str:
    """In which the demo in this folder runs: as it began, or as is faster here; says so and why."""
    kept = folder / DTYPE_FILE
    if kept.is_file() and (name := kept.read_text(encoding="utf-8").strip()) in DTYPES:
        click.echo(f"   in {name}, as it began")
        return name
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name, why = faster({name: _product_seconds(name, device) for name in ("float32", "bfloat16")})
    click.echo(f"   in {name}: {why}")
    write_text(kept, f"{name}\n")
    return name


def faster(seconds: Mapping[str, float]) -> tuple[str, str]:
    """The dtype whose products take the least time, and a line that says so.

    Args:
        seconds: of the same product, by dtype.
    """
    name = min(seconds, key=lambda dtype: seconds[dtype])
    shape = " x ".join(map(str, _PRODUCT))
    took = ", ".join(f"{1000 * value:.2f} ms in {dtype}" for dtype, value in seconds.items())
    return name, f"a product of {shape} takes {took} on this machine"


def _product_seconds(dtype: str, device: str) -> float:
    """The least of some tries."""
    tokens, width, wider = _PRODUCT
    one, two = (
        torch.ones(shape, dtype=getattr(torch, dtype), device=device)
        for shape in ((tokens, width), (width, wider))
    )
    took = []
    for _ in range(_TRIES):
        started = time.perf_counter()
        (one @ two).sum().item()  # which waits for a GPU
        took.append(time.perf_counter() - started)
    return min(took)


def _foretell(row_seconds: float, reported: int, data: TaskData, seeds: int) -> None:
    """Say how long the rest takes, by what a prompt took just now."""
    dev = TUNING["shots"] * len(data.task.labels)
    steps = STEP * TUNING["max_steps"] * TUNING["batch_size"]
    rows = 2 * seeds * (LOOKS * dev + steps + reported) + 2 * reported
    minutes = rows * row_seconds / 60
    click.echo(
        f"   about {max(1, round(minutes))} minutes from here, as {reported} prompts tell; "
        "interrupted, the same command goes on"
    )


def _adapted(plm: Any, cost: RunningCost, asking: Asking, data: TaskData) -> RunningCost:
    """The cost of the first seed's run: its lens has also learned from that run's training examples."""
    train, _ = splits.few_shot(data.train, data.task, TUNING["shots"], demo.FIRST_SEED)
    rows, _ = asking.encode(train, MAX_LENGTH)
    answering = asking.on(plm)
    try:
        return adapt(cost, answering, [answering.on_device(answering.collate(rows))])
    finally:
        answering.remove()


def _seen(model: Any, cost: RunningCost, asking: Asking, rows: Rows) -> trajectories.Seen:
    answering = asking.on(model)
    try:
        return trajectories.see_through(answering, cost, rows)
    finally:
        answering.remove()


def _accuracy(seen: trajectories.Seen) -> float:
    return (seen.scores.argmax(1) == seen.labels).float().mean().item()


def _draw(
    path: Path, cost: RunningCost, seen: Mapping[str, trajectories.Seen], words: tuple[str, ...]
) -> None:
    """A panel for each model."""
    frozen = next(iter(seen.values()))
    means = [frozen.latent[:, frozen.labels == k].mean(1) for k in range(len(words))]
    process = cost.bridge.inner
    assert isinstance(process, GaussianBridge)
    panels = [
        plots.between_labels(
            f"{title}\naccuracy {_accuracy(one):.2f}, running cost {one.cost:.3f}",
            process,
            one,
            torch.stack(means).mean(0),
            words,
        )
        for title, one in seen.items()
    ]
    plots.plot_trajectories(
        path, [panels], token="the answer", axis=f"from {words[0]} (-1) to {words[1]} (1)"
    )
