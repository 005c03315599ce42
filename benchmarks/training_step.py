"""What the running cost adds to a LoRA step of a BERT with random weights: time and memory.

The model is as large as the shape says and nothing is downloaded; the head runs at the targets alone, as
in `pets.tuning.tune`. Steps alternate between the arms.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

import pets
from benchmarks.guard import relative_rms
from benchmarks.meter import measure, peak_bytes, quantiles, ratios
from benchmarks.shapes import Shape
from bridges import GaussianBridge, RunningCost
from bridges.latent.latent_map import Layers
from bridges.latent.trajectory import layer_times
from bridges.processes.sde import DriftNetwork, SDEBridge, path_grid
from kernels import oracle
from pets.tasks.classifier import PromptClassifier
from pets.tasks.verbalizer import Verbalizer

MEBIBYTE = 2**20

COSTS = ("brownian", "sde")

WORDS = Verbalizer(("a", "b"), (("a",), ("b",)), (((10,),), ((11,),)))
"""Labels for models whose vocabulary means nothing."""

HEAD_WIDTH = 64
"""Of an attention head, as in every BERT."""

CHECKED = 4
"""Sequences whose cost is compared with the oracle's."""


class Workload:
    """LoRA on query and value, a batch with one [MASK] a sequence, one optimiser step at a time."""

    def __init__(self, shape: Shape, device: torch.device | str, *, vocabulary: int) -> None:
        self.shape, self.device = shape, torch.device(device)
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=vocabulary,
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=max(shape.hidden // HEAD_WIDTH, 1),
            intermediate_size=4 * shape.hidden,
            max_position_embeddings=max(shape.length, 64),
        )
        self.plm = BertForMaskedLM(config).to(self.device, shape.dtype)
        self.costs = {name: RunningCost.for_model(self.plm, name, widths=shape.widths) for name in COSTS}
        model = get_peft_model(self.plm, pets.get("lora"))
        self.classifier = PromptClassifier(model, WORDS).train()
        self.inputs = {k: v.to(self.device) for k, v in _batch(shape, vocabulary).items()}
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def step(self) -> None:
        """Forward, backward, update."""
        loss = self.classifier(**self.inputs).loss
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def plugged(self, arm: str) -> AbstractContextManager[Any]:
        """The classifier with the arm's cost in its loss."""
        if arm in self.costs:
            return pets.regularize(self.classifier, self.costs[arm], 0.5)
        return contextlib.nullcontext()

    def check(self) -> dict[str, float]:
        """Relative errors of the costs of this model's own hidden states.

        Raises:
            AssertionError: if one is not the float64 oracle's.
        """
        few = {k: v[:CHECKED] for k, v in self.inputs.items()}
        ids, mask = few["input_ids"], few["attention_mask"]
        with torch.no_grad():
            hidden = self.plm.base_model(ids, mask, output_hidden_states=True).hidden_states
        errors = {}
        bound = 1e-4 if self.shape.dtype == torch.float32 else torch.finfo(self.shape.dtype).eps
        for name, cost in self.costs.items():
            value, true = _cost_and_truth(cost, hidden, few["labels"], mask)
            errors[name] = error = relative_rms(value, true)
            if not error <= bound:
                raise AssertionError(f"the {name} cost is off by {error:.1e}, allowed {bound:.1e}")
        return errors

    def measure(self, rounds: int, seconds: float) -> dict[str, Any]:
        """Quantiles of the step's time and of its ratio to the vanilla step; peak memory."""
        arms = dict.fromkeys(("vanilla", *COSTS), self.step)
        times = measure(arms, rounds, self.device, seconds=seconds, around=self.plugged)
        resident = self._resident()
        peaks = {}
        for arm in arms:
            with self.plugged(arm):
                peaks[arm] = (resident + peak_bytes(self.step, self.device)) / MEBIBYTE
        return {
            arm: {
                "rounds": len(times[arm]),
                "milliseconds": quantiles(times[arm]),
                "ratio": ratios(times[arm], times["vanilla"]),
                "peak_mebibytes": round(peaks[arm], 3),
                "added_memory_percent": round(100 * (peaks[arm] / peaks["vanilla"] - 1), 3),
            }
            for arm in arms
        }

    def _resident(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return sum(p.nbytes for p in self.classifier.parameters())


def _batch(shape: Shape, vocabulary: int) -> dict[str, Tensor]:
    """Token ids, mask with some padding and labels [B, S], a label at position 1 of each sequence."""
    lengths = torch.randint(int(0.6 * shape.length), shape.length + 1, (shape.batch,))
    lengths[0] = shape.length
    mask = (torch.arange(shape.length) < lengths[:, None]).long()
    ids = torch.randint(20, vocabulary, (shape.batch, shape.length)) * mask
    ids[:, 1] = 4
    labels = torch.full_like(ids, -100)
    labels[:, 1] = torch.randint(len(WORDS), (shape.batch,))
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _cost_and_truth(
    cost: RunningCost, hidden: tuple[Tensor, ...], labels: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """The cost as it is, and the oracle's in float64 on the CPU with the same noise."""
    device = hidden[0].device
    value = cost(hidden, labels, mask, generator=torch.Generator(device).manual_seed(0)).detach()
    rows, columns = (labels != -100).nonzero(as_tuple=True)
    end, g, bridge = cost.end_points(labels[rows, columns]), cost.latent_map, cost.bridge

    def exact(tensor: Tensor) -> Tensor:
        return tensor.detach().to("cpu", torch.float64)

    states, context = oracle.pool_trajectory(
        [exact(h) for h in hidden], mask.bool().cpu(), rows.cpu(), columns.cpu()
    )
    assert isinstance(g, Layers)
    weights, biases = [exact(w) for w in g.weights], [exact(b) for b in g.biases]
    if isinstance(bridge, SDEBridge):
        assert isinstance(g, DriftNetwork)
        grid = path_grid(bridge.process, len(hidden), bridge.steps)
        generator = torch.Generator(device).manual_seed(0)
        noise = torch.randn(len(grid.decay), *end.shape, generator=generator, device=device)
        path = (exact(g.path.weight), weights, biases, exact(end), exact(noise), grid)
        return value.cpu(), oracle.sde_cost(states, context, rows.cpu(), *path)
    assert isinstance(bridge, GaussianBridge)
    mean, variance = bridge.marginal(layer_times(len(hidden)))
    laws = (exact(end), torch.zeros_like(mean), mean, 1 / variance)
    return value.cpu(), oracle.bridge_nll(states, context, rows.cpu(), weights, biases, *laws)
