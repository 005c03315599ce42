"""``bridge-pets zoo``."""

from __future__ import annotations

import inspect
from pathlib import Path

import click

import bridges
from bridges.errors import BadInput


@click.command()
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also draw each of them into this PNG file.",
)
def zoo(plot: Path | None) -> None:
    """List the registered bridges, their formulas and parameters."""
    if plot is not None and not plot.name:
        raise BadInput("--plot is empty: expected the name of a PNG file")
    if plot:
        from pets.inside.zoo_picture import plot_zoo

        plot_zoo(plot)
    for name in bridges.available():
        record = bridges.info(name)
        click.secho(name, bold=True)
        click.echo(f"  {record.description}")
        if record.formula:
            click.echo(f"  {record.formula}")
        click.echo(f"  parameters: {_parameters(record) or 'none'}")
    if plot:
        click.echo(f"wrote {plot}", err=True)


def _parameters(record: bridges.BridgeInfo[bridges.Cost]) -> str:
    shown = []
    for name, default in record.defaults.items():
        shown.append(name if default in (inspect.Parameter.empty, "") else f"{name}={default}")
    return ", ".join(shown)
