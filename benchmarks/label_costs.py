"""A first, small comparison of costs about the label on a language model, few labelled examples each.

    python -m benchmarks.label_costs --model M --data ../shared/data --text FILE... --costs DIR \
        --out label_costs.json

LoRA on the queries and values; cross-entropy over the task's words in every arm, and in every arm but
the first a running cost beside it, whose weight makes the norm of its gradient at the PET's parameters
``--ratio`` times that of cross-entropy before the first step (an adapted lens has the weight of the lens
that it was). Nothing is selected: the last step is
reported, on the same test examples for all. Also measured, before any step: the share of each gradient
that depends on the label. What is done is kept in the result file: the same command goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F

import pets
from benchmarks.environment import RESULTS, environment, to_json
from benchmarks.natural import TEMPLATES, Asked, few_shot, forward, look, one_against_rest
from benchmarks.reader import BY_STEPS, load
from bridges import RunningCost, fit_together
from bridges.fitting.refusals import has_lens
from bridges.seeds import generator
from bridges.storage.files import write_text
from pets.commands.options import ManyValues, read_lines
from pets.tuning.models import unload

VANILLA = "vanilla"
_ADAPTED = "adapted "
ARMS: dict[str, dict[str, Any] | None] = {
    VANILLA: None,
    "brownian, published": {"bridge": "brownian", "map": "mlp"},
    "brownian, lens": {"bridge": "brownian", "map": "lens"},
    "posterior, lens": {"bridge": "posterior", "map": "lens"},
    "posterior, adapted lens": None,
    "axis, lens": {"bridge": "axis", "map": "lens"},
    "axis, adapted lens": None,
    "posterior, random lens": {"bridge": "posterior", "map": "lens", "fit": False},
}
"""Their costs; none for an arm that has another's, adapted in each run."""
_SHARE_EXAMPLES = 32


class Comparison:
    """A model, a task, the costs, and how a PET is tuned.

    Args:
        plm, asked: the model and the task asked of it.
        costs: of `ARMS`, by name, all but the first.
        settings: "shots", "steps", "batch", "lr", "ratio".
    """

    def __init__(
        self, plm: Any, asked: Asked, costs: Mapping[str, RunningCost], settings: Mapping[str, Any]
    ) -> None:
        self.plm, self.asked, self.costs, self.settings = plm, asked, costs, settings
        self.reader = costs["brownian, lens"]

    def plain(self, arm: str) -> RunningCost | None:
        """The cost of an arm before it is adapted, which is another arm's too."""
        return self.costs.get(arm.replace(_ADAPTED, ""))

    def adapted(self, arm: str, model: nn.Module, train: Sequence[int]) -> RunningCost | None:
        """The cost of an arm; where it says so, adapted to training examples before any step."""
        cost = self.plain(arm)
        if cost is None or _ADAPTED not in arm:
            return cost
        part = self.asked.train.part(train)
        path, _ = look(model, self.asked, part, cost)
        return cost.adapted(path, part.labels, self.asked.ends(cost))

    def model(self, seed: int) -> nn.Module:
        """A fresh PET on the model."""
        torch.manual_seed(seed)
        model: nn.Module = get_peft_model(self.plm, pets.get("lora", model=self.plm, r=8))
        return model

    def terms(
        self, model: nn.Module, which: Sequence[int], cost: RunningCost | None, labels: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The task's loss and the running cost of some training examples that have these labels."""
        hidden, logits, batch = forward(model, self.asked, self.asked.train, which)
        task = F.cross_entropy(logits, labels)
        if cost is None:
            return task, None
        targets = torch.full_like(batch["labels"], -100)
        places = [self.asked.train.places[i] for i in which]
        targets[torch.arange(len(which)), places] = labels
        ends = self.asked.ends(cost)
        return task, cost(hidden, targets, batch["attention_mask"], labels=ends)

    def labels(self, which: Sequence[int]) -> Tensor:
        """Of training examples."""
        return self.asked.train.labels[list(which)]

    def weight(self, model: nn.Module, train: Sequence[int], cost: RunningCost) -> float:
        """What makes the ratio of gradient norms the one that is asked for, over all examples."""
        squares = []
        for k in (0, 1):
            total = [torch.zeros_like(p) for p in _trained(model)]
            for start in range(0, len(train), self.settings["batch"]):
                which = train[start : start + self.settings["batch"]]
                term = self.terms(model, which, cost, self.labels(which))[k]
                assert term is not None
                for mine, more in zip(total, _gradients(term, model), strict=True):
                    mine += more * len(which)
            squares.append(sum(float(g.double().square().sum()) for g in total))
        return float(self.settings["ratio"] * (squares[0] / squares[1]) ** 0.5)

    def label_share(self, arm: str, seed: int = 0) -> float:
        """The share of a batch's squared gradient that depends on its labels, before any step.

        Of 32 examples' mean cost, as it is trained on: the mean of the gradients with every label they
        might have is what labels have no part in, the rest what they have; the squares of the second
        over those of both. Where labels of two kinds pull parameters to and fro, they leave little.
        """
        model, classes = self.model(seed), len(self.asked.words)
        chosen = few_shot(self.asked.train.labels, _SHARE_EXAMPLES // classes, seed)
        cost = self.adapted(arm, model, chosen)

        def gradient(labels: Tensor) -> Tensor:
            task, running = self.terms(model, chosen, cost, labels)
            found = _gradients(task if running is None else running, model)
            return torch.cat([g.flatten() for g in found]).double()

        every = [gradient(torch.full((len(chosen),), c)) for c in range(classes)]
        without = torch.stack(every).mean(0)
        apart = float((gradient(self.labels(chosen)) - without).square().sum())
        unload(model)
        return apart / (apart + float(without.square().sum()))

    def run(self, arm: str, split: int) -> dict[str, Any]:
        """One PET, tuned and scored."""
        started = time.perf_counter()
        train = few_shot(self.asked.train.labels, self.settings["shots"], split)
        model = self.model(split)
        cost = self.adapted(arm, model, train)
        optimizer = torch.optim.AdamW(_trained(model), lr=self.settings["lr"], foreach=False)
        # An adapted reader has seen these labels: by itself it would have no gradient to speak of.
        plain = self.plain(arm)
        weight = 0.0 if plain is None else self.weight(model, train, plain)
        order: list[int] = []
        for step in range(self.settings["steps"]):
            if len(order) < self.settings["batch"]:
                order += torch.randperm(len(train), generator=generator(split, 1, step)).tolist()
            which = [train[order.pop(0)] for _ in range(self.settings["batch"])]
            task, running = self.terms(model, which, cost, self.labels(which))
            loss = task if running is None else task + weight * running
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        path, logits = look(model, self.asked, self.asked.test, self.reader)
        unload(model)
        labels = self.asked.test.labels
        vectors = self.asked.ends(self.reader).vectors[:, 0]
        with torch.no_grad():
            guesses = self.reader.latent_map(path)
        return {
            "arm": arm,
            "split": split,
            "weight": weight,
            "accuracy": float((logits.argmax(1) == labels).float().mean()),
            "auc": one_against_rest(logits, labels),
            "loss": float(F.cross_entropy(logits, labels)),
            "lens_auc": [one_against_rest(guess @ vectors.T, labels) for guess in guesses],
            "seconds": time.perf_counter() - started,
        }


def _trained(model: nn.Module) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


def _gradients(term: Tensor, model: nn.Module) -> list[Tensor]:
    found = torch.autograd.grad(term, _trained(model), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(_trained(model), found, strict=True)]


def fitted(
    plm: Any, tokenizer: Any, texts: Sequence[str], folder: Path, steps: int
) -> dict[str, RunningCost]:
    """The costs of the arms, from the folder where they are there."""
    costs: dict[str, RunningCost] = {}
    missing: dict[str, RunningCost] = {}
    for arm, options in ARMS.items():
        if options is None:
            continue
        where = _place(folder, arm)
        if where.exists():
            costs[arm] = RunningCost.from_pretrained(where)
            continue
        made = RunningCost.for_model(plm, **options)
        if made.options["fit"]:
            missing[arm] = made
        else:
            costs[arm] = made
    by_steps = {arm: cost for arm, cost in missing.items() if not has_lens(cost)}
    at_once = {arm: cost for arm, cost in missing.items() if arm not in by_steps}
    if by_steps:
        several = list(by_steps.values())
        settings: dict[str, Any] = BY_STEPS | {"max_steps": steps, "eval_every": steps}
        fit_together(several, plm, tokenizer, texts, **settings)
    if at_once:
        fit_together(list(at_once.values()), plm, tokenizer, texts)
    for arm, cost in missing.items():
        cost.save_pretrained(_place(folder, arm))
    return costs | missing


def _place(folder: Path, arm: str) -> Path:
    return folder / arm.replace(", ", "-").replace(" ", "-")


@click.command(cls=ManyValues)
@click.option("--model", required=True)
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Holds glue and ag_news.")
@click.option("--text", "texts", multiple=True, required=True, metavar="FILE...")
@click.option("--task", default="sst2", show_default=True, type=click.Choice(list(TEMPLATES)))
@click.option("--costs", required=True, type=click.Path(path_type=Path), help="Folder of the costs.")
@click.option("--shots", default=16, show_default=True, help="Examples of each class.")
@click.option("--splits", default=8, show_default=True)
@click.option("--steps", default=60, show_default=True)
@click.option("--batch", default=8, show_default=True)
@click.option("--lr", default=1e-3, show_default=True)
@click.option("--ratio", default=0.5, show_default=True, help="Of gradient norms, cost to task.")
@click.option("--test", default=300, show_default=True, help="Test examples.")
@click.option("--fit-steps", default=300, show_default=True, help="Of the published map.")
@click.option("--dtype", default="float32", show_default=True)
@click.option("--out", required=True, help="Name of the result file.")
def main(
    model: str,
    data: Path,
    texts: tuple[str, ...],
    task: str,
    costs: Path,
    splits: int,
    test: int,
    fit_steps: int,
    dtype: str,
    out: str,
    **settings: Any,
) -> None:
    """Tune every arm on every split, and write each run as it comes."""
    plm, tokenizer = load(model, dtype)
    path = RESULTS / out
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    record = record.get("label_costs", {"runs": [], "label_share": {}})
    shape = {"model": model.rsplit("/", 1)[-1], "task": task, "test": test, "dtype": dtype}
    record |= {**shape, "settings": settings, "fit_steps": fit_steps}
    made = fitted(plm, tokenizer, read_lines(texts), costs, fit_steps)
    asked = Asked(task, data, tokenizer, train=2000, test=test)
    comparison = Comparison(plm, asked, made, settings)

    def keep() -> None:
        write_text(path, to_json({"environment": environment(), "label_costs": record}))

    for arm in ARMS:
        if arm not in record["label_share"]:
            record["label_share"][arm] = comparison.label_share(arm)
            keep()
    done = {(run["arm"], run["split"]) for run in record["runs"]}
    for split in range(1, splits + 1):
        for arm in ARMS:
            if (arm, split) not in done:
                record["runs"].append(comparison.run(arm, split))
                print(arm, split, record["runs"][-1]["accuracy"], flush=True)
                keep()


if __name__ == "__main__":
    main()
