"""What the running cost adds to a LoRA training step: time and peak memory, beside the vanilla step.

    python -m benchmarks.step_cost --model ../shared/models/minilm-l6-mlm

A masked LM is tuned on a word in each row, by `PromptClassifier`; a causal LM on the last tokens.

Time: vanilla and regularised steps alternate in one process, so both see the same machine; each arm has
a model of its own, plugged once, since the first steps after plugging are watched. Memory: each arm
runs in a process of its own that reports its peak resident size, and what torch's tensors were together
at the peak of a step, weights left out. Both are preceded by a check that the cost is right.
"""

from __future__ import annotations

import copy
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import click
import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

import pets
from benchmarks.environment import RESULTS, environment
from benchmarks.gpu.workloads import WORDS
from benchmarks.meter import peak_bytes
from bridges import GaussianBridge, RunningCost, SDEBridge
from bridges.latent.latent_map import Layers
from bridges.latent.trajectory import layer_times
from bridges.processes.sde import DriftNetwork, path_grid
from bridges.storage.files import write_text
from kernels import oracle
from pets.tasks.classifier import PromptClassifier
from pets.tuning.models import load_plm

WARM_UP = 3

ANSWER = 4
"""Tokens of an answer."""


def check(cost: RunningCost, hidden: tuple[Tensor, ...], labels: Tensor, mask: Tensor) -> None:
    """The timed cost equals the float64 oracle's, or nothing is timed."""
    is_target = labels != -100
    read, (rows, columns) = mask, is_target.nonzero(as_tuple=True)
    g, bridge, end = cost.latent_map, cost.bridge, cost.end_points(labels[rows, columns]).double()
    if cost.spec.causal:  # read at the token before, in the context before the answer
        columns, read = columns - 1, mask & (is_target.cumsum(1) == 0)
    states, context = oracle.pool_trajectory([h.double() for h in hidden], read, rows, columns)
    assert isinstance(g, Layers)
    inputs = states, context, rows
    stack = [w.double() for w in g.weights], [b.double() for b in g.biases]
    if isinstance(bridge, SDEBridge):
        assert isinstance(g, DriftNetwork)
        grid = path_grid(bridge.process, len(hidden), bridge.steps)
        noise = torch.randn(len(grid.decay), *end.shape, generator=torch.Generator().manual_seed(0))
        path_weight = g.path.weight.double()
        expected = oracle.sde_cost(*inputs, path_weight, *stack, end, noise.double(), grid)
    else:
        assert isinstance(bridge, GaussianBridge)
        mean, variance = bridge.marginal(layer_times(len(hidden)))
        zero = torch.zeros_like(mean)
        expected = oracle.bridge_nll(*inputs, *stack, end, zero, mean, 1 / variance)
    value = cost(hidden, labels, mask, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=0)


class Workload:
    """LoRA on a model, one batch of prompts, one optimiser step at a time.

    Attributes:
        plm: the model without LoRA, for a check and to make costs for.
        checkpointing: whether layers' values are computed once more in the backward pass.
        masked: whether it is a masked LM.
    """

    def __init__(self, name: str, batch: int, length: int, checkpointing: bool = False) -> None:
        plm, tokenizer = load_plm(name)
        self.plm, self.checkpointing = plm, checkpointing
        self.masked = tokenizer.mask_token_id is not None
        torch.manual_seed(0)
        ids = torch.randint(1000, plm.config.vocab_size, (batch, length))
        labels = torch.full_like(ids, -100)
        if self.masked:
            ids[:, 1] = tokenizer.mask_token_id
            labels[:, 1] = torch.randint(len(WORDS), (batch,))
        else:
            labels[:, -ANSWER:] = ids[:, -ANSWER:]
        self.inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    def check(self, cost: RunningCost) -> None:
        ids, labels = self.inputs["input_ids"], self.inputs["labels"]
        with torch.no_grad():
            encoder: nn.Module = self.plm.base_model
            hidden = encoder(input_ids=ids, output_hidden_states=True).hidden_states
            check(cost, hidden, labels, torch.ones_like(ids, dtype=torch.bool))


class Arm:
    """LoRA on the workload's model and its optimiser, plugged once.

    Args:
        plm: the model, or a copy of it.
        cost: None for the vanilla arm.
    """

    def __init__(self, work: Workload, plm: PreTrainedModel, cost: RunningCost | None) -> None:
        torch.manual_seed(0)
        model = get_peft_model(plm, pets.get("lora"))
        self.inputs = work.inputs
        if work.checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model: nn.Module = PromptClassifier(model, WORDS) if work.masked else model
        self.model.train()
        self.optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        self.plug = pets.regularize(self.model, cost, 0.5) if cost else None

    def step(self) -> float:
        """One optimiser step; the seconds that it took."""
        start = time.perf_counter()
        loss = self.model(**self.inputs).loss
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return time.perf_counter() - start


def measure_time(work: Workload, cost: RunningCost, steps: int) -> dict[str, Any]:
    """Alternating steps; quantiles of each arm and of the paired ratio."""
    steps_of = {
        "vanilla": Arm(work, copy.deepcopy(work.plm), None).step,
        "regularised": Arm(work, copy.deepcopy(work.plm), cost).step,
    }
    arms: dict[str, list[float]] = {name: [] for name in steps_of}
    for k in range(WARM_UP + steps):
        # Each comes first every other time, so neither profits from the other's warm caches.
        order = ("vanilla", "regularised") if k % 2 else ("regularised", "vanilla")
        for arm in order:
            taken = steps_of[arm]()
            if k >= WARM_UP:
                arms[arm].append(taken)
    ratios = [b / a for a, b in zip(arms["vanilla"], arms["regularised"], strict=True)]
    return {
        "steps": steps,
        "milliseconds": {
            arm: dict(zip(("p20", "p50", "p80"), _quantiles(times, 1e3), strict=True))
            for arm, times in arms.items()
        },
        "ratio": dict(zip(("p20", "p50", "p80"), _quantiles(ratios, 1), strict=True)),
        "ratio_of_medians": statistics.median(arms["regularised"]) / statistics.median(arms["vanilla"]),
    }


def _quantiles(values: list[float], scale: float) -> list[float]:
    table = torch.tensor(values, dtype=torch.float64) * scale
    return [
        round(float(x), 4) for x in table.quantile(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64))
    ]


def peak_mebibytes(options: list[str]) -> tuple[float, float]:
    """Of a process that runs three steps: its peak resident size, and that of a step's tensors."""
    command = [sys.executable, "-m", "benchmarks.step_cost", *options, "--peak"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    resident, tensors = map(float, done.stdout.strip().splitlines()[-1].split())
    return resident, tensors


@click.command()
@click.option("--model", required=True)
@click.option("--bridge", default="brownian", show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--length", default=128, show_default=True)
@click.option("--steps", default=30, show_default=True)
@click.option("--checkpointing", is_flag=True, help="Gradient checkpointing.")
@click.option("--out", help="Name of the result file; none is written by default.")
@click.option("--peak", is_flag=True, hidden=True, help="Worker: print this process's peak memory.")
@click.option("--cost", hidden=True, help="Worker: a saved cost to regularise with.")
def main(
    model: str,
    bridge: str,
    batch: int,
    length: int,
    steps: int,
    checkpointing: bool,
    out: str | None,
    peak: bool,
    cost: str | None,
) -> None:
    """Print the added time and peak memory of the running cost."""
    work = Workload(model, batch, length, checkpointing)
    if peak:
        loaded = RunningCost.from_pretrained(cost) if cost else None
        stepped = Arm(work, work.plm, loaded)
        for _ in range(3):
            stepped.step()
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(resident, peak_bytes(stepped.step, "cpu") / 2**20)
        return
    fresh = RunningCost.for_model(work.plm, bridge)
    work.check(fresh)
    options = ["--model", model, "--batch", str(batch), "--length", str(length)]
    options += ["--checkpointing"] if checkpointing else []
    memory, tensors = {}, {}
    memory["vanilla"], tensors["vanilla"] = peak_mebibytes(options)
    with tempfile.TemporaryDirectory() as folder:
        fresh.save_pretrained(f"{folder}/cost")
        found = peak_mebibytes([*options, "--cost", f"{folder}/cost"])
        memory["regularised"], tensors["regularised"] = found
    timing = measure_time(work, fresh, steps)
    added, of_tensors = (m["regularised"] / m["vanilla"] - 1 for m in (memory, tensors))
    times = timing["milliseconds"]
    print(f"LoRA step, {model.rsplit('/', 1)[-1]}, {bridge}, batch {batch} x {length}")
    for arm in memory:
        print(
            f"  {arm:12} p50 {times[arm]['p50']:8.1f} ms   peak memory {memory[arm]:7.0f} MiB, "
            f"of tensors {tensors[arm]:7.0f}"
        )
    slower = timing["ratio_of_medians"] - 1
    print(
        f"  added        {100 * slower:+7.1f} %               {100 * added:+7.1f} %               "
        f"{100 * of_tensors:+7.1f} %"
    )
    if out:
        shape = {"model": model.rsplit("/", 1)[-1], "bridge": bridge, "batch": batch, "length": length}
        measured = {"time": timing, "peak_mebibytes": memory, "tensors_mebibytes": tensors}
        record = {"environment": environment(), **shape, "checkpointing": checkpointing, **measured}
        write_text(RESULTS / out, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
