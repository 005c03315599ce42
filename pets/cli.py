"""The command line: ``bridge-pets demo | fit | tune | compare | report | task | zoo``."""

from __future__ import annotations

import logging
import sys
import warnings
from importlib import import_module
from typing import Any

import click
from safetensors import SafetensorError

import bridge_pets
from bridges.errors import BadInput, is_out_of_memory, one_line, out_of_memory
from kernels.version import __version__
from pets import interrupts

COMMANDS = {
    "demo": "See it work: nothing to download, no GPU, a few minutes.",
    "fit": "Fit a running cost for a model on plain text.",
    "tune": "Tune one PET on one task and print its result line.",
    "compare": "Compare PETs with and without running costs: tasks x shots x PETs x arms x seeds.",
    "report": "Show what a comparison came to: one HTML file, and the same as Markdown.",
    "task": "Write a first task file for a table of your own, or show what a task is.",
    "zoo": "List what is registered: bridges, PETs, regularizers and tasks, with their parameters.",
}
"""What each module of `pets.commands` does, said without importing it: that takes seconds."""


class Commands(click.Group):
    """The commands, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"pets.commands.{cmd_name}"), cmd_name)
        interrupts.restore()  # all that takes seconds is imported
        if "transformers" in sys.modules:
            from transformers.utils import logging as transformers_logging

            transformers_logging.set_verbosity_error()
            transformers_logging.disable_progress_bar()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


class Once(logging.Filter):
    """What was said is not said again: the cells of a comparison meet the same, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        new = text not in self._said
        self._said.add(text)
        return new


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__)
def cli() -> None:
    """Tune pretrained language models with few parameters and a running cost.

    The hidden states of the output token should move through the layers like a stochastic bridge
    that ends at the label. First fit the map into which they are read (once for each model), then
    tune with it:

    \b
      bridge-pets demo                                   everything, on data that is already here
      bridge-pets fit  --model M --bridge posterior --map lens --text corpus.txt --out lens-M
      bridge-pets tune --model M --task sst2 --data glue --pet lora --cost lens-M --ratio 0.1
    """
    if not logging.getLogger().handlers:  # else somebody else's log
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        logging.getLogger().handlers[0].addFilter(Once())
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # peft asks transformers for an attribute under its old name; nothing a user can act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def main(args: list[str] | None = None) -> Any:
    """Run the command line; wrong input is one line on standard error and exit code 2."""
    try:
        cli.main(args=args, prog_name="bridge-pets", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.UsageError as error:
        where = f" ({error.ctx.command_path} --help)" if error.ctx else ""
        click.echo(f"error: {one_line(error.format_message())}{where}", err=True)
        sys.exit(2)
    except BadInput as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except (OSError, SafetensorError) as error:
        click.echo(f"error: {one_line(str(error))}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):  # what click makes of it is a RuntimeError
        click.echo(interrupts.WORDS, err=True)
        sys.exit(interrupts.INTERRUPTED)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        click.echo(f"error: {out_of_memory(error)}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    bridge_pets.main()
