"""Few-shot generation with a causal LM: LoRA with and without a cost on every token of the answer.

    bridge-pets fit --model M --bridge brownian --text FILE... --out costs/brownian
    python -m benchmarks.generation --model M --costs costs/brownian --out generation.json

A made-up task with many different answers of several tokens: two children have a thing each, and the
answer says what one of them has. Nothing is selected; 200 other stories are reported on, where greedy
generation has to say the answer word for word. Every arm has the same stories, seeds and steps.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import click
import torch
from peft import get_peft_model
from torch import Tensor

import pets
from benchmarks.environment import RESULTS, environment
from bridges import RunningCost
from bridges.seeds import generator
from bridges.storage.files import write_text
from pets.commands.options import ManyValues
from pets.study.statistics.intervals import markdown_table, paired, summarise
from pets.tuning.models import load_plm, unload

NAMES = ("Tom", "Lily", "Ben", "Mia", "Sam", "Anna", "Max", "Sue")
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "pink", "brown")
THINGS = ("ball", "car", "hat", "cup", "book", "box", "toy", "boat", "bag", "coat")
REPORTED = 200
IGNORED = -100

Story = tuple[str, str]


def stories(count: int, seed: int) -> list[Story]:
    """Pairs of a text and its answer, in which all but the answer's two words may repeat."""
    rng = generator(seed)

    def draw(words: tuple[str, ...]) -> tuple[str, str]:
        first, second = torch.randperm(len(words), generator=rng)[:2].tolist()
        return words[first], words[second]

    pairs = []
    for _ in range(count):
        names, colours, things = draw(NAMES), draw(COLOURS), draw(THINGS)
        who = int(torch.randint(2, (), generator=rng))
        has = [f"{n} has a {c} {t}." for n, c, t in zip(names, colours, things, strict=True)]
        pairs.append((f"{' '.join(has)} {names[who]} has a", f" {colours[who]} {things[who]}."))
    return pairs


def encode(tokenizer: Any, chosen: list[Story]) -> dict[str, Tensor]:
    """Padded on the right; only the answers are targets."""
    pairs = []
    for text, answer in chosen:
        start = tokenizer(text)["input_ids"]
        pairs.append((start, tokenizer(text + answer)["input_ids"][len(start) :]))
    width = max(len(a) + len(b) for a, b in pairs)
    ids = torch.zeros(len(pairs), width, dtype=torch.int64)
    labels = torch.full_like(ids, IGNORED)
    mask = torch.zeros_like(ids)
    for k, (start, answer) in enumerate(pairs):
        whole = start + answer
        ids[k, : len(whole)] = torch.tensor(whole)
        labels[k, len(start) : len(whole)] = torch.tensor(answer)
        mask[k, : len(whole)] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def exact_match(model: Any, tokenizer: Any, chosen: list[Story]) -> float:
    """Share of stories whose answer greedy decoding says, word for word."""
    right = 0
    for text, answer in chosen:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=12,
                do_sample=False,
                pad_token_id=0,
            )
        said = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        right += said.partition(".")[0].split() == answer.partition(".")[0].split()
    return right / len(chosen)


def run(
    plm: Any, tokenizer: Any, cost: RunningCost | None, seed: int, settings: dict[str, Any]
) -> dict[str, float]:
    """One run of one arm."""
    torch.manual_seed(seed)
    train = stories(settings["shots"], seed)
    model = get_peft_model(plm, pets.get("lora", model=plm))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=settings["lr"])
    handle = pets.regularize(model, cost, settings["weight"]) if cost else None
    value = float("nan")
    model.train()
    order: list[int] = []
    for step in range(settings["steps"]):
        if len(order) < settings["batch_size"]:
            order = torch.randperm(len(train), generator=generator(seed, 1, step)).tolist()
        chosen = [train[order.pop()] for _ in range(settings["batch_size"])]
        output = model(**encode(tokenizer, chosen))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        value = float(output.running_cost) if cost else value
    if handle:
        handle.remove()
    model.eval()
    score = exact_match(model, tokenizer, stories(REPORTED, -1))
    unload(model)
    return {"exact_match": score, "last_running_cost": value}


@click.command(cls=ManyValues)
@click.option("--model", required=True)
@click.option("--costs", multiple=True, required=True, metavar="DIR...")
@click.option("--seeds", multiple=True, type=int, default=(42, 43, 44, 45, 46), show_default=True)
@click.option("--weight", default=0.5, show_default=True)
@click.option("--shots", default=64, show_default=True, help="Stories to train on.")
@click.option("--steps", default=300, show_default=True)
@click.option("--batch-size", default=16, show_default=True)
@click.option("--lr", default=1e-2, show_default=True)
@click.option("--out", help="Name of the result file; none is written by default.")
def main(
    model: str,
    costs: tuple[str, ...],
    seeds: tuple[int, ...],
    weight: float,
    shots: int,
    steps: int,
    batch_size: int,
    lr: float,
    out: str | None,
) -> None:
    """Compare LoRA alone with LoRA and each cost; print and keep the table."""
    plm, tokenizer = load_plm(model)
    settings = {"weight": weight, "shots": shots, "steps": steps, "batch_size": batch_size, "lr": lr}
    arms = {"vanilla": None, **{Path(c).name: RunningCost.from_pretrained(c) for c in costs}}
    scores: dict[str, list[float]] = {arm: [] for arm in arms}
    runs = []
    frozen = exact_match(plm.eval(), tokenizer, stories(REPORTED, -1))
    click.echo(f"frozen model: exact match {frozen:.3f}")
    for seed, (arm, cost) in itertools.product(seeds, arms.items()):
        result = run(plm, tokenizer, cost, seed, settings)
        scores[arm].append(result["exact_match"])
        runs.append({"arm": arm, "seed": seed, **result})
        click.echo(f"{arm} seed {seed}: exact match {result['exact_match']:.3f}")
    table = markdown_table(scores, "vanilla", "exact match")
    click.echo(table)
    if out:
        record = {
            "environment": environment(),
            "model": plm.config.name_or_path.rstrip("/").rsplit("/", 1)[-1],
            "generation": {
                "settings": settings,
                "frozen": frozen,
                "runs": runs,
                "summary": {arm: dataclasses.asdict(summarise(v)) for arm, v in scores.items()},
                "difference_to_vanilla": {
                    arm: dataclasses.asdict(paired(v, scores["vanilla"]))
                    for arm, v in scores.items()
                    if arm != "vanilla"
                },
                "table": table,
            },
            "fits": {arm: cost.fit_record for arm, cost in arms.items() if cost is not None},
        }
        write_text(RESULTS / out, json.dumps(record, indent=2) + "\n")
        click.echo(f"wrote {RESULTS / out}")


if __name__ == "__main__":
    main()
