"""A page of commands with their outputs: run again, compared, and written anew.

    python tests/shared/console_page.py docs/own_data.md MODEL

writes the outputs into the page as they are now, with MODEL a folder of the model that it names.
"""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from string import Template

import processes
from places import REPOSITORY

_SCRIPT = re.compile(r"^`([\w.]+)`\n\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
_PROGRESS = re.compile(r"\w+: \d+ of \d+ ")
_NUMBERS = re.compile(r"-?\d[\w.+:-]*(?: (?:s|min|h)\b)?(?: \d+ (?:s|min)\b)?")
_SKIPPED = ("pip ", "export ")
"""What a reader does once, and whoever runs the page has done."""
_QUIET = "import warnings; warnings.simplefilter('ignore'); from pets.cli import main; main()"
_TOOLS = {"bridge-pets": ("-c", _QUIET), "python": ()}


def scripts(page: str) -> dict[str, str]:
    """The files that the page gives, by name."""
    return dict(_SCRIPT.findall(page))


def commands(page: str) -> list[tuple[str, str]]:
    """Each command of the page with its output there, in order."""
    return [pair for block in _BLOCK.findall(page) for pair in _COMMAND.findall(block)]


def masked(output: str) -> str:
    """What is the same whenever and wherever it runs: no numbers, versions and times."""
    return _NUMBERS.sub("0", output)


def run_page(page: str, folder: Path, variables: Mapping[str, str]) -> list[str]:
    """The outputs now of all commands, run one after another in a folder; nothing of what is skipped.

    Raises:
        RuntimeError: for a command that fails, with what it said.
    """
    for name, text in scripts(page).items():
        (folder / name).write_text(text, encoding="utf-8")
    return [_run(command, folder, variables) for command, _ in commands(page)]


def _run(command: str, folder: Path, variables: Mapping[str, str]) -> str:
    if command.startswith(_SKIPPED):
        return ""
    tool, *words = shlex.split(Template(command.replace("\\\n", " ")).substitute(variables))
    done = processes.run(
        [*_TOOLS[tool], *words],
        cwd=folder,
        together=True,
        HF_HUB_OFFLINE="1",
        PYTHONPATH=str(REPOSITORY),
    )
    if done.returncode:
        raise RuntimeError(f"{command}\n{done.stdout}")
    lines = re.split(r"[\r\n]+", done.stdout)
    return "".join(f"{line}\n" for line in lines if line.strip() and not _PROGRESS.match(line))


def written_anew(page: str, outputs: list[str]) -> str:
    """The page with other outputs."""
    left = iter(outputs)

    def block(match: re.Match[str]) -> str:
        each = [f"$ {command}\n{next(left)}" for command, _ in _COMMAND.findall(match[1])]
        return f"```console\n{''.join(each)}```"

    return _BLOCK.sub(block, page)


if __name__ == "__main__":
    page_file, model = Path(sys.argv[1]), Path(sys.argv[2]).resolve()
    text = page_file.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as temporary:
        found = run_page(text, Path(temporary), {"MODEL": str(model)})
    page_file.write_text(written_anew(text, found), encoding="utf-8")
