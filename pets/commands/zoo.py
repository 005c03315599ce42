"""``bridge-pets zoo``."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click

import bridges.processes
from bridges.errors import BadInput, unknown
from bridges.registry import Info, Registry
from pets import methods, regularizers, tasks

KINDS: dict[str, Registry[Any]] = {
    "Bridges": bridges.processes.catalogue,
    "PETs": methods.catalogue,
    "Regularizers": regularizers.catalogue,
    "Tasks": tasks.catalogue,
}


@click.command()
@click.argument("names", nargs=-1)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also draw each of the bridges into this PNG file.",
)
def zoo(names: tuple[str, ...], plot: Path | None) -> None:
    """List what is registered: bridges, PETs, regularizers and tasks, with their parameters.

    NAMES, which may be patterns, are those to list; without any it is all.

    \b
      bridge-pets zoo
      bridge-pets zoo lora "r*"
    """
    if plot is not None and not plot.name:
        raise BadInput("--plot is empty: expected the name of a PNG file")
    known = [name for kind in KINDS.values() for name in kind.available()]
    for pattern in names:
        if not any(fnmatch(name, pattern) for name in known):
            raise unknown("name", pattern, known)
    if plot:
        from pets.inside.zoo_picture import plot_zoo

        plot_zoo(plot)
    for title, kind in KINDS.items():
        chosen = [n for n in kind.available() if not names or any(fnmatch(n, p) for p in names)]
        if chosen:
            click.secho(title, bold=True, underline=True)
        for name in chosen:
            click.secho(name, bold=True)
            for line in _described(kind.info(name)):
                click.echo(f"  {line}")
    if plot:
        click.echo(f"wrote {plot}", err=True)


def _described(record: Info[Any]) -> Iterator[str]:
    yield record.description
    if record.formula:
        yield record.formula
    parameters = ", ".join(_parameter(*item) for item in record.defaults.items()) or "none"
    yield click.wrap_text(f"parameters: {parameters}", 100, subsequent_indent="    ")


def _parameter(name: str, default: Any) -> str:
    """With its default, where that is a word or a number."""
    value = default.value if isinstance(default, Enum) else default
    return f"{name}={value}" if isinstance(value, (bool, int, float, str)) and value != "" else name
