"""Everything that needs a GPU, in one command: ``python -m benchmarks.gpu``.

Correctness of every operation first, and nothing after it if one is wrong; then the memory's ceilings,
a LoRA step of a BERT with random weights, and the timings of `benchmarks.suite`. The result file is
written after each part, so that whatever interrupts the command leaves what was measured. Nothing is
downloaded.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import bandwidth, gpu_check, shapes
from benchmarks.arms import at_shape
from benchmarks.environment import RESULTS, environment, result_name, to_json
from benchmarks.kernel_tables import check_table
from benchmarks.suite import Group
from benchmarks.training_step import Workload
from bridges.storage.files import write_text

ORDER = ("bert-large", "fit", "bert-base", "tiny")
"""What is lost last when the time is up comes first."""

COMPILE_SECONDS = 120
"""Less time left than this, and torch.compile is left out: it takes most of a group's time."""

VOCABULARY = 30_522


class Session:
    """The record, the clock and the file of one command."""

    def __init__(self, target: Path, head: dict[str, Any], budget: float) -> None:
        self.target, self.budget, self.start = target, budget, time.perf_counter()
        self.record: dict[str, Any] = {**head, "finished": False, "skipped": []}

    def elapsed(self) -> float:
        return time.perf_counter() - self.start

    def say(self, text: str) -> None:
        click.echo(f"[{self.elapsed():6.1f} s] {text}")
        sys.stdout.flush()

    def part(self, name: str, run: Callable[[], None]) -> None:
        """Run a part unless the time is up; an error is its result, and the others go on."""
        if self.elapsed() > self.budget:
            self.record["skipped"].append({"part": name, "reason": f"{self.budget:g} s were over"})
            self.say(f"{name}: skipped, the time is up")
        else:
            self.say(name)
            try:
                run()
            except Exception as error:  # on a machine that is lent for minutes every part counts
                reason = f"{type(error).__name__}: {str(error)[:500]}"
                self.record["skipped"].append({"part": name, "reason": reason})
                self.say(f"{name}: failed: {reason}")
        self.write()

    def write(self) -> None:
        self.record["seconds"] = round(self.elapsed(), 1)
        write_text(self.target, to_json(self.record))


@click.command()
@click.option("--out", help="Name of the result file; by default after the device.")
@click.option("--shapes", "names", help=f"Of {','.join(ORDER)}; by default all.")
@click.option("--device", default="cuda", show_default=True)
@click.option("--quick", is_flag=True, help="A few rounds of everything, without torch.compile.")
@click.option("--keep-going", is_flag=True, help="After a wrong result, time what is right.")
@click.option(
    "--budget",
    default=420.0,
    show_default=True,
    help="Seconds after which no part begins; one lasts up to 60.",
)
def main(
    out: str | None, names: str | None, device: str, quick: bool, keep_going: bool, budget: float
) -> None:
    """Check, then measure, every operation on a device; exit status 1 if anything is wrong."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("no CUDA device here: try --device cpu --shapes tiny --quick")
    asked = names.split(",") if names else list(ORDER)
    if unknown := [name for name in asked if name not in ORDER]:
        raise click.UsageError(f"--shapes: no {', '.join(unknown)}, only {', '.join(ORDER)}")
    asked.sort(key=ORDER.index)
    head: dict[str, Any] = {"environment": environment("triton", "torchsde"), "device": device}
    session = Session(RESULTS / (out or result_name("gpu", device)), head, budget)
    session.say(f"{head['environment']['gpu'] or 'CPU'}; results go to {session.target}")
    session.part("check", lambda: _check(session, device, asked))
    checked = session.record.get("check", {"wrong": None})
    if checked["wrong"] != 0 and not keep_going:
        session.say(f"stopped: {checked['wrong']} wrong results; {session.target} has the table")
        raise SystemExit(1)
    session.part("bandwidth", lambda: _bandwidth(session, device, asked[0], quick))
    session.part("training step", lambda: _training(session, device, asked[0], quick))
    session.record["groups"] = []
    for name in asked:
        for operation in at_shape(name):
            session.part(f"{operation}, {name}", _timing(session, device, operation, name, quick))
    groups = session.record["groups"]
    wrong = [arm for group in groups for arm in group["arms"].values() if arm["status"] == "wrong"]
    session.record["finished"] = not session.record["skipped"]
    session.write()
    session.say(f"wrote {session.target}")
    raise SystemExit(1 if wrong or checked["wrong"] != 0 else 0)


def _check(session: Session, device: str, names: list[str]) -> None:
    rows: list[dict[str, Any]] = []
    # None until the last row is there: not checked is not right.
    session.record["check"] = {"wrong": None, "rows": rows}
    for row in gpu_check.check(device, names):
        if not rows or rows[-1]["shape"] != row["shape"]:
            session.say(f"  {row['shape']}")
        rows.append(row)
    click.echo("\n".join([*check_table(rows), *(f"WRONG {row}" for row in rows if row["ok"] is False)]))
    session.record["check"]["wrong"] = sum(row["ok"] is False for row in rows)


def _bandwidth(session: Session, device: str, name: str, quick: bool) -> None:
    size, rounds = (bandwidth.GIBIBYTE // 16, 3) if quick else (2 * bandwidth.GIBIBYTE, 20)
    ceiling = bandwidth.ceilings(device, size, rounds)
    session.say(", ".join(f"{way} {rate:.0f} GB/s" for way, rate in ceiling.items()))
    shape = shapes.named(name, device)
    rows = bandwidth.pooling(shape, device, rounds, ceiling)
    for row in rows:
        session.say(
            f"pooling {row['way']}, {row['backend']}: {row['gigabytes_per_second']:.0f} GB/s, "
            f"{100 * row['share']:.0f} % of {row['ceiling']}"
        )
    session.record["bandwidth"] = {"bytes": size, "ceilings": ceiling, "shape": name, "pooling": rows}


def _training(session: Session, device: str, name: str, quick: bool) -> None:
    shape = shapes.named(name, device)
    work = Workload(shape, device, vocabulary=1100 if quick else VOCABULARY)
    errors = work.check()
    arms = work.measure(*((3, 10.0) if quick else (30, 45.0)))
    session.record["training"] = {"shape": name, "sizes": shape.facts(), "errors": errors, "arms": arms}
    for arm, row in arms.items():
        session.say(
            f"{arm:9} {row['milliseconds']['p50']:8.2f} ms ({100 * (row['ratio']['p50'] - 1):+.1f} %), "
            f"{row['peak_mebibytes']:.0f} MiB ({row['added_memory_percent']:+.1f} %)"
        )


def _timing(session: Session, device: str, operation: str, name: str, quick: bool) -> Callable[[], None]:
    def run() -> None:
        compiled: bool | str = True
        if quick or session.budget - session.elapsed() < COMPILE_SECONDS:
            compiled = "--quick" if quick else f"less than {COMPILE_SECONDS} s were left"
        group = Group(operation, shapes.named(name, device), device, compiled=compiled)
        record = group.record(*((3, 3.0) if quick else (50, 6.0)))
        session.record["groups"].append(record)
        for arm, row in record["arms"].items():
            spread = row.get("milliseconds")
            session.say(
                f"  {arm:24} {spread['p50']:9.3f} ms" if spread else f"  {arm:24} {row['reason']}"
            )

    return run


if __name__ == "__main__":
    main()
