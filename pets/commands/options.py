"""What commands are given: options with several values, text files."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from bridges.errors import BadInput, shown
from pets.plug.schedule import SCHEDULES
from pets.tasks.base import Task
from pets.tasks.protocol import PROTOCOLS
from pets.tasks.templates import Template
from pets.tuning.models import AUTO, DTYPES, QUANTIZED
from pets.tuning.settings import LOSSES


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


def _together(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Several options as one decorator."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in options:
            command = option(command)
        return command

    return decorate


model_options = _together(
    click.option(
        "--quantize",
        type=click.Choice(QUANTIZED),
        help="Keep the frozen weights in 4 or 8 bits; needs bitsandbytes.",
    ),
    click.option(
        "--dtype",
        type=click.Choice((*DTYPES, AUTO)),
        default=DTYPES[0],
        show_default=True,
        help="Of the frozen weights, and of copies of these that are trained, such as a "
        "classifier's head; a PET's own weights are float32. 'auto' is bfloat16 where a GPU or "
        "a CPU (AMX, AVX-512 BF16) multiplies it fast, else float32, whatever the checkpoint has; a "
        "run that began in another dtype is not gone on with.",
    ),
)
"""``--dtype`` and ``--quantize`` of a command that loads a model."""

asking_options = _together(
    click.option(
        "--loss",
        type=click.Choice(LOSSES),
        help="Of the right answer in the whole vocabulary, or among the labels alone.",
    ),
    click.option(
        "--label-words",
        multiple=True,
        metavar="WORD...",
        help="Words that stand for the classes, in class order; several for one as in 'good,great'. "
        "One text is words of all classes: 'terrible,great'.",
    ),
    click.option(
        "--chat", is_flag=True, help="What stands before the answer is a user's turn of a chat."
    ),
    click.option(
        "--template",
        help="How an example is asked: '{text} It was {mask}.', with columns in braces and one "
        "place of the answer.  [default: the task's]",
    ),
)
"""``--template``, ``--chat``, ``--label-words`` and ``--loss`` of a command that puts a task."""


def asked(task: Task, template: str | None, chat: bool, label_words: Sequence[str]) -> Task:
    """A task in the words that a command was given.

    Raises:
        BadInput: for a broken template, chat without a template, or words that do not fit.
    """
    if label_words:
        task = task.with_words(label_words)
    if template is not None:
        Template.parse(template)
        return task.with_template(template, chat=chat or task.chat)
    if chat:
        return task.with_template(task.template or task.natural, chat=True)
    return task


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
