"""Tune arms on splits and keep what every layer's states were, for `benchmarks.anytime` to read.

    python -m benchmarks.anytime_runs --model M --data ../shared/data --text FILE... --task sst2 \
        --folder RUNS

LoRA on the queries and values, cross-entropy among the task's words in every arm, nothing selected: the
last step is kept. Of each run the states [L+1, N, H] at the label's position are written, and the
head's scores, of the labelled examples (K a class that it was tuned on, and K more) and of the same test
examples for all. A run whose file is there is not made again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from peft import get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

import bridges
import pets
from benchmarks.natural import TEMPLATES, Asked, few_shot, look
from benchmarks.reader import load
from bridges import RunningCost
from bridges.seeds import generator
from pets.anytime.cutting import cut
from pets.anytime.stack import Stack
from pets.commands.options import ManyValues, read_lines
from pets.plug.regularize import regularize
from pets.tasks.classifier import PromptClassifier
from pets.tuning.models import unload

VANILLA, EARLY_EXIT, TRUNCATED = "vanilla", "early-exit", "truncated"
COSTS = {
    "posterior": "posterior",
    "posterior-exit": "posterior:layers=exit,until=0.75",
    "posterior-flat": "posterior:layers=flat,since=0.5",
}
ARMS = (VANILLA, *COSTS, EARLY_EXIT, TRUNCATED)
"""Truncated: the model's first layers alone, tuned with its own head from the start."""
_EXIT_WEIGHT, _RATIO = 0.3, 0.5


def shots_of(asked: Asked, shots: int, split: int) -> tuple[list[int], list[int]]:
    """K examples of each class to tune on, and K more."""
    chosen = few_shot(asked.train.labels, 2 * shots, split)
    classes = [chosen[c : c + 2 * shots] for c in range(0, len(chosen), 2 * shots)]
    return [i for own in classes for i in own[:shots]], [i for own in classes for i in own[shots:]]


@contextlib.contextmanager
def tuned(
    plm: Any, asked: Asked, train: Sequence[int], split: int, what: Any, settings: dict[str, Any]
) -> Iterator[nn.Module]:
    """The model with a LoRA that has learned from some training examples."""
    torch.manual_seed(split)
    model: Any = get_peft_model(plm, pets.get("lora", model=plm, r=8))
    words = pets.Verbalizer.of_words(asked.tokenizer, list(asked.template.words))
    classifier = PromptClassifier(model, words, among_labels=True)
    handle = None if what is None else regularize(classifier, *what)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings["lr"], foreach=False)
    order: list[int] = []
    classifier.train()
    for step in range(settings["steps"]):
        if len(order) < settings["batch"]:
            order += torch.randperm(len(train), generator=generator(split, 1, step)).tolist()
        which = [train[order.pop(0)] for _ in range(settings["batch"])]
        batch = asked.batch(asked.train, which)
        batch["labels"] = labels_of(asked, batch["labels"])
        optimizer.zero_grad()
        classifier(**batch).loss.backward()
        optimizer.step()
    if handle is not None:
        handle.remove()
    classifier.remove()
    model.eval()
    try:
        yield model
    finally:
        unload(model)


def labels_of(asked: Asked, tokens: Tensor) -> Tensor:
    """Classes in the place of their words."""
    found = torch.full_like(tokens, -100)
    for label, word in enumerate(asked.words):
        found[tokens == word] = label
    return found


@click.command(cls=ManyValues)
@click.option("--model", required=True)
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Holds glue and ag_news.")
@click.option("--text", "texts", multiple=True, required=True, metavar="FILE...")
@click.option("--task", default="sst2", show_default=True, type=click.Choice(list(TEMPLATES)))
@click.option("--arms", multiple=True, default=ARMS, show_default=True)
@click.option("--layers", default=0, help="Of the truncated arm; 3/4 of them by default.")
@click.option("--shots", default=16, show_default=True, help="Examples of each class.")
@click.option("--splits", default=8, show_default=True)
@click.option("--steps", default=60, show_default=True)
@click.option("--batch", default=8, show_default=True)
@click.option("--lr", default=1e-3, show_default=True)
@click.option("--ratio", default=_RATIO, show_default=True, help="Of gradient norms, cost to task.")
@click.option("--test", default=300, show_default=True, help="Test examples.")
@click.option("--dtype", default="float32", show_default=True)
@click.option("--folder", required=True, type=click.Path(path_type=Path), help="Of the runs.")
def main(
    model: str,
    data: Path,
    texts: tuple[str, ...],
    task: str,
    arms: tuple[str, ...],
    layers: int,
    shots: int,
    splits: int,
    ratio: float,
    test: int,
    dtype: str,
    folder: Path,
    **settings: Any,
) -> None:
    """Make the runs that are not there."""
    plm, tokenizer = load(model, dtype)
    asked = Asked(task, data, tokenizer, train=2000, test=test)
    reader = lens(plm, tokenizer, texts, folder / "lens")
    here = folder / f"{task}-{shots}"
    here.mkdir(parents=True, exist_ok=True)
    depth = plm.config.num_hidden_layers
    kept_layers = layers or round(0.75 * depth)
    for split in range(1, splits + 1):
        train, more = shots_of(asked, shots, split)
        for arm in arms:
            name = f"{arm}-{kept_layers}" if arm == TRUNCATED else arm
            if arm in COSTS and ratio != _RATIO:
                name = f"{arm}~{ratio:g}"
            path = here / f"{name}.{split}.safetensors"
            if path.exists():
                continue
            started = time.perf_counter()
            what: Any = None
            if arm in COSTS:
                what = (of_bridge(reader, plm, COSTS[arm]), pets.Ratio(ratio))
            elif arm == EARLY_EXIT:
                what = (f"early-exit:weight={_EXIT_WEIGHT}",)
            base = cut(plm, Stack.of(plm), kept_layers, merge=False)[0] if arm == TRUNCATED else plm
            with tuned(base, asked, train, split, what, settings) as adapted:
                kept = states(adapted, asked, [*train, *more])
            save_file(kept, path)
            guessed = (kept["test_scores"].argmax(1) == kept["test_labels"]).float().mean()
            print(
                f"{task} {shots} {name} {split}: {float(guessed):.3f}, "
                f"{time.perf_counter() - started:.0f} s",
                flush=True,
            )


def lens(plm: Any, tokenizer: Any, texts: Sequence[str], folder: Path) -> RunningCost:
    """The lens of a model, from the folder where it is there."""
    if folder.exists():
        return RunningCost.from_pretrained(folder)
    cost = RunningCost.for_model(plm, "brownian", map="lens")
    cost.fit(plm, tokenizer, read_lines(tuple(texts)))
    cost.save_pretrained(folder)
    return cost


def of_bridge(reader: RunningCost, plm: Any, bridge: str) -> RunningCost:
    """A cost of another bridge through the same lens."""
    cost = RunningCost(reader.spec, bridges.parse(bridge), reader.latent_map, reader.end_points)
    cost.fit_record, cost.options = reader.fit_record, dict(reader.options)
    return cost


def states(model: Any, asked: Asked, labelled: Sequence[int]) -> dict[str, Tensor]:
    """What is kept of a run."""
    kept = {}
    parts = {"labelled": asked.train.part(labelled), "test": asked.test}
    reader = RunningCost.for_model(model, "brownian", map="lens", latent_dim=1, fit=False)
    for name, part in parts.items():
        path, scores = look(model, asked, part, reader)
        largest = path.states.abs().amax(-1, keepdim=True)  # beyond half precision in some models
        kept[f"{name}_states"] = (path.states / largest).half()
        kept[f"{name}_scales"] = largest.float()
        kept[f"{name}_scores"], kept[f"{name}_labels"] = scores, part.labels
    return kept


if __name__ == "__main__":
    main()
