"""``bridge-pets demo``."""

from __future__ import annotations

from pathlib import Path

import click

from bridges.errors import check_counts
from pets.demo import demo as tiny
from pets.demo import real as smollm2

_SEEDS = (5, 3)  # of the tiny model, of the real one


@click.command()
@click.option(
    "--out",
    default="demo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for everything.",
)
@click.option(
    "--seeds",
    type=int,
    help="How many seeds, from 42 on.  [default: {}; {} with --real]".format(*_SEEDS),
)
@click.option("--real", is_flag=True, help="On SmolLM2-135M, whose weights a package brings.")
def demo(out: Path, seeds: int | None, real: bool) -> None:
    """See it work: nothing to download, no GPU, a few minutes.

    Pretrains a tiny masked LM on the docstrings of Python's own library, fits a Brownian and an OU
    cost, and tunes LoRA with and without them on a few-shot task: which area of the library does a
    docstring belong to? Prints a table, says whether the answer is there before the last layer, and
    draws trajectories.png and by-depth.png.

    With --real the model is SmolLM2-135M, made from two packages of pip's registry (98 MB, kept as 540
    MB in $BRIDGE_PETS_CACHE or the user's cache folder), the cost that of the bridge between the labels,
    read through a lens, and the picture shows trajectories that part by label.
    """
    if seeds is None:
        seeds = _SEEDS[real]
    check_counts(seeds=seeds)
    (smollm2 if real else tiny).run(out, seeds)
