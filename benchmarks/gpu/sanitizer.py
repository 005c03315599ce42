"""Every Triton kernel on the odd shapes under NVIDIA's compute-sanitizer."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile

import torch

from benchmarks.arms import OPERATIONS, ours
from benchmarks.gpu.checks import CHECKED, ODD, SOLVERS
from benchmarks.gpu.plan import Context
from benchmarks.guard import evaluate
from benchmarks.shapes import make_inputs

PLACES = ("/usr/local/cuda/bin/compute-sanitizer", "/usr/local/cuda/compute-sanitizer/compute-sanitizer")
"""Beside PATH."""

SHOWN = 3000
"""Characters of the tool's words that are kept where there are errors."""


def run(context: Context) -> None:
    """A row "sanitizer": the number of errors, or why the tool was not run."""
    row = sanitized(context.option, context.device, context.left() - 3)
    context.say(f"{context.option}: {row['reason'] or str(row['errors']) + ' errors'}")
    context.add("sanitizer", **row)


def sanitized(tool: str, device: str, seconds: float) -> dict[str, str | int | None]:
    """The errors that a tool of compute-sanitizer finds; None, and the reason, where it did not run."""
    row: dict[str, str | int | None] = {"tool": tool, "errors": None, "reason": "", "said": ""}
    if torch.device(device).type != "cuda":
        return {**row, "reason": "for CUDA devices alone"}
    program = found()
    if program is None:
        return {**row, "reason": f"no compute-sanitizer on PATH, nor {' nor '.join(PLACES)}"}
    command = [program, "--tool", tool, sys.executable, "-m", "benchmarks.gpu.sanitizer", device]
    # Without the caching allocator every tensor is an allocation, and what is beyond its end is seen.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    # A file, not a pipe: the program that the tool started may outlive it and hold a pipe open.
    with tempfile.TemporaryFile() as out:
        try:
            done = subprocess.run(
                command, env=environment, stdout=out, stderr=out, timeout=max(seconds, 1), check=False
            )
        except subprocess.TimeoutExpired:
            return {**row, "reason": f"it was not done after {seconds:.0f} s"}
        except OSError as error:
            return {**row, "reason": f"{type(error).__name__}: {error}"}
        out.seek(0)
        said = out.read().decode(errors="replace")
    return {**row, **summary(said, done.returncode)}


def summary(said: str, status: int) -> dict[str, str | int | None]:
    """What the tool's last line says: errors, or hazards of racecheck."""
    lines = re.findall(r"(?:ERROR SUMMARY: (\d+) errors?|RACECHECK SUMMARY: (\d+) hazards?)", said)
    if not lines:
        last = said.strip().rpartition("\n")[2][:300]
        return {"reason": f"no summary, exit status {status}: {last}", "said": said[-SHOWN:]}
    errors = sum(int(a or b) for a, b in lines)
    if status and not errors:
        return {"reason": f"the program ended with status {status}", "said": said[-SHOWN:]}
    return {"errors": errors, "said": said[:SHOWN] if errors else ""}


def found() -> str | None:
    """Where compute-sanitizer is."""
    places = [shutil.which("compute-sanitizer"), *PLACES]
    return next((place for place in places if place and os.path.exists(place)), None)


def touch(device: str) -> None:
    """Run every operation's kernels, forward and backward, and compare nothing."""
    for shape in ODD:
        for dtype in (torch.float32, torch.bfloat16):
            inputs = make_inputs(dataclasses.replace(shape, dtype=dtype), device)
            for operation in CHECKED:
                leaves = OPERATIONS[operation].leaves
                for solver in SOLVERS if operation == "sde" else (None,):
                    arm = ours(operation, "triton", solver, operation)
                    evaluate(arm.value, inputs.requiring(leaves), leaves)
    torch.cuda.synchronize(device)


if __name__ == "__main__":
    touch(sys.argv[1])
