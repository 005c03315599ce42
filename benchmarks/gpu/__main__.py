"""Check, then measure, everything on a GPU: ``python -m benchmarks.gpu --out FOLDER``.

Each part runs in a process of its own with a limit of its own: what crashes, hangs or is wrong there
stops nothing else. Rows are written as they come, and the result file is made of them after each part.
Nothing is downloaded, and no clock is set.
"""

from __future__ import annotations

import importlib
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.environment import command_line, commit, result_name, to_json
from benchmarks.gpu import plan, processes
from benchmarks.gpu.assemble import record
from benchmarks.gpu.machine import card
from benchmarks.gpu.plan import LOG, PARTS, ROWS, Context, Part
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.tables import summary
from bridges.storage.files import write_text

GRACE = 3.0
"""Seconds that a part is told less than it has, so that it can end by itself."""


FOLDER = Path("runs/gpu")


class Session:
    """The clock and the files of one command.

    Args:
        folder: made where it is missing; rows of an earlier command in it are kept, and those of a part
            that is run again are replaced.
        budget: seconds for all parts.
    """

    def __init__(
        self, folder: Path, device: str, *, quick: bool, budget: float, label: str, commit: str | None
    ) -> None:
        self.folder, self.device, self.quick, self.budget = folder, device, quick, budget
        self.start = time.perf_counter()
        self.rows = Rows(folder / ROWS)
        folder.mkdir(parents=True, exist_ok=True)
        head = {"line": command_line(), "device": device, "label": label, "quick": quick}
        self.rows.add("command", "command", {**head, "commit": commit, "budget": budget})

    def say(self, text: str) -> None:
        """A line with the time."""
        print(f"[{time.perf_counter() - self.start:6.1f} s] {text}", flush=True)

    def part(self, part: Part, later: float) -> None:
        """Run a part unless too little time is left, and say how it ended.

        Args:
            later: seconds that it leaves to others, unless it has less than its least then.
        """
        left = self.budget - (time.perf_counter() - self.start)
        if left < part.least:
            reason = f"{max(left, 0):.0f} s of {self.budget:g} s were left, it needs {part.least:g} s"
            ended = processes.Ended("skipped", 0.0, reason)
        else:
            seconds = min(part.seconds, max(left - later, part.least))
            self.say(f"{part.name}, at most {seconds:.0f} s")
            self.rows.add(part.name, "start", {"limit": seconds})
            told = max(seconds - GRACE, seconds / 2)
            line = processes.command(part.name, self.folder, self.device, self.quick, told)
            ended = processes.run(line, seconds)
        end = {"status": ended.status, "reason": ended.reason, "seconds": ended.seconds}
        self.rows.add(part.name, "end", end)
        self.say(f"{part.name}: {ended.status} {ended.reason}".rstrip())
        if ended.errors and ended.status != "done":
            with (self.folder / LOG).open("a", encoding="utf-8") as log:
                log.write(f"== {part.name}: {ended.status} {ended.reason}\n{ended.errors}\n")
        self.write()

    def write(self) -> Path:
        """Make the result file of the rows there are."""
        return write(self.folder, self.device, record(self.rows.read()))


def write(folder: Path, device: str, made: dict[str, Any]) -> Path:
    """Write the result file, which is named after the card, whole or not at all."""
    target = folder / result_name("gpu", device, made["environment"]["gpu"] or card())
    write_text(target, to_json(made))
    return target


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=FOLDER,
    show_default=True,
    help="Folder of the results, four files; gpu_CARD.json belongs into benchmarks/results.",
)
@click.option("--device", default="cuda", show_default=True)
@click.option("--quick", is_flag=True, help="Tiny models and a few rounds: does it all run?")
@click.option("--only", help=f"Of {','.join(p.name for p in PARTS)}; by default all.")
@click.option("--label", default="", help="A text that the record keeps.")
@click.option("--commit", "code", default="", help="Of the code, where there is no .git to ask.")
@click.option("--budget", default=300.0, show_default=True, help="Seconds for all parts.")
@click.option("--assemble", is_flag=True, help="Run nothing; make the result file of the rows there.")
@click.option("--part", "worker", hidden=True, help="Worker: run this part here.")
@click.option("--seconds", default=60.0, hidden=True, help="Worker: until it is stopped.")
def main(
    out: Path,
    device: str,
    quick: bool,
    only: str | None,
    label: str,
    code: str,
    budget: float,
    assemble: bool,
    worker: str | None,
    seconds: float,
) -> None:
    """Check, then measure, every operation on a device; exit status 1 if anything is wrong."""
    if worker is not None:
        part = plan.named(worker)
        context = Context(part.name, part.option, out, device, quick, seconds)
        importlib.import_module(part.module).run(context)
        return
    if assemble:
        made = record(Rows(out / ROWS).read(), label=label, commit=code)
        click.echo(f"wrote {write(out, device, made)}")
        return
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("no CUDA device here: try --device cpu --quick")
    asked = only.split(",") if only else [part.name for part in PARTS]
    if unknown := [name for name in asked if name not in {part.name for part in PARTS}]:
        known = ", ".join(part.name for part in PARTS)
        raise click.UsageError(f"--only: no {', '.join(unknown)}, only {known}")
    session = Session(
        out.absolute(), device, quick=quick, budget=budget, label=label, commit=code or commit()
    )
    parts = [part for part in PARTS if part.name in asked]
    for k, part in enumerate(parts):
        session.part(part, sum(later.least for later in parts[k + 1 :]))
    target = session.write()
    made = record(session.rows.read())
    click.echo(summary(made))
    session.say(f"wrote {target}")
    sys.exit(1 if made["wrong"] else 0)


if __name__ == "__main__":
    # A command that is told to end takes its part's process with it.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    main()
