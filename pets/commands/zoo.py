"""``bridge-pets zoo``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

import bridges.processes
from bridges.errors import BadInput, shown
from bridges.registry import Registry
from pets import methods, regularizers, tasks
from pets.inside.zoo_entries import Entry, chosen, written

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
    help="Also draw the bridges and regularizers among them: into one picture, .png or .svg, or as a "
    "gallery with all there is to know of each, .html.",
)
def zoo(names: tuple[str, ...], plot: Path | None) -> None:
    """List what is registered: bridges, PETs, regularizers and tasks, with their parameters.

    NAMES are those to list; without any it is all. They may be patterns, and bridges and regularizers
    may have parameters, with which they are drawn.

    \b
      bridge-pets zoo
      bridge-pets zoo lora "r*"
      bridge-pets zoo brownian ou:theta=8 --plot two.png
      bridge-pets zoo --plot gallery.html
    """
    draw = None if plot is None else _drawing(plot)
    found = chosen(names, KINDS.values())
    if draw is not None:
        draw([entry for entry in found if entry.kind in (KINDS["Bridges"], KINDS["Regularizers"])])
    for title, kind in KINDS.items():
        entries = [entry for entry in found if entry.kind is kind]
        if entries:
            click.secho(title, bold=True, underline=True)
        for entry in entries:
            click.secho(entry.title, bold=True)
            for line in _described(entry):
                click.echo(f"  {line}")
    if plot is not None:
        click.echo(f"wrote {plot}", err=True)


def _drawing(plot: Path) -> Callable[[list[Entry]], None]:
    """What draws into the file, which may be written.

    Raises:
        BadInput: for a name of no known suffix, and a place that is taken or cannot be written to.
    """
    if not plot.name:
        raise BadInput("--plot is empty: expected the name of a .png, .svg or .html file")
    suffix = plot.suffix.lower()
    if suffix == ".html":
        from pets.inside import zoo_gallery

        zoo_gallery.check_place(plot)
        return lambda entries: zoo_gallery.write_gallery(plot, entries)
    if suffix in (".png", ".svg"):
        from pets.inside import zoo_picture

        zoo_picture.check_place(plot)
        return lambda entries: zoo_picture.plot_zoo(plot, entries)
    raise BadInput(f"--plot {shown(str(plot))}: expected a name that ends in .png, .svg or .html")


def _described(entry: Entry) -> Iterator[str]:
    record = entry.record
    yield record.description
    if record.formula:
        yield record.formula
    values = {**record.defaults, **entry.given}
    parameters = ", ".join(written(*item) for item in values.items()) or "none"
    yield click.wrap_text(f"parameters: {parameters}", 100, subsequent_indent="    ")
