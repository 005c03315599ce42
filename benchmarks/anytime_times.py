"""How long a model that may be left early takes, against the same model run to its end, in one run.

    python -m benchmarks.anytime_times --model M --data ../shared/data --lens RUNS/lens --out F.json

Three ways to answer the same prompts in turns, round by round: the full model, its head evaluated at
the label alone; the model cut at a share of its layers; and the model whose rows leave when they are
sure. Told are quantiles of the rounds' ratios to the full model's time. A LoRA is on the model and not
merged; it is as new, for times alone. Checked first: that the cut model answers as the exit at its
layer, and that a row which stays to the end is answered as the full model does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from peft import get_peft_model
from torch import Tensor

import pets
from benchmarks.anytime_runs import shots_of
from benchmarks.environment import RESULTS, environment, to_json
from benchmarks.meter import measure, ratios
from benchmarks.natural import TEMPLATES, Asked
from benchmarks.reader import load
from bridges import RunningCost
from bridges.storage.files import write_text
from pets.anytime.places import Places
from pets.anytime.reading import evaluating, own_scores

_SHOTS = 16
_EXAMPLES = 32  # answered in a round, in one batch or one by one
_NEAR = {"float32": 1e-4, "bfloat16": 0.1}  # of probabilities


def check(anytime: Any, cut: Any, full: Tensor, inputs: dict[str, Tensor], near: float) -> None:
    """Whether what is timed is right.

    Raises:
        AssertionError: if not.
    """
    threshold, anytime.threshold = anytime.threshold, 1 - 1e-12
    torch.testing.assert_close(anytime(**inputs).probabilities, full, rtol=0, atol=near)
    anytime.threshold = 1e-12
    left = anytime(**inputs)
    assert (left.layers == cut.layer).all()
    torch.testing.assert_close(left.probabilities, cut(**inputs).probabilities, rtol=0, atol=near)
    anytime.threshold = threshold


@click.command()
@click.option("--model", required=True)
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Holds glue and ag_news.")
@click.option("--lens", required=True, type=click.Path(path_type=Path), help="Folder of a cost.")
@click.option("--task", default="sst2", show_default=True, type=click.Choice(list(TEMPLATES)))
@click.option(
    "--share", default=0.75, show_default=True, help="Of the layers, that the cut model keeps."
)
@click.option("--threshold", default=0.9, show_default=True)
@click.option("--rounds", default=15, show_default=True)
@click.option("--most", default=300.0, show_default=True, help="Seconds, of each size of batch.")
@click.option("--threads", default=2, show_default=True)
@click.option("--dtype", default="bfloat16", show_default=True)
@click.option("--out", required=True, help="Name of the result file.")
def main(
    model: str,
    data: Path,
    lens: Path,
    task: str,
    share: float,
    threshold: float,
    rounds: int,
    most: float,
    threads: int,
    dtype: str,
    out: str,
) -> None:
    """Time the three, at batches of 1 and 32."""
    torch.set_num_threads(threads)
    plm, tokenizer = load(model, dtype)
    asked = Asked(task, data, tokenizer, train=2000, test=_EXAMPLES)
    words = pets.Verbalizer.of_words(tokenizer, list(TEMPLATES[task].words))
    tuned: Any = get_peft_model(plm, pets.get("lora", model=plm, r=8)).eval()
    cost = RunningCost.from_pretrained(lens)
    train, more = shots_of(asked, _SHOTS, 1)
    part = asked.train.part([*train, *more])
    labelled = [asked.batch(part, which) for which in part.batches()]
    layer = round(share * cost.spec.num_layers)
    exiting = pets.AnytimeClassifier(tuned, cost, words, threshold).fit(labelled)
    at_one = pets.AnytimeClassifier(tuned, cost, words, layers=[layer]).fit(labelled)
    cut = pets.truncate(at_one, layer=layer)
    record: dict[str, Any] = {
        "model": model.rstrip("/").rsplit("/", 1)[-1],
        "dtype": dtype,
        "layer": layer,
        "layers": cost.spec.num_layers,
        "threshold": threshold,
        "tokens": sum(map(len, asked.test.ids)) / len(asked.test),
        "batches": {},
    }
    places = Places(tuned, cost.spec, words)

    def full(inputs: dict[str, Tensor]) -> Tensor:
        with evaluating(tuned):
            scores: Tensor = own_scores(tuned, places, inputs)[1]
        return scores.exp()

    ways = {
        "full": full,
        "cut": lambda inputs: cut(**inputs),
        "leaving": lambda inputs: exiting(**inputs),
    }
    for size in (1, _EXAMPLES):
        batches = [prompt(asked, list(range(k, k + size))) for k in range(0, _EXAMPLES, size)]
        check(at_one, cut, full(batches[0]), batches[0], _NEAR[dtype])
        calls = {name: functools.partial(_all, way, batches) for name, way in ways.items()}
        times = measure(calls, rounds, "cpu", seconds=most)
        left = torch.cat([exiting(**inputs).layers for inputs in batches]).double().mean()
        record["batches"][str(size)] = {
            "mean_layer": float(left),
            "milliseconds": times,
            **{f"full / {name}": ratios(times["full"], times[name]) for name in ("cut", "leaving")},
        }
        print(size, {k: v for k, v in record["batches"][str(size)].items() if k != "milliseconds"})
        write_text(RESULTS / out, to_json({"environment": environment(), "anytime_times": record}))


def prompt(asked: Asked, which: list[int]) -> dict[str, Tensor]:
    """Test prompts without an answer."""
    batch = asked.batch(asked.test, which)
    if asked.causal:  # the answer stands last in each row
        last = batch["attention_mask"].sum(1) - 1
        batch["attention_mask"][torch.arange(len(which)), last] = 0
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def _all(way: Callable[[dict[str, Tensor]], Any], batches: list[dict[str, Tensor]]) -> None:
    for inputs in batches:
        way(inputs)


if __name__ == "__main__":
    main()
