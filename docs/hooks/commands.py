"""The page of the command line: what each command's ``--help`` says."""

from __future__ import annotations

from collections.abc import Iterator

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from pets.cli import cli

PAGE = "reference/commands.md"
_HEAD = """# Command line

What `bridge-pets COMMAND --help` says. `--model` is a name on the Hugging Face hub or a local folder.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    text = "\n".join([_HEAD, *_sections(cli, _context(cli, "bridge-pets"))])
    files.append(File.generated(config, PAGE, content=text))
    return files


def _sections(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _sections(inner, _context(inner, name, context))


def _context(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    return click.Context(command, info_name=name, parent=parent, **command.context_settings)
