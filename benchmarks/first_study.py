"""The measured answer to what running costs do for few-shot PETs: one command, from fits to report.

    python -m benchmarks.first_study --model M --data GLUE --text FILE... --out RUNS --jobs 2

M is a six-layer masked LM; other models work too and take longer. The groups below are comparisons as
``bridge-pets compare --preset small`` runs them, one after another into one table. Then come all other
bridges (RUNS/zoo), prefix and prompt tuning (RUNS/prompts), five times the steps (RUNS/long) and the
remedies of `benchmarks.remedies` (RUNS/remedies), and a report of each. Interrupted, the same command
goes on. FIRST_STUDY.md says what was found.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from benchmarks.remedies import REMEDIES, RemedyRecipes
from bridges.storage.files import new_folder
from pets.commands.options import ManyValues, read_lines
from pets.study.cells.context import COSTS_FOLDER
from pets.study.cells.costs import Recipes
from pets.study.cells.grid import Grid
from pets.study.compare.presets import PRESETS
from pets.study.compare.run import compare
from pets.study.report.writing import write_report

ARMS = (
    "brownian",
    "ou",
    "sde",
    "alpha",
    "regression",
    "brownian@random-map",
    "brownian@shuffled-ends",
)
REGULARIZERS = ("weight-decay", "dropout", "r3f", "r-drop", "neftune", "label-smoothing")
GROUPS: tuple[dict[str, Any], ...] = (
    {"tasks": ("sst2", "cola"), "pets": ("lora", "bitfit", "adapter"), "arms": ARMS},
    {"tasks": ("mrpc",), "pets": ("lora",), "arms": ARMS},
    {"tasks": ("sst2",), "pets": ("lora",), "arms": ARMS, "shots": (4, 32)},
    {"tasks": ("rte",), "pets": ("lora",), "arms": ARMS},
    {"tasks": ("sst2",), "pets": ("lora",), "arms": ("brownian", *REGULARIZERS)},
    {"tasks": ("mrpc",), "pets": ("bitfit", "adapter"), "arms": ARMS},
    {"tasks": ("rte",), "pets": ("bitfit", "adapter"), "arms": ARMS},
)
ZOO: dict[str, Any] = {
    "tasks": ("sst2", "cola"),
    "pets": ("lora",),
    "arms": (
        *ARMS,
        "fractional",
        "gp",
        "smooth",
        "clock",
        "student",
        "random",
        "kinetic",
        "ou:likelihood=path",
        "ou:learn=theta+sigma",
    ),
}
PROMPTS: dict[str, Any] = {"tasks": ("sst2",), "pets": ("prefix", "prompt"), "arms": ARMS}
LONG: dict[str, Any] = {
    "tasks": ("sst2",),
    "pets": ("lora",),
    "arms": ARMS,
    "steps": 240,
    "eval_every": 40,
}
REMEDY: dict[str, Any] = {
    "tasks": ("sst2", "cola"),
    "pets": ("lora",),
    "arms": ("brownian", *REMEDIES),
}
STUDIES: tuple[tuple[str, tuple[dict[str, Any], ...], type[Recipes]], ...] = (
    ("", GROUPS, Recipes),
    ("zoo", (ZOO,), Recipes),
    ("prompts", (PROMPTS,), Recipes),
    ("long", (LONG,), Recipes),
    ("remedies", (REMEDY,), RemedyRecipes),
)
"""The folder under RUNS, with a table and a report of its own; the comparisons; how costs are made."""


def grid(**changes: Any) -> Grid:
    """The comparison of the preset "small" with other axes, or other settings."""
    return Grid.of_options({**PRESETS["small"], **changes})


@click.command(cls=ManyValues)
@click.option("--model", required=True)
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--text", "texts", multiple=True, required=True, metavar="FILE...")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--jobs", default=1, show_default=True)
def main(model: str, data: Path, texts: tuple[str, ...], out: Path, jobs: int) -> None:
    """Run all studies, one after another, and write a report of each."""
    text = tuple(read_lines(texts))
    for name, groups, recipes in STUDIES:
        folder = out / name
        _share_costs(out, folder)
        for axes in groups:
            done = compare(grid(**axes), folder, model, data, text, jobs=jobs, recipes=recipes)
            what = " ".join([name, *axes["tasks"], *axes["pets"]]).strip()
            click.echo(f"{what}: {done.done} cells done, {done.failed} failed")
        click.echo(f"wrote {write_report(folder, folder)}")


def _share_costs(first: Path, folder: Path) -> None:
    """The costs that one study has fitted are fitted for the others too."""
    for cost in (first / COSTS_FOLDER).glob("*"):
        there = folder / COSTS_FOLDER / cost.name
        if not there.exists():
            with new_folder(there) as new:
                shutil.copytree(cost, new, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
