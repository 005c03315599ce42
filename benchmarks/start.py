"""How long a start takes, beside torch's: ``python -m benchmarks.start``.

Each is a process of its own, in turn, so that all see the same machine; the times are medians.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import click
from tqdm import tqdm

STARTS = {
    "import torch": ["-c", "import torch"],
    "python alone": ["-c", "pass"],
    "import bridges": ["-c", "import bridges"],
    "import pets": ["-c", "import pets"],
    "bridge-pets --help": ["-m", "pets.cli", "--help"],
    "bridge-pets --version": ["-m", "pets.cli", "--version"],
}


@click.command()
@click.option("--rounds", default=7, show_default=True, help="Of each, after one that warms the disk.")
def main(rounds: int) -> None:
    """Print each start's seconds, and its ratio to `import torch` in the same rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in STARTS}
    for number in tqdm(range(rounds + 1), disable=None):
        for name, arguments in STARTS.items():
            taken = _seconds(arguments)
            if number:
                seconds[name].append(taken)
    torch = seconds["import torch"]
    for name, taken_by in seconds.items():
        ratio = statistics.median(own / of_torch for own, of_torch in zip(taken_by, torch, strict=True))
        click.echo(f"{name:22} {statistics.median(taken_by):7.3f} s  {ratio:6.3f} of import torch")


def _seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
