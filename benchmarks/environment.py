"""What a measurement ran on, for the head of every result file."""

from __future__ import annotations

import json
import math
import platform
import re
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch

from bridges.storage.files import versions

RESULTS = Path(__file__).parent / "results"

FOLDER = "FOLDER"
"""In the place of a machine's path."""


def environment(*packages: str) -> dict[str, Any]:
    """Hardware, versions and the command line; with the versions of further packages."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    return {
        "command": command_line(),
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **({"driver": _driver(), "cuda": torch.version.cuda} if torch.cuda.is_available() else {}),
        "system": platform.system(),
        "versions": {**versions(), **{name: _version(name) for name in packages}},
    }


def to_json(record: Any) -> str:
    """The text of a result file; what is not finite becomes null, since JSON has no name for it."""
    return json.dumps(finite(record), indent=2) + "\n"


def finite(value: Any) -> Any:
    """The same with None for every number that is none."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def result_name(kind: str, device: torch.device | str, card: str | None = None) -> str:
    """The result file of a kind of measurement on a device: ``kernels_cpu.json``.

    Args:
        card: the device's name, where it is known; without it a CUDA device is asked.
    """
    if torch.device(device).type != "cuda":
        card = "cpu"
    name = torch.cuda.get_device_name(device) if card is None else card
    return f"{kind}_{re.sub('[^a-z0-9]+', '_', name.lower()).strip('_')}.json"


def command_line() -> str:
    """How this process was started, as a shell takes it; an absolute path is written as `FOLDER`."""
    script = Path(sys.argv[0])
    given = " ".join(shlex.quote(without_path(word)) for word in sys.argv[1:])
    if script.stem == "__main__" and script.resolve().parent.parent == Path(__file__).parent:
        return f"python -m benchmarks.{script.parent.name} {given}".strip()
    if script.resolve().parent == Path(__file__).parent:
        return f"python -m benchmarks.{script.stem} {given}".strip()
    name = script.parent.name if script.stem == "__main__" else script.stem
    return f"{name} {given}".strip()


def without_path(word: str) -> str:
    """A word of a command line, `FOLDER` in the place of an absolute path, also after ``--option=``."""
    option, equals, value = word.rpartition("=")
    kinds = (PurePosixPath, PureWindowsPath)
    return f"{option}{equals}{FOLDER}" if any(kind(value).is_absolute() for kind in kinds) else word


def commit() -> str | None:
    """The git commit of the code, "changed" after it where a tracked file is not that commit's.

    None where there is no repository, or no git to ask.
    """
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        at, changed = (
            subprocess.run(
                ["git", *words], cwd=root, capture_output=True, text=True, timeout=20, check=True
            )
            for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{at.stdout.strip()}{' changed' if changed.stdout.strip() else ''}"


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().partition("\n")[0] or None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
