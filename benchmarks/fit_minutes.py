"""What a fit by default loses and saves against one as long as it was: a step a batch, all targets.

    python -m benchmarks.fit_minutes --model ../shared/models/minilm-l6-mlm --text FILE...

Both are fitted in one process, one after the other, then asked on the same targets of rows that neither
was fitted on.
"""

from __future__ import annotations

import time
from typing import Any

import click
import torch

from benchmarks.environment import RESULTS, environment, to_json
from bridges import FitSettings, RunningCost
from bridges.fitting.text import FitText
from bridges.model.spec import encoder_of
from bridges.model.undisturbed import undisturbed
from bridges.storage.files import write_text
from pets.commands.options import ManyValues, read_lines
from pets.tuning.models import load_plm

LONG: dict[str, Any] = {"updates": 1, "dtype": "model"}
"""As fits were before: in causal rows every token after the cut was a target, too."""
EVERY = 0.99
_KEPT = 20  # of so many texts one is for the comparison


def fitted(
    plm: Any, tokenizer: Any, texts: list[str], **settings: Any
) -> tuple[RunningCost, dict[str, Any]]:
    """A cost, and the seconds and steps it took."""
    cost = RunningCost.for_model(plm, "brownian")
    began = time.perf_counter()
    result = cost.fit(plm, tokenizer, texts, **settings)
    seconds = time.perf_counter() - began
    return cost, {"seconds": seconds, "steps": result.steps, "held_out": result.held_out}


def asked(cost: RunningCost, text: FitText) -> float:
    """Mean cost of the targets of a text's held-out rows."""
    total, count = 0.0, 0
    with torch.no_grad(), undisturbed(text.encoder):
        for reading in text.held_out():
            values = cost.costs(reading.hidden_states, reading.targets, reading.attention_mask)
            total, count = total + float(values.sum()), count + len(values)
    return total / count


@click.command(cls=ManyValues)
@click.option("--model", required=True)
@click.option("--text", "texts", multiple=True, required=True, metavar="FILE...")
@click.option("--steps", default=FitSettings().max_steps, show_default=True, help="Of both at most.")
@click.option("--out", help="Name of the result file; none is written by default.")
def main(model: str, texts: tuple[str, ...], steps: int, out: str | None) -> None:
    """Print what both cost on the same held-out targets, and how long they took."""
    plm, tokenizer = load_plm(model)
    lines = [line for line in read_lines(texts) if line.strip()]
    kept = lines[::_KEPT]
    del lines[::_KEPT]
    first = RunningCost.for_model(plm, "brownian")
    every = {} if first.spec.reads == "same" and not first.spec.decodes else {"mask_share": EVERY}
    arms: dict[str, dict[str, Any]] = {"default": {}, "long": LONG | every}
    common = FitText(first.spec, encoder_of(plm), tokenizer, kept, FitSettings(dtype="model"))
    found = {"unfitted": {"cost": asked(first, common)}}
    for name, settings in arms.items():
        cost, record = fitted(plm, tokenizer, lines, steps=steps, **settings)
        value = asked(cost, common)
        found[name] = {"cost": value, **record}
        print(f"  {name:10} {value:.4f} in {record['seconds']:.0f} s, {record['steps']} steps")
    loss = found["default"]["cost"] / found["long"]["cost"] - 1
    ratio = found["long"]["seconds"] / found["default"]["seconds"]
    print(f"  by default {loss:+.1%} of the long fit's cost, {ratio:.1f} times as fast")
    if out:
        record = {"model": model.rsplit("/", 1)[-1], "steps": steps, "arms": found}
        write_text(RESULTS / out, to_json({"environment": environment(), "fit_minutes": record}))


if __name__ == "__main__":
    main()
