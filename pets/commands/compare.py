"""``bridge-pets compare``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
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
    read_lines,
    schedule_option,
    trust_remote_code,
)
from pets.study.cells.grid import Grid
from pets.study.compare.budget import parse_budget
from pets.study.compare.presets import PRESETS
from pets.study.compare.run import compare as run
from pets.tasks.base import Task
from pets.tuning.models import HowLoaded


@click.command(cls=ManyValues)
@click.option("--model", required=True, help="Hugging Face name or local folder of any language model.")
@model_options
@click.option(
    "--preset",
    default="paper-fewshot",
    show_default=True,
    type=click.Choice(list(PRESETS)),
    help="What the options that are not given are set to.",
)
@click.option(
    "--tasks",
    "--task",
    "tasks",
    cls=Named,
    names=tasks.available,
    multiple=True,
    metavar="TASK...",
    help="Your own, .csv, .tsv, .jsonl, .parquet or task files (see `bridge-pets task`) or "
    "owner/name[:config] of the hub; or {names}",
)
@asking_options
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder with the original GLUE tsv files, for the tasks that are named.  [default: the hub]",
)
@click.option(
    "--pets",
    cls=Named,
    names=methods.available,
    multiple=True,
    metavar="PET...",
    help="{names}; with options of peft's if you like: lora:r=16",
)
@click.option(
    "--bridges",
    "arms",
    cls=Named,
    names=bridges.available,
    multiple=True,
    metavar="ARM...",
    help="{names}; with parameters, ou:theta=2, read through a lens, ou@lens, or one that learns from "
    "the training examples too, ou@adapted, or a control of a fitted cost, "
    "brownian@random-map or brownian@lens@shuffled-ends. The PET alone, vanilla, is always there; where "
    "only it is named here, there are no bridges.",
)
@click.option(
    "--regularizers",
    "objectives",
    cls=Named,
    names=regularizers.available,
    multiple=True,
    metavar="NAME...",
    help="What people use instead: {names}; with options, early-exit:first=0.3.",
)
@click.option(
    "--shots",
    multiple=True,
    type=int,
    metavar="K...",
    help="Examples per class, or in all where there are no classes; 0: the whole train set.",
)
@click.option("--seeds", multiple=True, type=int, metavar="SEED...", help="A split each.")
@click.option(
    "--weights",
    multiple=True,
    type=float,
    metavar="W...",
    help="Of the running costs, selected on dev. Every arm has as many tries.",
)
@click.option(
    "--ratios",
    multiple=True,
    type=float,
    metavar="R...",
    help="Instead of weights: how long a cost's weighed gradient is beside the task's at first, such as "
    "0.1 0.5 2: costs pull alike then, whatever the model.",
)
@click.option("--steps", type=int, help="Optimiser steps of a try.")
@click.option("--batch-size", type=int, help="Examples a step.")
@click.option("--lr", type=float, help="Learning rate.  [default: the preset's, else the PET's]")
@click.option("--eval-every", type=int, help="Steps between looks at the selection split.")
@click.option("--max-length", type=int, help="Tokens a prompt.")
@schedule_option()
@protocol_option()
@click.option("--text", "texts", multiple=True, metavar="FILE...", help="To fit costs on, UTF-8.")
@click.option("--fit-steps", type=int, help="Steps of a fit at most; stops early. Lenses take none.")
@click.option("--fit-batch-size", type=int, help="Rows of text a step.")
@click.option("--fit-length", type=int, help="Tokens a row of text.")
@click.option(
    "--budget",
    metavar="TIME",
    help="Fit seeds and weights into so much time, 2h, 90m or 1h30m, by a few steps that are measured: "
    "of those given up to 8 seeds, then weights, then further seeds; every arm has the same.",
)
@click.option(
    "--by-depth",
    is_flag=True,
    help="Also score every layer of the selected PETs, read by a linear probe, by the exits of costs "
    "with a lens, and by the model's own head; on tasks with classes.",
)
@click.option("--jobs", default=1, show_default=True, help="Processes on this machine.")
@click.option("--ray", metavar="ADDRESS", help="Run on a Ray cluster: host:port, auto, or local.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for everything; one of an earlier comparison is added to.",
)
@trust_remote_code
def compare(
    model: str,
    dtype: str,
    quantize: str | None,
    template: str | None,
    chat: bool,
    label_words: tuple[str, ...],
    preset: str,
    budget: str | None,
    data: Path | None,
    texts: tuple[str, ...],
    objectives: tuple[str, ...],
    jobs: int,
    ray: str | None,
    out: Path,
    trust_remote_code: bool,
    **given: Any,
) -> None:
    """Compare PETs with and without running costs: tasks x shots x PETs x arms x seeds.

    Every arm has the same splits, steps and number of tries. Strength and checkpoint are selected on
    examples taken from the train set; the task's reported ones, of GLUE the dev set, are scored once for
    each cell, with what was selected. Before anything runs, a plan says how many cells there are and how
    long they take, by a few steps that are measured. The folder's results.jsonl has a row for each cell.
    The command can be interrupted at any moment; given again it goes on, to the same table. A cell that
    fails is a row with its error: the others go on, and the exit code is 1.

    \b
      bridge-pets compare --model bert-base-uncased --tasks sst2 rte --data glue --pets lora bitfit
          --bridges brownian ou@lens brownian@random-map --shots 16 --text wiki.txt --out runs
      bridge-pets compare --model M --preset small --data glue --text wiki.txt --out runs --jobs 2
      bridge-pets compare --model M --task reviews.csv --template "{text} It was {mask}."
          --label-words terrible,great --ratios 0.1 0.5 2 --budget 2h --text wiki.txt --out runs
      bridge-pets report runs
    """
    if jobs < 1:
        raise BadInput(f"--jobs {jobs}: expected 1 or more")
    if given["weights"] and given["ratios"]:
        raise BadInput("--weights with --ratios: give one of the two")
    seconds = None if budget is None else parse_budget(budget)
    chosen = PRESETS[preset] | {name: value for name, value in given.items() if value not in (None, ())}
    if given["weights"]:
        chosen.pop("ratios", None)  # the preset's
    asking = _asked(chosen["tasks"], template, chat, label_words)
    grid = Grid.of_options({**chosen, "tasks": asking, "arms": (*chosen["arms"], *objectives)})
    outcome = run(
        grid,
        out,
        model,
        data,
        tuple(read_lines(texts)),
        jobs=jobs,
        ray=ray,
        trust_remote_code=trust_remote_code,
        how=HowLoaded(dtype, quantize),
        budget=seconds,
    )
    click.echo(f"{outcome.done} cells done, {outcome.reused} of them before; {outcome.failed} failed")
    click.echo(f"wrote {out / 'results.jsonl'}")
    if outcome.failed:
        sys.exit(1)


def _asked(
    names: Sequence[str], template: str | None, chat: bool, label_words: tuple[str, ...]
) -> list[Task]:
    """The tasks, one of them perhaps in other words.

    Raises:
        BadInput: for words of several tasks.
    """
    found = [tasks.parse(name) for name in names]
    if len(found) == 1:
        return [asked(found[0], template, chat, label_words)]
    given = {"--template": template, "--chat": chat, "--label-words": label_words}
    if wrong := [option for option, value in given.items() if value]:
        raise BadInput(
            f"{', '.join(wrong)} with {len(found)} tasks: give one task, or write each into a task "
            "file, which says how it is asked (`bridge-pets task new`)"
        )
    return found
