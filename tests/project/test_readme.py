"""The README's commands and links exist; what CONTRIBUTING shows runs. test_pages.py runs the README."""

from __future__ import annotations

import contextlib
import re
import unittest
from typing import Any

import click
from places import REPOSITORY

from pets.cli import cli

_HEAD = "ForSequenceClassification"
README = (REPOSITORY / "README.md").read_text()


def test_commands_and_options_exist() -> None:
    for line in re.findall(r"^\$ bridge-pets (.*)$", README, re.MULTILINE):
        name, *words = line.split()
        command = cli.get_command(click.Context(cli), name)
        if isinstance(command, click.Group):
            command = command.get_command(click.Context(command), words[0])
        assert command is not None, name
        options = {opt for p in command.params if isinstance(p, click.Option) for opt in p.opts}
        assert {w for w in words if w.startswith("--")} <= options


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 120


def test_links_and_folders_exist() -> None:
    root = REPOSITORY
    for target in re.findall(r"\]\((?!http)(.*?)\)", README) + re.findall(
        r"^\| `(\w+/)`", README, re.MULTILINE
    ):
        assert (root / target).exists(), target


def test_what_contributing_shows_passes_its_batteries() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    for shown in ("TestQuick", "TestConfidence"):
        case, ran = names[shown](), 0
        for test in (name for name in dir(case) if name.startswith("test_")):
            with contextlib.suppress(unittest.SkipTest):
                getattr(case, test)()
                ran += 1
        assert ran > 8, shown


def test_contributing_names_what_is_there() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    for path in re.findall(r"`((?:bridges|pets|kernels|tests|docs)/[\w/.]*)`", text):
        assert (REPOSITORY / path).exists(), path
    for target in re.findall(r"^\$ make (\w+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
