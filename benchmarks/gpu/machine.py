"""The card as nvidia-smi says it: read without a CUDA context, and nothing is set."""

from __future__ import annotations

import shutil
import subprocess
from functools import lru_cache

CLOCKS = (
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "clocks.max.mem",
    "power.draw",
    "power.limit",
    "temperature.gpu",
    "clocks_throttle_reasons.active",
    "persistence_mode",
)


def clocks() -> dict[str, str] | None:
    """The first card's clocks, power and temperature; None without nvidia-smi or an answer."""
    said = _asked(",".join(CLOCKS))
    return dict(zip(CLOCKS, said, strict=False)) if said else None


@lru_cache
def card() -> str:
    """The first card's name, "unknown" without an answer."""
    said = _asked("name")
    return said[0] if said else "unknown"


def _asked(query: str) -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [value.strip() for value in done.stdout.strip().split(",")]
