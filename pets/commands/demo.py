"""``bridge-pets demo``."""

from __future__ import annotations

from pathlib import Path

import click

from bridges.errors import check_counts
from pets.demo.demo import run


@click.command()
@click.option(
    "--out",
    default="demo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for everything.",
)
@click.option("--seeds", default=5, show_default=True, help="How many seeds, from 42 on.")
def demo(out: Path, seeds: int) -> None:
    """See it work: nothing to download, no GPU, a few minutes.

    Pretrains a tiny masked LM on the docstrings of Python's own library, fits a Brownian and an OU
    cost, and tunes LoRA with and without them on a few-shot task: which area of the library does a
    docstring belong to? Prints a table and draws trajectories.png.
    """
    check_counts(seeds=seeds)
    run(out, seeds)
