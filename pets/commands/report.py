"""``bridge-pets report``."""

from __future__ import annotations

from pathlib import Path

import click

from pets.study.report.writing import write_report


@click.command()
@click.argument("runs", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where to write.  [default: RUNS itself]",
)
def report(runs: Path, out: Path | None) -> None:
    """Show what a comparison came to: one HTML file, and the same as Markdown.

    RUNS is the folder that `bridge-pets compare` wrote. report.html needs nothing beside it; report.md
    has its pictures in report-figures/.

    \b
      bridge-pets report runs/compare
    """
    for path in write_report(runs, out):
        click.echo(f"wrote {path}")
