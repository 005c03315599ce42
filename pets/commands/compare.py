"""``bridge-pets compare``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from bridges.errors import BadInput
from pets.commands.options import ManyValues, read_lines, trust_remote_code
from pets.study.compare.presets import PRESETS


@click.command(cls=ManyValues)
@click.option("--model", required=True, help="Hugging Face name or local folder of a masked LM.")
@click.option(
    "--preset",
    default="paper-fewshot",
    show_default=True,
    type=click.Choice(list(PRESETS)),
    help="What the options that are not given are set to.",
)
@click.option(
    "--tasks", multiple=True, metavar="TASK...", help="sst2, mnli, cola, rte, qnli, mrpc, qqp."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder with the original GLUE tsv files.  [default: the hub]",
)
@click.option("--pets", multiple=True, metavar="PET...", help="lora, bitfit, adapter, prefix, prompt.")
@click.option(
    "--bridges",
    "arms",
    multiple=True,
    metavar="ARM...",
    help="Bridges and controls of `bridge-pets zoo`, with a control of a fitted cost as in "
    "brownian@random-map and brownian@shuffled-ends. The PET alone, vanilla, is always there.",
)
@click.option(
    "--regularizers",
    multiple=True,
    metavar="NAME...",
    help="What people use instead: weight-decay, dropout, r3f, r-drop, neftune, label-smoothing.",
)
@click.option("--shots", multiple=True, type=int, metavar="K...", help="Examples per class; 0: all.")
@click.option("--seeds", multiple=True, type=int, metavar="SEED...", help="A split each.")
@click.option(
    "--weights",
    multiple=True,
    type=float,
    metavar="W...",
    help="Of the running costs, selected on dev. Every arm has as many tries.",
)
@click.option("--steps", type=int, help="Optimiser steps of a try.")
@click.option("--batch-size", type=int, help="Examples a step.")
@click.option("--lr", type=float, help="Learning rate.  [default: the preset's, else the PET's]")
@click.option("--eval-every", type=int, help="Steps between looks at the selection split.")
@click.option("--max-length", type=int, help="Tokens a prompt.")
@click.option("--text", "texts", multiple=True, metavar="FILE...", help="To fit costs on, UTF-8.")
@click.option("--fit-steps", type=int, help="Steps of a fit at most; stops early.")
@click.option("--fit-batch-size", type=int, help="Rows of text a step.")
@click.option("--fit-length", type=int, help="Tokens a row of text.")
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
    preset: str,
    data: Path | None,
    texts: tuple[str, ...],
    regularizers: tuple[str, ...],
    jobs: int,
    ray: str | None,
    out: Path,
    trust_remote_code: bool,
    **given: Any,
) -> None:
    """Compare PETs with and without running costs: tasks x shots x PETs x arms x seeds.

    Every arm has the same splits, steps and number of tries. Strength and checkpoint are selected on
    examples taken from the train set; the GLUE dev set is scored once for each cell, with what was
    selected. The folder's results.jsonl has a row for each cell. The command can be interrupted at any
    moment; given again it goes on, to the same table. A cell that fails is a row with its error: the
    others go on, and the exit code is 1.

    \b
      bridge-pets compare --model bert-base-uncased --tasks sst2 rte --data glue --pets lora bitfit
          --bridges brownian ou brownian@random-map --shots 16 --text wiki.txt --out runs
      bridge-pets compare --model M --preset small --data glue --text wiki.txt --out runs --jobs 2
      bridge-pets report runs
    """
    from pets.study.cells.grid import Grid
    from pets.study.compare.run import compare as run

    if jobs < 1:
        raise BadInput(f"--jobs {jobs}: expected 1 or more")
    chosen = PRESETS[preset] | {name: value for name, value in given.items() if value not in (None, ())}
    grid = Grid.of_options({**chosen, "arms": (*chosen["arms"], *regularizers)})
    found = run(
        grid,
        out,
        model,
        data,
        tuple(read_lines(texts)),
        jobs=jobs,
        ray=ray,
        trust_remote_code=trust_remote_code,
    )
    click.echo(f"{found.done} cells done, {found.reused} of them before; {found.failed} failed")
    click.echo(f"wrote {out / 'results.jsonl'}")
    if found.failed:
        sys.exit(1)
