"""A part in a process of its own, stopped at its limit with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

LAST = 2000
"""Bytes of a part's stderr that are kept."""


@dataclass(frozen=True)
class Ended:
    """How a part ended.

    Attributes:
        status: "done", "failed" or "stopped".
        reason: of the latter two.
        errors: the end of what it said on stderr.
    """

    status: str
    seconds: float
    reason: str = ""
    errors: str = ""


def command(part: str, folder: Path, device: str, quick: bool, seconds: float) -> list[str]:
    """The command line of a part's process."""
    options = ["--out", str(folder), "--device", device, "--part", part, "--seconds", f"{seconds:.1f}"]
    return [sys.executable, "-m", "benchmarks.gpu", *options, *(["--quick"] if quick else [])]


def run(line: list[str], seconds: float) -> Ended:
    """Run a command from the repository until it ends, or for so many seconds."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(line, stderr=errors, start_new_session=True, cwd=REPOSITORY)
        try:
            status = process.wait(timeout=max(seconds, 0.1))
            reason = "" if status == 0 else _why(status)
        except subprocess.TimeoutExpired:
            status, reason = None, f"stopped after its {seconds:.0f} s"
        finally:
            # What it started belongs to its session, and goes with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - LAST))
        said = errors.read().decode(errors="replace").strip()
    taken = round(time.perf_counter() - start, 1)
    if status is None:
        return Ended("stopped", taken, reason, said)
    if status != 0:
        last = said.rpartition("\n")[2][:300]
        return Ended("failed", taken, f"{reason}: {last}" if last else reason, said)
    return Ended("done", taken, errors=said)


def _why(status: int) -> str:
    number = -status if status < 0 else status - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"exit status {status}"
    return f"killed by {name}" if status < 0 else f"exit status {status} ({name})"
