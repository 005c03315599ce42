"""What the readers of a running cost see of the label, layer by layer, and how long they take to fit.

    python -m benchmarks.reader --model ../shared/models/minilm-l6-mlm --data ../shared/data \
        --text FILE... --out reader_minilm.json

The published latent map and the lens, with end points of either kind, are fitted on the same text. For
each of them: the share of held-out end points that it explains (R2), and the AUC of telling a class from
the others by the reading along their end points, on test examples of three tasks. Beside them: the head
read at every layer (the logit lens), the head itself, and the lens that was adapted to a few labelled
examples, against a linear probe of the same examples. What is done is kept in the result file: the same
command goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from benchmarks.environment import RESULTS, environment, to_json
from benchmarks.natural import TEMPLATES, Asked, few_shot, head, look, one_against_rest
from bridges import RunningCost, Trajectory
from bridges.fitting.settings import LensSettings
from bridges.fitting.text import FitText
from bridges.model.spec import encoder_of
from bridges.storage.files import write_text
from pets.commands.options import ManyValues, read_lines

READERS = (("lens", "white"), ("lens", "pca"), ("mlp", "white"), ("mlp", "pca"))
BY_STEPS = {"batch_size": 8, "max_length": 48, "held_out": 64}
"""Of the published map's fit: more would take hours on a CPU with a language model of 30 layers."""
SHOTS, SPLITS = 16, 8
PROBES = (1e-3, 1e-1)
_TRAIN = 600


def fill(
    plm: Any,
    tokenizer: Any,
    texts: Sequence[str],
    tasks: Sequence[Asked],
    record: dict[str, Any],
    *,
    steps: int,
    splits: int,
    readers: Sequence[tuple[str, str]],
    keep: Any,
) -> None:
    """Fill in what a record lacks; ``keep`` is called after each part."""
    plain = RunningCost.for_model(plm, "brownian", map="mlp")
    seen = {asked.name: look(plm, asked, asked.test, plain) for asked in tasks}
    for asked in tasks:
        if asked.name not in record["head"]:
            path, logits = seen[asked.name]
            record["head"][asked.name] = {
                "auc": one_against_rest(logits, asked.test.labels),
                "by_layer": [
                    one_against_rest(_words(plm, asked, state), asked.test.labels)
                    for state in path.states
                ],
            }
            keep()
    for map_name, ends in readers:
        name = f"{map_name}, {ends}"
        if name in record["readers"]:
            continue
        cost = RunningCost.for_model(plm, "brownian", map=map_name, ends=ends)
        by_steps: dict[str, Any] = BY_STEPS | {"max_steps": steps, "eval_every": steps}
        options = {} if map_name == "lens" else by_steps
        started = time.perf_counter()
        cost.fit(plm, tokenizer, texts, **options)
        entry: dict[str, Any] = {
            "seconds": time.perf_counter() - started,
            "fit": cost.fit_record,
            "auc": {},
        }
        entry["r2"] = _explained(plm, cost, tokenizer, texts)
        for asked in tasks:
            path, _ = seen[asked.name]
            guesses = _guesses(cost, path)
            vectors = asked.ends(cost).vectors[:, 0]
            entry["auc"][asked.name] = [
                one_against_rest(guess @ vectors.T, asked.test.labels) for guess in guesses
            ]
        if (map_name, ends) == READERS[0]:
            for asked in tasks:
                record["adapted"][asked.name] = _adapted(plm, cost, asked, seen[asked.name][0], splits)
        record["readers"][name] = entry
        keep()


def _adapted(plm: Any, cost: RunningCost, asked: Asked, test: Trajectory, splits: int) -> dict[str, Any]:
    """Accuracy by layer of the adapted lens and of linear probes of the same examples, by split."""
    found: dict[str, Any] = {"shots": SHOTS, "reader": [], **{f"probe, C {c:g}": [] for c in PROBES}}
    labels, ends = asked.test.labels, asked.ends(cost)
    vectors = ends.vectors[:, 0]
    for split in range(splits):
        chosen = asked.train.part(few_shot(asked.train.labels, SHOTS, split))
        path, _ = look(plm, asked, chosen, cost)
        adapted = cost.adapted(path, chosen.labels, ends)
        with torch.no_grad():
            odds = adapted.latent_map(test) @ vectors.T - vectors.square().sum(1) / 2
        found["reader"].append((odds.argmax(-1) == labels).double().mean(1).tolist())
        for c in PROBES:
            pairs = zip(path.states, test.states, strict=True)
            found[f"probe, C {c:g}"].append([_probe(a, chosen.labels, b, labels, c) for a, b in pairs])
    return found


def _probe(states: Tensor, labels: Tensor, test: Tensor, answers: Tensor, c: float) -> float:
    """Accuracy of a logistic regression of standardised states."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
    probe.fit(states.float().numpy(), labels.numpy())
    return float(probe.score(test.float().numpy(), answers.numpy()))


def _guesses(cost: RunningCost, path: Trajectory) -> Tensor:
    """What a reader takes for the end point, [L+1, N, d]."""
    factor = cost.bridge.mean_factor(path.times())
    with torch.no_grad():
        return cost.latents(path).float() / factor[:, None, None].float()


def _explained(plm: Any, cost: RunningCost, tokenizer: Any, texts: Sequence[str]) -> list[float]:
    """The share of held-out end points' spread that the guesses explain, by layer."""
    text = FitText(
        cost.spec,
        encoder_of(plm),
        tokenizer,
        texts,
        LensSettings().for_model(cost.spec.hidden_size, head=False),
    )
    missed, ends = 0, []
    for reading in text.held_out():
        path, tokens = cost.trajectory(reading.hidden_states, reading.targets, reading.attention_mask)
        end = cost.end_points(tokens)
        missed = missed + (_guesses(cost, path) - end).double().square().sum((1, 2))
        ends.append(end.double())
    whole = torch.cat(ends)
    spread = (whole - whole.mean(0)).square().sum()
    shares: list[float] = (1 - missed / spread).tolist()
    return shares


def _words(plm: Any, asked: Asked, states: Tensor) -> Tensor:
    with torch.no_grad():
        return head(plm, states)[:, asked.words]


def load(model: str, dtype: str) -> tuple[Any, Any]:
    """A masked or a causal LM, frozen and in eval mode, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    auto = AutoModelForCausalLM if tokenizer.mask_token_id is None else AutoModelForMaskedLM
    plm = auto.from_pretrained(model, dtype=getattr(torch, dtype)).eval().requires_grad_(False)
    return plm, tokenizer


@click.command(cls=ManyValues)
@click.option("--model", required=True)
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Holds glue and ag_news.")
@click.option("--text", "texts", multiple=True, required=True, metavar="FILE...")
@click.option("--tasks", multiple=True, default=tuple(TEMPLATES), metavar="TASK...", show_default=True)
@click.option(
    "--readers",
    multiple=True,
    default=tuple(map("-".join, READERS)),
    metavar="MAP-ENDS...",
    show_default=True,
)
@click.option("--splits", default=SPLITS, show_default=True, help="Of labelled examples.")
@click.option("--test", default=1000, show_default=True, help="Test examples of a task at most.")
@click.option("--dtype", default="float32", show_default=True)
@click.option("--steps", default=300, show_default=True, help="Of the fit of the published map.")
@click.option("--out", required=True, help="Name of the result file.")
def main(
    model: str,
    data: Path,
    texts: tuple[str, ...],
    tasks: tuple[str, ...],
    readers: tuple[str, ...],
    splits: int,
    test: int,
    dtype: str,
    steps: int,
    out: str,
) -> None:
    """Fit and read, and write the table's numbers."""
    plm, tokenizer = load(model, dtype)
    path = RESULTS / out
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    record |= {"model": model.rsplit("/", 1)[-1], "dtype": dtype, "steps": steps}
    for part in ("head", "readers", "adapted"):
        record.setdefault(part, {})
    asked = [Asked(name, data, tokenizer, train=_TRAIN, test=test) for name in tasks]
    record["words"] = {a.name: list(a.template.words) for a in asked}
    record["examples"] = {a.name: len(a.test) for a in asked}

    def keep() -> None:
        write_text(path, to_json({"environment": environment(), "reader": record}))

    chosen = [(name.partition("-")[0], name.partition("-")[2]) for name in readers]
    options: dict[str, Any] = {"steps": steps, "splits": splits, "readers": chosen}
    fill(plm, tokenizer, read_lines(texts), asked, record, **options, keep=keep)
    keep()


if __name__ == "__main__":
    main()
