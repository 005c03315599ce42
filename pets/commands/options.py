"""What commands are given: options with several values, text files."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from bridges.errors import BadInput, shown
from pets.tasks.protocol import PROTOCOLS
from pets.tuning.schedule import SCHEDULES


class ManyValues(click.Command):
    """Lets an option that may be repeated take several values at once: ``--text A B``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        many = {
            name for p in self.params if isinstance(p, click.Option) and p.multiple for name in p.opts
        }
        expanded: list[str] = []
        option, values = "", 0
        for arg in args:
            if arg.startswith("--"):
                option, values = arg, 0
            elif option in many:
                values += 1
                if values > 1:
                    expanded.append(option)
            expanded.append(arg)
        return super().parse_args(ctx, expanded)


class Named(click.Option):
    """An option for registered names: ``{names}`` in its help are those, when help is asked for."""

    def __init__(self, *args: Any, names: Callable[[], Sequence[str]], **options: Any) -> None:
        super().__init__(*args, **options)
        self.names = names

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        listing = copy.copy(self)
        listing.help = (self.help or "").format(names=", ".join(self.names()))
        return click.Option.get_help_record(listing, ctx)


trust_remote_code = click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Run the Python code that comes with the model: read it first.",
)
"""Of every command that loads a model; without it none of the model's code is run."""


def protocol_option(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--protocol`` of a command that tunes."""
    return click.option(
        "--protocol",
        type=click.Choice(list(PROTOCOLS)),
        help="How a task is put to the model; 'published': to the letter, see docs/published.md.",
        **options,
    )


def schedule_option(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--schedule`` of a command that tunes."""
    return click.option(
        "--schedule",
        type=click.Choice(list(SCHEDULES)),
        help="How the weight of the cost or regularizer falls over the steps, to 0 unless constant.",
        **options,
    )


def read_lines(files: tuple[str, ...]) -> list[str]:
    """The lines of UTF-8 text files.

    Raises:
        BadInput: naming a file that cannot be read.
    """
    lines: list[str] = []
    for name in files:
        try:
            lines += Path(name).read_text(encoding="utf-8").split("\n")
        except OSError as error:
            raise BadInput(f"text file {shown(name)} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise BadInput(
                f"text file {shown(name)} is not UTF-8 at byte {error.start}: convert it"
            ) from error
    return lines
