"""Every bridge on a real model: how it fits, what it does for few-shot LoRA, what a step costs.

    python -m benchmarks.zoo --model M --data GLUE --text FILE... --out zoo_sst2.json

Each registered bridge and control is fitted on the same text with the same steps, tunes LoRA on the same
splits, and its steps are timed in turn with steps without a cost. Fits and runs are kept in the work
folder: the same command goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import click

import bridges
from benchmarks.environment import RESULTS, environment
from benchmarks.step_cost import Workload
from bridges import RunningCost
from bridges.storage import write_text
from bridges.text import max_positions
from pets import data as glue
from pets import tasks
from pets.cli_input import ManyValues, read_lines
from pets.models import load_plm
from pets.statistics import paired, summarise
from pets.tune_settings import TuneSettings
from pets.tuning import tune

VANILLA = "vanilla"


def fitted(
    name: str, plm: Any, tokenizer: Any, lines: list[str], folder: Path, steps: int
) -> RunningCost:
    """The bridge's cost, fitted once and kept."""
    if folder.exists():
        return RunningCost.from_pretrained(folder)
    cost = RunningCost.for_model(plm, name)
    if bridges.info(name).cls.fits:
        state = folder.with_name(folder.name + ".partial")
        cost.fit(plm, tokenizer, lines, folder=state, max_steps=steps, max_length=64)
        cost.save_pretrained(folder)
        shutil.rmtree(state)
    else:
        cost.save_pretrained(folder)
    return cost


def added_time(work: Workload, costs: dict[str, RunningCost], rounds: int) -> dict[str, float]:
    """Median over rounds of each arm's step over the step without a cost in the same round, minus 1."""
    ratios: dict[str, list[float]] = {name: [] for name in costs}
    names = list(costs)
    for k in range(rounds + 2):
        plain = work.step()
        for name in names[k % len(names) :] + names[: k % len(names)]:
            taken = work.step(costs[name])
            if k >= 2:
                ratios[name].append(taken / plain)
    return {name: statistics.median(found) - 1 for name, found in ratios.items()}


@click.command(cls=ManyValues)
@click.option("--model", required=True)
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--text", "texts", multiple=True, required=True, metavar="FILE...")
@click.option("--bridges", "names", multiple=True, metavar="NAME...", help="Default: all there are.")
@click.option("--task", default="sst2", show_default=True)
@click.option("--seeds", multiple=True, type=int, default=(42, 43, 44), show_default=True)
@click.option("--weight", default=0.5, show_default=True)
@click.option("--shots", default=16, show_default=True)
@click.option("--fit-steps", default=200, show_default=True)
@click.option("--steps", default=100, show_default=True)
@click.option("--batch-size", default=8, show_default=True)
@click.option("--lr", default=3e-4, show_default=True)
@click.option("--rounds", default=20, show_default=True, help="Timed steps of each arm.")
@click.option("--work", default=Path("runs/zoo"), type=click.Path(path_type=Path), show_default=True)
@click.option("--out", help="Name of the result file; none is written by default.")
def main(
    model: str,
    data: Path,
    texts: tuple[str, ...],
    names: tuple[str, ...],
    task: str,
    seeds: tuple[int, ...],
    weight: float,
    shots: int,
    fit_steps: int,
    steps: int,
    batch_size: int,
    lr: float,
    rounds: int,
    work: Path,
    out: str | None,
) -> None:
    """Fit and tune with every bridge; print and keep one table."""
    chosen = list(names) or bridges.available()
    for name in chosen:
        bridges.info(name)  # an unknown name is an error before anything runs
    lines = read_lines(texts)
    plm, tokenizer = load_plm(model)
    costs = {
        name: fitted(name, plm, tokenizer, lines, work / "costs" / name, fit_steps) for name in chosen
    }
    examples = glue.load(tasks.get(task), data)
    base = TuneSettings(
        weight=weight,
        shots=shots,
        max_steps=steps,
        batch_size=batch_size,
        learning_rate=lr,
        eval_every=25,
    )
    scores: dict[str, list[float]] = {}
    metric = tasks.get(task).metric
    for arm in (VANILLA, *chosen):
        scores[arm] = []
        for seed in seeds:
            settings = dataclasses.replace(base, seed=seed)
            folder = work / f"{task}-{arm}-{seed}"
            result = tune(plm, tokenizer, examples, settings, folder, cost=costs.get(arm))
            scores[arm].append(result["reported"][metric])
            click.echo(f"{arm} seed {seed}: {metric} {scores[arm][-1]:.4f}")
    length = min(64, max_positions(plm.config) or 64)
    extra = added_time(Workload(model, 16, length), costs, rounds)
    arms: dict[str, Any] = {}
    for arm, values in scores.items():
        fit = costs[arm].fit_record if arm in costs else None
        arms[arm] = {
            "scores": values,
            "summary": dataclasses.asdict(summarise(values)),
            "held_out": [value for _, value in fit["held_out"]] if fit else None,
        }
        if arm != VANILLA:
            arms[arm]["difference"] = dataclasses.asdict(paired(values, scores[VANILLA]))
            arms[arm]["added_step_time"] = extra[arm]
    record = {
        "environment": environment(),
        "model": plm.config.name_or_path.rstrip("/").rsplit("/", 1)[-1],
        "task": task,
        "metric": metric,
        "seeds": list(seeds),
        "fit_steps": fit_steps,
        "settings": {k: v for k, v in dataclasses.asdict(base).items() if k != "seed"},
        "zoo": arms,
    }
    click.echo(table(record))
    if out:
        write_text(RESULTS / out, json.dumps(record, indent=2) + "\n")
        click.echo(f"wrote {RESULTS / out}")


def table(record: dict[str, Any]) -> str:
    """Markdown: one line for each arm of a result."""
    lines = [
        f"| bridge | held-out cost, unfitted -> fitted | {record['metric']}: mean (sd, n) | difference "
        "to vanilla ± 95 % | added step time |",
        "| --- | --- | --- | --- | --- |",
    ]
    for arm, found in record["zoo"].items():
        held, summary, difference = found["held_out"], found["summary"], found.get("difference")
        fit = f"{held[0]:.3f} -> {min(held):.3f}" if held else "-"
        score = f"{summary['mean']:.3f} ({summary['deviation']:.3f}, {summary['count']})"
        versus = f"{difference['mean']:+.3f} ± {difference['interval']:.3f}" if difference else ""
        extra = f"{100 * found['added_step_time']:+.1f} %" if difference else ""
        lines.append(f"| {arm} | {fit} | {score} | {versus} | {extra} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
