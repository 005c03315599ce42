"""A few-shot PET with and without a bridge on real GLUE files.

    bridge-pets fit --model M --bridge brownian --text FILE... --out costs/brownian
    bridge-pets fit --model M --bridge ou --text FILE... --out costs/ou
    python -m benchmarks.few_shot --model M --data GLUE --costs costs/brownian costs/ou

Every arm has the same splits, seeds and steps. Checkpoints are selected on examples from the train set;
the GLUE dev set is scored once a run. The run folders make it resumable: the same command goes on.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from benchmarks.environment import RESULTS, environment
from bridges import RunningCost
from bridges.storage import write_text
from pets import data as glue
from pets import tasks
from pets.cli_input import ManyValues
from pets.models import load_plm
from pets.statistics import markdown_table, paired, summarise
from pets.tune_settings import TuneSettings
from pets.tuning import tune


@click.command(cls=ManyValues)
@click.option("--model", required=True)
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option(
    "--costs", multiple=True, required=True, metavar="DIR...", help="Fitted costs, one an arm."
)
@click.option("--pet", default="lora", show_default=True, help="A name `pets.get` takes.")
@click.option("--tasks", "names", multiple=True, default=("sst2", "rte"), show_default=True)
@click.option("--seeds", multiple=True, type=int, default=(42, 43, 44, 45, 46), show_default=True)
@click.option("--weight", default=0.5, show_default=True)
@click.option("--shots", default=16, show_default=True)
@click.option("--steps", default=200, show_default=True)
@click.option("--batch-size", default=8, show_default=True)
@click.option("--lr", default=1e-3, show_default=True)
@click.option("--eval-every", default=25, show_default=True)
@click.option("--work", default=Path("runs"), type=click.Path(path_type=Path), show_default=True)
@click.option("--out", help="Name of the result file; none is written by default.")
def main(
    model: str,
    data: Path,
    costs: tuple[str, ...],
    pet: str,
    names: tuple[str, ...],
    seeds: tuple[int, ...],
    weight: float,
    shots: int,
    steps: int,
    batch_size: int,
    lr: float,
    eval_every: int,
    work: Path,
    out: str | None,
) -> None:
    """Compare the PET alone with the PET and each cost; print and keep the table."""
    plm, tokenizer = load_plm(model)
    arms: dict[str, RunningCost | None] = {"vanilla": None}
    for folder in costs:
        arms[Path(folder).name] = RunningCost.from_pretrained(folder)
    base = TuneSettings(
        pet=pet,
        weight=weight,
        shots=shots,
        max_steps=steps,
        batch_size=batch_size,
        learning_rate=lr,
        eval_every=eval_every,
    )
    record: dict[str, Any] = {
        "environment": environment(),
        "model": plm.config.name_or_path.rstrip("/").rsplit("/", 1)[-1],
        "settings": {k: v for k, v in dataclasses.asdict(base).items() if k != "seed"},
        "fits": {name: cost.fit_record for name, cost in arms.items() if cost is not None},
        "tasks": {},
    }
    for name in names:
        examples = glue.load(tasks.get(name), data)
        scores: dict[str, list[float]] = {arm: [] for arm in arms}
        runs = []
        for seed in seeds:
            for arm, cost in arms.items():
                settings = dataclasses.replace(base, seed=seed)
                result = tune(
                    plm, tokenizer, examples, settings, work / f"{name}-{arm}-{seed}", cost=cost
                )
                metric = result["metric"]
                scores[arm].append(result["reported"][metric])
                runs.append(
                    {
                        "arm": arm,
                        "seed": seed,
                        **{k: result[k] for k in ("reported", "dev", "best_step")},
                    }
                )
                click.echo(f"{name} {arm} seed {seed}: {metric} {scores[arm][-1]:.4f}")
        table = markdown_table(scores, "vanilla", metric)
        click.echo(f"\n{name}, {shots} shots, n = {len(seeds)}\n\n{table}\n")
        record["tasks"][name] = {
            "metric": metric,
            "runs": runs,
            "summary": {arm: dataclasses.asdict(summarise(values)) for arm, values in scores.items()},
            "difference_to_vanilla": {
                arm: dataclasses.asdict(paired(values, scores["vanilla"]))
                for arm, values in scores.items()
                if arm != "vanilla"
            },
            "table": table,
        }
    if out:
        write_text(RESULTS / out, json.dumps(record, indent=2) + "\n")
        click.echo(f"wrote {RESULTS / out}")


if __name__ == "__main__":
    main()
