"""How hard every running cost and regularizer pulls at weight 1, beside the task.

    python -m benchmarks.gradient_ratios --model ../shared/models/minilm-l6-mlm --task sst2 \
        --data ../shared/data/glue --text FILE... --out gradient_ratios_minilm.json

The norm of its gradient at the PET's parameters over that of the task's loss, both means over the same
64 training examples, with fresh PETs on as many splits as there are seeds. Costs are fitted on the text
with the published map, the same on normalised states and the lens, and every bridge is also measured
through a random map. At its first parameters a LoRA has the frozen model's states: ``--steps`` of the
task's loss alone come before, without which an anchor has no gradient. What is done is kept in the
result file: the same command goes on.
"""

from __future__ import annotations

import inspect
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch

import bridges
from benchmarks.environment import RESULTS, environment, to_json
from bridges import BadInput, RunningCost, fit_together
from bridges.storage.files import write_text
from pets import regularizers, tasks
from pets.commands.options import ManyValues, read_lines
from pets.tasks.base import TaskData
from pets.tuning.models import HowLoaded, load_plm
from pets.tuning.preparing import prepared
from pets.tuning.ratio import weight_of
from pets.tuning.settings import TuneSettings

EXAMPLES = 64
_BATCH = 16
MAPS: dict[str, dict[str, Any]] = {
    "mlp": {"map": "mlp"},
    "mlp, normalised": {"map": "mlp", "normalise": True},
    "lens": {"map": "lens"},
}


def made(plm: Any, maps: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, RunningCost]]:
    """Every bridge and control through every map that it can be read with, not fitted yet."""
    takes = inspect.signature(RunningCost.for_model).parameters
    variadic = any(p.kind == inspect.Parameter.VAR_KEYWORD for p in takes.values())
    for bridge in bridges.available():
        for name, options in maps.items():
            if not (variadic or options.keys() <= takes.keys()):
                continue  # no such option in this version
            with torch.random.fork_rng():
                torch.manual_seed(0)
                try:
                    cost = RunningCost.for_model(plm, bridge, **options)
                except BadInput:  # one that this map cannot read for
                    continue
            yield f"{bridge}, {name}", cost


def ratios(
    plm: Any,
    tokenizer: Any,
    data: TaskData,
    arms: Mapping[str, Any],
    settings: TuneSettings,
    *,
    steps: int,
) -> dict[str, float | str]:
    """Of one PET: by arm the ratio at weight 1, or why there is none."""
    found: dict[str, float | str] = {}
    with prepared(plm, tokenizer, data, settings) as loop:
        rows, classifier = loop.rows["train"][:EXAMPLES], loop.classifier
        for step in range(steps):
            first = step * _BATCH % len(rows)
            batch = classifier.on_device(classifier.collate(rows[first : first + _BATCH]))
            classifier(**batch).loss.backward()
            loop.optimizer.step()
            loop.optimizer.zero_grad()
        for name, arm in arms.items():
            torch.manual_seed(settings.run_seed)
            try:
                found[name] = 1 / weight_of(1.0, classifier, arm, rows, loop.parameters)
            except BadInput as error:
                found[name] = str(error)
    return found


def summary(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each arm: mean, deviation and count of its ratios over the seeds."""
    rows = []
    for name in sorted({name for seed in record["seeds"].values() for name in seed}):
        values = [seed[name] for seed in record["seeds"].values() if name in seed]
        numbers = [v for v in values if isinstance(v, float)]
        row: dict[str, Any] = {"arm": name, "count": len(numbers)}
        if numbers:
            row["mean"] = statistics.fmean(numbers)
            row["deviation"] = statistics.stdev(numbers) if len(numbers) > 1 else None
        row["refused"] = next((v for v in values if isinstance(v, str)), None)
        rows.append(row)
    return rows


def fill(
    plm: Any, tokenizer: Any, data: TaskData, texts: Sequence[str], record: dict[str, Any], keep: Any
) -> None:
    """Measure what a record lacks; ``keep`` is called after each seed."""
    given = record["settings"]
    fitted = dict(made(plm, MAPS))
    arms: dict[str, Any] = dict(made(plm, {"random map": {"map": "mlp", "fit": False}}))
    by_steps = {k: c for k, c in fitted.items() if c.bridge.fits and not k.endswith("lens")}
    by_lens = {k: c for k, c in fitted.items() if c.bridge.fits and k.endswith("lens")}
    if by_steps:
        fit_together(list(by_steps.values()), plm, tokenizer, texts, max_steps=given["fit_steps"])
    if by_lens:
        fit_together(list(by_lens.values()), plm, tokenizer, texts)
    arms |= fitted
    for name in regularizers.available():
        objective = regularizers.get(name, weight=regularizers.strengths(name, 1)[0])
        if objective.has_term:  # whose gradient is measured, whatever the weight
            arms[name] = objective
    shots = -(-EXAMPLES // len(data.task.strata))
    for seed in given["seeds"]:
        if str(seed) in record["seeds"]:
            continue
        settings = TuneSettings(pet=given["pet"], shots=shots, seed=seed)
        steps = given["steps"]
        record["seeds"][str(seed)] = ratios(plm, tokenizer, data, arms, settings, steps=steps)
        record["table"] = summary(record)
        keep()


@click.command(cls=ManyValues)
@click.option("--model", required=True)
@click.option("--task", "task_name", required=True)
@click.option("--data", help="As in bridge-pets tune.")
@click.option("--text", multiple=True, required=True, metavar="FILE...")
@click.option("--pet", default="lora", show_default=True)
@click.option("--seeds", multiple=True, type=int, default=(42, 43, 44), show_default=True)
@click.option("--fit-steps", default=500, show_default=True)
@click.option("--steps", default=0, show_default=True, help="Of the task's loss alone, beforehand.")
@click.option("--dtype", default="float32", show_default=True)
@click.option("--out", default="gradient_ratios.json", show_default=True)
def main(
    model: str,
    task_name: str,
    data: str | None,
    text: tuple[str, ...],
    pet: str,
    seeds: tuple[int, ...],
    fit_steps: int,
    steps: int,
    dtype: str,
    out: str,
) -> None:
    """Write the table of gradient ratios, and print it."""
    path = RESULTS / out
    plm, tokenizer = load_plm(model, HowLoaded(dtype))
    given = {"pet": pet, "seeds": list(seeds), "fit_steps": fit_steps, "steps": steps, "dtype": dtype}
    settings = {"model": Path(model).name, "task": task_name, "examples": EXAMPLES, **given}
    record = json.loads(path.read_text()) if path.exists() else {}
    if record.get("settings") != settings:
        record = {"environment": environment(), "settings": settings, "seeds": {}, "table": []}

    def keep() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, to_json(record))

    fill(plm, tokenizer, tasks.parse(task_name).load(data), read_lines(text), record, keep)
    for row in record["table"]:
        shown = f"{row['mean']:.3g}" if "mean" in row else row["refused"]
        spread = f" ± {row['deviation']:.2g}" if row.get("deviation") is not None else ""
        click.echo(f"{row['arm']:32} {shown}{spread} ({row['count']})")


if __name__ == "__main__":
    main()
