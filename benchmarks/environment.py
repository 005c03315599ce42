"""What a measurement ran on, for the head of every result file."""

from __future__ import annotations

import json
import math
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bridges.storage.files import versions

RESULTS = Path(__file__).parent / "results"


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
    """How this process was started."""
    script = Path(sys.argv[0])
    if script.stem == "__main__" and script.resolve().parent.parent == Path(__file__).parent:
        return " ".join(["python", "-m", f"benchmarks.{script.parent.name}", *sys.argv[1:]])
    if script.resolve().parent == Path(__file__).parent:
        return " ".join(["python", "-m", f"benchmarks.{script.stem}", *sys.argv[1:]])
    name = script.parent.name if script.stem == "__main__" else script.stem
    return " ".join([name, *sys.argv[1:]])


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
