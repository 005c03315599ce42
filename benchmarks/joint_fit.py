"""What fitting costs together saves: the model reads the text once for all, not once for each.

    python -m benchmarks.joint_fit --model ../shared/models/minilm-l6-mlm --text FILE... \
        --bridges brownian ou sde alpha regression --out joint_fit_minilm.json

The two arms alternate in one process: all costs by `bridges.fit_together`, and each by a `fit` of its
own, one after another. They end at the same costs, or nothing is timed.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import click

from benchmarks.environment import RESULTS, environment, to_json
from benchmarks.meter import quantiles, ratios
from bridges import RunningCost, fit_together
from bridges.storage.files import write_text
from pets.commands.options import ManyValues, read_lines
from pets.tuning.models import load_plm

ALONE, TOGETHER = "one after another", "together"


class Workload:
    """Fits of a few steps on a model, all from the same start."""

    def __init__(self, model: str, bridges: tuple[str, ...], texts: list[str], **settings: int) -> None:
        self.plm, self.tokenizer = load_plm(model)
        self.bridges, self.texts = bridges, texts
        looks = {"eval_every": settings["max_steps"], "held_out": settings["batch_size"]}
        self.settings: dict[str, Any] = {**settings, **looks, "progress": False}

    def run(self, arm: str) -> tuple[float, list[str]]:
        """Seconds of the fits, and what came out."""
        costs = [RunningCost.for_model(self.plm, bridge) for bridge in self.bridges]
        start = time.perf_counter()
        if arm == TOGETHER:
            fit_together(costs, self.plm, self.tokenizer, self.texts, **self.settings)
        else:
            for cost in costs:
                cost.fit(self.plm, self.tokenizer, self.texts, **self.settings)
        return time.perf_counter() - start, [cost.digest() for cost in costs]


def measure(work: Workload, rounds: int) -> dict[str, Any]:
    """Seconds of each arm by round, after one to warm up, and the ratio within each round.

    Raises:
        AssertionError: if the arms end at different costs.
    """
    seconds: dict[str, list[float]] = {ALONE: [], TOGETHER: []}
    for k in range(1 + rounds):
        # Each comes first every other time, so neither profits from the other's warm caches.
        order = (ALONE, TOGETHER) if k % 2 else (TOGETHER, ALONE)
        runs = {arm: work.run(arm) for arm in order}
        assert runs[ALONE][1] == runs[TOGETHER][1], "fitted together the costs are not the same"
        if k:
            for arm, (taken, _) in runs.items():
                seconds[arm].append(taken)
    return {
        "seconds": {arm: quantiles(taken) for arm, taken in seconds.items()},
        "ratio": ratios(seconds[ALONE], seconds[TOGETHER]),
        "ratio_of_medians": statistics.median(seconds[ALONE]) / statistics.median(seconds[TOGETHER]),
    }


@click.command(cls=ManyValues)
@click.option("--model", required=True)
@click.option("--text", "texts", multiple=True, required=True, metavar="FILE...")
@click.option("--bridges", multiple=True, required=True, metavar="BRIDGE...")
@click.option("--batch", default=32, show_default=True)
@click.option("--length", default=64, show_default=True)
@click.option("--steps", default=20, show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--out", help="Name of the result file; none is written by default.")
def main(
    model: str,
    texts: tuple[str, ...],
    bridges: tuple[str, ...],
    batch: int,
    length: int,
    steps: int,
    rounds: int,
    out: str | None,
) -> None:
    """Print how much longer the fits take one after another."""
    settings = {"batch_size": batch, "max_length": length, "max_steps": steps}
    measured = measure(Workload(model, bridges, read_lines(texts), **settings), rounds)
    for arm, taken in measured["seconds"].items():
        print(f"  {arm:18} p50 {taken['p50']:8.2f} s")
    print(f"  one after another takes {measured['ratio_of_medians']:.2f} times as long")
    if out:
        shape = {"model": model.rsplit("/", 1)[-1], "bridges": list(bridges), "rounds": rounds}
        record = {"environment": environment(), "joint_fit": {**shape, **settings, **measured}}
        write_text(RESULTS / out, to_json(record))


if __name__ == "__main__":
    main()
