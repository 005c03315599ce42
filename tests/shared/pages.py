"""A page run as its reader would: its files written, its Python and its commands run, in their order.

    python tests/shared/pages.py docs/own_data.md --model '$MODEL=FOLDER' --model OWNER/NAME=FOLDER

writes what is printed into the page as it is now. A model is named as the page names it, by a variable
of the shell or as on the hub, and FOLDER is where it is.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from string import Template

import hub_stand_in
import processes
from page_blocks import blocks, written_anew
from places import REPOSITORY

from pets.commands.tune import NO_GAIN

_PROGRESS = re.compile(r"[\w-]+: \d+ of \d+ |Loading weights:")
_BY_CHANCE = re.compile(
    rf"^(?:{re.escape(NO_GAIN)}|the text has \d+ targets to read, .*|held-out rows that stand .*)\n",
    re.MULTILINE,
)
_NUMBERS = re.compile(r"-?\d[\w.+:-]*(?: (?:s|min|h)\b)?(?: \d+ (?:s|min)\b)?")
_ONCE = ("pip ", "export ", "git ", "cd ", "make ", "jupyter ", "python -m ", "hf ", "bridge-pets demo")
"""What a reader does once, and whoever runs the page has done."""
_QUIET = "import warnings; warnings.simplefilter('ignore'); from pets.cli import main; main()"
_TOOLS = {
    "bridge-pets": ("-c", _QUIET),
    "python": (),
    "pytest": ("-m", "pytest", "-p", "no:cacheprovider", "-p", "no:warnings"),
}
_HUB = "hub"
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
_SESSION = """
import contextlib, io, json, pathlib, sys, time, traceback, warnings
warnings.simplefilter("ignore")
names, folder = {"__name__": "__main__"}, pathlib.Path(sys.argv[1])
for number in range(10**6):
    while not (asked := folder / f"{number}.json").exists():
        time.sleep(0.01)
    block = json.loads(asked.read_text())
    said, error = io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(said):
            exec(compile("\\n" * block["line"] + block["body"], block["page"], "exec"), names)
    except BaseException:
        error = traceback.format_exc()
    (folder / "answer").write_text(json.dumps([said.getvalue(), error]))
    (folder / "answer").rename(folder / f"{number}.said")
"""


def masked(output: str) -> str:
    """What is the same whenever and wherever it runs: no numbers, versions and times, and no lines that
    hang on what came out."""
    return _NUMBERS.sub("0", _BY_CHANCE.sub("", output))


def run_page(page: str, folder: Path, variables: Mapping[str, str]) -> list[str]:
    """What every command, and every block of Python whose output the page shows, prints now, in order.

    A block that needs a module which is not there is compiled; its outputs are those on the page.

    Raises:
        RuntimeError: for a command or a block that fails, with what it said.
    """
    found: list[str] = []
    printed: str | None = None
    hub: hub_stand_in.Hub | None = None
    with _session(folder) as run_python, ExitStack() as stack:
        for block in blocks(page):
            there = block.needs in ("", _HUB) or importlib.util.find_spec(block.needs) is not None
            if block.kind == "file":
                (folder / block.name).parent.mkdir(parents=True, exist_ok=True)
                (folder / block.name).write_text(block.body, encoding="utf-8")
            elif block.kind == "python":
                compile(block.body, "page", "exec")
                printed = run_python(block.body, block.line) if there else None
            elif block.kind == "output":
                found.append(block.body if printed is None else printed)
            elif block.needs == _HUB:
                hub = hub or stack.enter_context(hub_stand_in.serving())
                found += [_run_online(command, folder, hub) for command, _ in block.commands]
            elif block.kind == "console":
                said = [_run(c, folder, variables) if there else shown for c, shown in block.commands]
                found += said if block.shows_outputs else [""] * len(said)
    return found


@contextmanager
def _session(folder: Path) -> Iterator[object]:
    """Runs blocks of Python one after another in one process, which starts with the first."""
    started: list[processes.Started] = []
    with tempfile.TemporaryDirectory() as asked:

        def run(body: str, line: int) -> str:
            if not started:
                started.append(processes.start(["-c", _SESSION, asked], cwd=folder, **_ENVIRONMENT))
            number = len(list(Path(asked).glob("*.said")))
            new = Path(asked) / "question"
            new.write_text(json.dumps({"body": body, "line": line, "page": "page"}))
            new.rename(Path(asked) / f"{number}.json")
            answer = Path(asked) / f"{number}.said"
            deadline = time.monotonic() + 600
            while not answer.exists():
                if not started[0].runs or time.monotonic() > deadline:
                    raise RuntimeError(
                        f"the block at line {line} ended the session: {started[0].output}"
                    )
                time.sleep(0.01)
            said, error = json.loads(answer.read_text())
            if error:
                raise RuntimeError(f"the block at line {line}:\n{body}\n{error}")
            return str(said)

        try:
            yield run
        finally:
            for process in started:
                process.kill()


def _run(command: str, folder: Path, variables: Mapping[str, str]) -> str:
    command = re.sub(r"\s+# .*", "", command)
    if command.startswith(_ONCE):
        return ""
    tool, *words = shlex.split(Template(command.replace("\\\n", " ")).substitute(variables))
    if tool == "torchrun":
        ranks = int(words[words.index("--nproc-per-node") + 1])
        done = processes.run_ranks(ranks, words[2:], cwd=folder)[0]
        output = done.stdout
    else:
        ended = processes.run(
            [*_TOOLS[tool], *words],
            cwd=folder,
            together=tool == "bridge-pets",  # of a script what it prints: others' warnings change
            seconds=900,
            **_ENVIRONMENT,
        )
        if ended.returncode:
            raise RuntimeError(f"{command}\n{ended.stdout}\n{ended.stderr}")
        output = ended.stdout
    lines = re.split(r"[\r\n]+", output)
    return "".join(f"{line}\n" for line in lines if line.strip() and not _PROGRESS.match(line))


def _run_online(command: str, folder: Path, hub: hub_stand_in.Hub) -> str:
    """A script in a new interpreter, for which there is this hub and no other; `huggingface_hub` reads
    where it is when it is imported."""
    if command.startswith(_ONCE):
        return ""
    tool, script = shlex.split(command)
    assert tool == "python", f"{command}: expected python and the name of a script"
    program = f"import runpy; runpy.run_path({script!r}, run_name='__main__')"
    return hub_stand_in.said(hub, folder, {script: program}, preload="")[script] + "\n"


def put_models(folder: Path, models: Mapping[str, str | Path]) -> dict[str, str]:
    """Lay models where a page finds them by their names; the variables of the shell among these."""
    for name, place in models.items():
        if not name.startswith("$"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(Path(place).resolve())
    return {name[1:]: str(Path(place).resolve()) for name, place in models.items() if name[0] == "$"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("page", type=Path)
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER")
    arguments = parser.parse_args()
    text = arguments.page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as temporary:
        models = dict(pair.split("=", 1) for pair in arguments.model)
        found = run_page(text, Path(temporary), put_models(Path(temporary), models))
    arguments.page.write_text(written_anew(text, iter(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
