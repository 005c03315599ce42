"""``bridge-pets tune``."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

import bridges
from bridges.errors import BadInput
from pets import methods, regularizers, tasks
from pets.commands.options import (
    ManyValues,
    Named,
    asked,
    asking_options,
    model_options,
    protocol_option,
    schedule_option,
    trust_remote_code,
)
from pets.plug.schedule import CONSTANT
from pets.tasks.protocol import OURS
from pets.tuning.models import HowLoaded, load_plm
from pets.tuning.settings import ADAPT, LOSSES, TuneSettings
from pets.tuning.tune import tune as run
from pets.tuning.workers import joined

_WEIGHT = TuneSettings.weight


@click.command(cls=ManyValues)
@click.option("--model", required=True, help="Hugging Face name or local folder of any language model.")
@model_options
@click.option(
    "--task",
    cls=Named,
    names=tasks.available,
    required=True,
    help="Your own, a .csv, .tsv, .jsonl, .parquet or task file (see `bridge-pets task`) or "
    "owner/name[:config] of the hub; or {names}, with label words if you like: sst2:words=[bad,good]",
)
@asking_options
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder with the original GLUE tsv files.  [default: the hub]",
)
@click.option(
    "--pet",
    cls=Named,
    names=methods.available,
    default="lora",
    show_default=True,
    help="{names} or any other of peft's; with options if you like: "
    "lora:r=16,target_modules=all-linear; or the adapter_config.json of a saved adapter",
)
@click.option(
    "--cost",
    "cost_folder",
    metavar="FOLDER|OWNER/NAME",
    help="A fitted cost, here or on the hub; without it, and without a regularizer, the PET is vanilla.",
)
@click.option(
    "--regularizer",
    cls=Named,
    names=regularizers.available,
    help="Instead of a cost: {names}; with its number if you like: r-drop:weight=1",
)
@click.option(
    "--weight",
    type=float,
    help="Factor of the running cost in the loss, or the number of the regularizer.  "
    f"[default: {_WEIGHT}]",
)
@click.option(
    "--ratio",
    type=float,
    help="Instead of a cost's weight: how long its weighed gradient is beside the task's at first.",
)
@click.option(
    "--shots",
    default=16,
    show_default=True,
    help="Examples per class to train on, and as many to select on; 0: all.",
)
@click.option("--seed", default=42, show_default=True, help="Of split, initialisation and order.")
@click.option("--steps", default=1000, show_default=True, help="Optimiser steps.")
@click.option("--batch-size", default=2, show_default=True, help="Examples a step.")
@click.option("--lr", type=float, help="Learning rate, constant.  [default: the PET's]")
@click.option(
    "--eval-every", default=50, show_default=True, help="Steps between looks at the selection split."
)
@click.option("--max-length", default=128, show_default=True, help="Tokens a prompt.")
@schedule_option(show_default=True, default=CONSTANT)
@click.option(
    "--adapt",
    type=click.Choice(ADAPT),
    default=ADAPT[0],
    show_default=True,
    help="When the cost's lens learns from the training examples: once, or again after each look.",
)
@protocol_option(show_default=True, default=OURS.name)
@click.option(
    "--sharded",
    is_flag=True,
    help="Under torchrun: each process keeps a part of the frozen weights (FSDP2).",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Run folder.  [default: runs/TASK-PET-BRIDGE-SHOTS-SEED]",
)
@trust_remote_code
def tune(
    model: str,
    dtype: str,
    quantize: str | None,
    task: str,
    template: str | None,
    chat: bool,
    loss: str | None,
    data: Path | None,
    pet: str,
    cost_folder: str | None,
    regularizer: str | None,
    weight: float | None,
    ratio: float | None,
    shots: int,
    seed: int,
    steps: int,
    batch_size: int,
    lr: float | None,
    eval_every: int,
    max_length: int,
    schedule: str,
    adapt: str,
    protocol: str,
    label_words: tuple[str, ...],
    sharded: bool,
    out: Path | None,
    trust_remote_code: bool,
) -> None:
    """Tune one PET on one task and print its result line.

    The checkpoint is selected on examples taken from the train set; the task's reported ones, of GLUE
    the dev set, are scored once, at the end. The run folder holds result.json (one line: settings,
    versions, metrics, curves) and the PET. An interrupted run goes on when the same command is given
    again.

    \b
      bridge-pets tune --model bert-base-uncased --task sst2 --data glue --shots 16 --seed 42
      bridge-pets tune --model bert-base-uncased --task sst2 --data glue --cost lens-bert --ratio 0.1

    On several GPUs, or in several processes, that share the examples of each step (--batch-size is what
    all do together):

    \b
      torchrun --nproc-per-node 2 -m pets.cli tune --batch-size 32 ...

    A model that is too large for one of them is shared out, --sharded.
    """
    method, options = methods.split(pet)
    regularizer, weight = _regularizer(regularizer, weight)
    settings = TuneSettings(
        pet=method,
        pet_options=options,
        regularizer=regularizer,
        weight=_WEIGHT if weight is None else weight,
        shots=shots or None,
        seed=seed,
        max_steps=steps,
        batch_size=batch_size,
        learning_rate=lr,
        eval_every=eval_every,
        max_length=max_length,
        schedule=schedule,
        adapt=adapt,
        protocol=protocol,
        loss=loss or LOSSES[0],
        ratio=ratio,
    )
    if ratio is not None and weight is not None:
        raise BadInput(f"--ratio {ratio} with --weight {weight}: give one of the two")
    if cost_folder is None and regularizer is None:
        _refuse_strengths(weight, ratio, schedule)
    is_main = joined().is_main
    if not is_main:
        logging.disable(logging.WARNING)  # the first process says it all
    chosen = asked(tasks.parse(task), template, chat, label_words)
    cost = bridges.RunningCost.from_pretrained(cost_folder) if cost_folder else None
    examples = chosen.load(data)
    how = HowLoaded(dtype, quantize, on_cpu=sharded)
    plm, tokenizer = load_plm(model, how, trust_remote_code=trust_remote_code)
    name = cost.bridge.registered_name if cost else regularizer or "vanilla"
    if protocol != OURS.name:
        name = f"{name}-{protocol}"
    if schedule != CONSTANT:
        name = f"{name}-{schedule}"
    if adapt != ADAPT[0]:
        name = f"{name}-adapt-{adapt}"
    folder = out or Path("runs") / _plain(f"{chosen.name}-{pet}-{name}-{shots or 'all'}-{seed}")
    result = run(plm, tokenizer, examples, settings, folder, cost=cost, sharded=sharded)
    if is_main:
        click.echo(json.dumps({k: v for k, v in result.items() if k != "curves"}))
        for line in _gained(result):
            click.echo(line, err=True)
        click.echo(f"wrote {folder}", err=True)


NO_GAIN = "no gain there: take more --steps, or a higher --lr"


def _gained(result: Mapping[str, Any]) -> list[str]:
    """What the selection examples said before the first step, and of the PET that was selected."""
    metric, first = result["metric"], result["curves"][0]
    before, after = first["dev"][metric], result["dev"][metric]
    told = (
        f"on the examples to select on: {metric} {before:.3f} before, {after:.3f} at step "
        f"{result['best_step']}; loss {first['dev_loss']:.3g} before, {result['dev_loss']:.3g} there"
    )
    return [told] if after > before else [told, NO_GAIN]


def _regularizer(text: str | None, weight: float | None) -> tuple[str | None, float | None]:
    """The regularizer and its weight, which may stand in its text or beside it.

    Raises:
        BadInput: for an unknown one, or two weights.
    """
    if text is None:
        return None, weight
    name, own = regularizers.weighed(text)
    if None not in (own, weight) and own != weight:
        raise BadInput(f"--regularizer {text} with --weight {weight}: give one of the two numbers")
    return name, weight if own is None else own


def _refuse_strengths(weight: float | None, ratio: float | None, schedule: str) -> None:
    """They are of nothing where a PET is tuned alone; a weight is let be, since scripts may give one.

    Raises:
        BadInput: if there is a schedule or a ratio.
    """
    alone = "with neither --cost nor --regularizer: there is nothing to weigh"
    if schedule != CONSTANT:
        raise BadInput(f"--schedule {alone}, leave it out")
    if ratio is not None:
        raise BadInput(f"--ratio {alone}, leave it out")
    if weight is not None:
        logging.getLogger(__name__).warning("--weight %s", alone)


def _plain(text: str) -> str:
    """A text as the name of a folder."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text)
