"""The demo: a tiny language model, two fitted bridges, few-shot LoRA with and without them."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from transformers import PreTrainedModel

import bridges
from bridges import RunningCost
from bridges.storage.files import write_text
from bridges.storage.ownership import check_replaceable, claimed
from pets.demo import by_depth, docstrings
from pets.demo.tiny_lm import tiny_lm
from pets.inside import plots
from pets.study.statistics.intervals import HEADING, markdown_table
from pets.tasks import prompts
from pets.tasks.base import Example, Label, Task, TaskData
from pets.tuning.models import load_pet
from pets.tuning.settings import TuneSettings
from pets.tuning.tune import tune

BRIDGES = ("brownian", "ou:theta=3")
COSTS_FOLDER, RUNS_FOLDER, TABLE_FILE, PICTURE_FILE = "costs", "runs", "table.md", "trajectories.png"
WEIGHT = 1.0
FIRST_SEED = 42
MAX_LENGTH = 128  # positions of the tiny model
TEXT_WORDS = 20  # of a docstring; the first words say what it is about
FITTING = {"max_steps": 250, "max_length": 64, "learning_rate": 3e-3}
TUNING = {"shots": 16, "max_steps": 150, "batch_size": 8, "learning_rate": 5e-3, "eval_every": 25}


def cache_folder() -> Path:
    """Where the demo's language model is kept: $BRIDGE_PETS_CACHE, or the user's cache folder."""
    own = os.environ.get("BRIDGE_PETS_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bridge-pets"


class Docstrings(Task):
    """Which area of the standard library does a docstring belong to?"""

    name = "docstrings"
    labels = tuple(Label(area, area) for area in docstrings.AREAS)

    def load(self, folder: str | os.PathLike[str] | None = None) -> TaskData:
        train, reported = docstrings.areas()
        return TaskData(self, self._examples(train), self._examples(reported))

    def _examples(self, pool: list[tuple[str, int]]) -> tuple[Example, ...]:
        names, known = list(docstrings.AREAS), {label.name: k for k, label in enumerate(self.labels)}
        return tuple(
            Example(" ".join(text.split()[:TEXT_WORDS]), known[names[place]])
            for text, place in pool
            if names[place] in known
        )


def run(folder: Path, seeds: int) -> dict[str, list[float]]:
    """Everything into ``folder``: fitted costs, runs, table.md, trajectories.png and by-depth.png.

    What an earlier, unfinished demo left there is gone on with. Returns the accuracies by arm.

    Raises:
        BadInput: if matplotlib is missing, or the folder holds runs with other settings, or anything
            that is not of a demo.
    """
    plots.check_picture(folder / by_depth.PICTURE_FILE)
    with place(folder, [by_depth.PICTURE_FILE]):
        return _run(folder, seeds)


@contextmanager
def place(folder: Path, also: Collection[str] = ()) -> Iterator[None]:
    """The folder for one demo alone; nothing in it is lost that is not of a demo.

    Args:
        folder: new, or of an earlier demo.
        also: what is written there beside costs, runs, table and picture.

    Raises:
        BadInput: as `run`.
    """
    plots.require()
    table = folder / TABLE_FILE
    is_ours = table.is_file() and HEADING.encode() in table.read_bytes()
    check_replaceable(table, is_ours, "table of a demo")
    if not is_ours:  # the picture beside a table of ours is ours too: earlier versions did not mark it
        plots.check_picture(folder / PICTURE_FILE)
    with claimed(folder, "another demo", (COSTS_FOLDER, RUNS_FOLDER, TABLE_FILE, PICTURE_FILE, *also)):
        yield


def _run(folder: Path, seeds: int) -> dict[str, list[float]]:
    started = time.perf_counter()
    data = Docstrings().load()
    click.echo("1. a tiny language model, pretrained on the docstrings of the standard library")
    plm, tokenizer = tiny_lm(cache_folder() / "tiny-lm", docstrings.corpus(), data.task.words)
    costs: dict[str, RunningCost | None] = {"vanilla": None}
    for text in BRIDGES:
        name = bridges.parse(text).registered_name or text
        click.echo(f"2. fitting the latent map for the {name} bridge")
        costs[name] = fitted(plm, tokenizer, text, folder / COSTS_FOLDER / name, FITTING)
    how = {"weight": WEIGHT, "max_length": MAX_LENGTH, **TUNING}
    accuracies = tuned(plm, tokenizer, data, costs, folder, seeds, how)
    table = markdown_table(accuracies, "vanilla", "accuracy")
    write_text(folder / TABLE_FILE, table + "\n")
    picture = folder / PICTURE_FILE
    plots.plot_trajectories(picture, _panels(plm, tokenizer, data, costs, folder))
    click.echo("4. reading every layer: a linear probe, and the model's own head")
    runs = folder / RUNS_FOLDER
    layers = by_depth.read(plm, tokenizer, data, costs, runs, accuracies, how, FIRST_SEED)
    by_depth.draw(layers, folder / by_depth.PICTURE_FILE)
    words = ", ".join(data.task.words)
    chance = 1 / len(data.task.labels)
    click.echo(
        f"\nWhich area of the standard library does a docstring belong to ({words})?\n"
        f"{TUNING['shots']} examples a class, {len(data.reported)} scored, chance {chance:.2f}\n\n"
        f"{table}\n\n"
        f"{by_depth.sentence(layers)}\n\n"
        f"wrote {picture}, {folder / by_depth.PICTURE_FILE} and {folder / 'table.md'}, "
        f"{time.perf_counter() - started:.0f} s"
    )
    return accuracies


def fitted(
    plm: PreTrainedModel,
    tokenizer: Any,
    bridge: str,
    folder: Path,
    fitting: Mapping[str, Any],
    **options: Any,
) -> RunningCost:
    """The cost in the folder, fitted on the docstrings if it is not there yet.

    Args:
        plm, tokenizer: whose states it reads.
        bridge: as in `bridges.parse`.
        folder: of this cost.
        fitting: arguments of `RunningCost.fit`.
        **options: of `RunningCost.for_model`.

    Raises:
        BadInput: if a cost is there that was fitted otherwise.
    """
    process = bridges.parse(bridge)
    if folder.exists():
        cost = RunningCost.from_pretrained(folder)
        cost.check_model(plm)
        settings = (cost.fit_record or {}).get("settings", {})
        if (
            type(cost.bridge) is not type(process)
            or cost.bridge.hyperparameters != process.hyperparameters
            or not fitting.items() <= settings.items()
        ):
            raise bridges.BadInput(f"{folder} was fitted with other settings: choose another --out")
        return cost
    cost = RunningCost.for_model(plm, process, **options)
    cost.fit(plm, tokenizer, docstrings.corpus(), **fitting)
    cost.save_pretrained(folder)
    return cost


def tuned(
    plm: PreTrainedModel,
    tokenizer: Any,
    data: TaskData,
    costs: Mapping[str, RunningCost | None],
    folder: Path,
    seeds: int,
    how: Mapping[str, Any],
) -> dict[str, list[float]]:
    """The accuracies by arm, of runs that are gone on with where they are.

    Args:
        plm, tokenizer, data: of all runs.
        costs: of each arm.
        folder: of the demo.
        seeds: how many.
        how: fields of `TuneSettings`.
    """
    accuracies: dict[str, list[float]] = {}
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for arm, cost in costs.items():
            click.echo(f"3. tuning LoRA, {arm}, seed {seed}")
            run = folder / RUNS_FOLDER / f"{arm}-{seed}"
            said = {k: v for k, v in how.items() if cost is not None or k != "adapt"}  # of a lens
            result = tune(plm, tokenizer, data, TuneSettings(seed=seed, **said), run, cost=cost)
            accuracies.setdefault(arm, []).append(result["reported"]["accuracy"])
    return accuracies


def _panels(
    plm: PreTrainedModel,
    tokenizer: Any,
    data: TaskData,
    costs: dict[str, RunningCost | None],
    folder: Path,
) -> list[list[plots.Panel]]:
    """A row for each bridge: without tuning, with vanilla LoRA, with the bridge; the first seed."""

    def pet(arm: str) -> Path:
        return folder / RUNS_FOLDER / f"{arm}-{FIRST_SEED}" / "pet"

    encoded = prompts.encode(tokenizer, [e.text for e in data.reported], MAX_LENGTH)
    rows = [(row, e.label) for row, e in zip(encoded.rows, data.reported, strict=True)]
    panels = []
    for name, cost in costs.items():
        if cost is None:
            continue
        words = data.task.words
        line = [plots.make_panel(f"{name} bridge: frozen model", plm, tokenizer, cost, rows, words)]
        for title, arm in (("LoRA, vanilla", "vanilla"), (f"LoRA + {name}", name)):
            model = load_pet(plm, pet(arm))
            line.append(plots.make_panel(f"{name} bridge: {title}", model, tokenizer, cost, rows, words))
            model.unload()
        panels.append(line)
    return panels
