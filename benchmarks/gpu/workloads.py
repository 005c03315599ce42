"""What is tuned in the measured steps: models with random weights, a batch, LoRA, and the running costs.

Nothing is downloaded. Of the BERT the head runs at the targets alone, as in `pets.tuning.tune`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

import pets
from benchmarks.guard import relative_rms
from benchmarks.shapes import Shape, named
from bridges import RunningCost, SDEBridge
from bridges.cost.reader import make_reader
from bridges.processes.base import catalogue
from bridges.processes.sde import DriftNetwork, path_grid
from kernels.sde import sde_cost
from pets.tasks.classifier import PromptClassifier
from pets.tasks.verbalizer import Verbalizer

COSTS: dict[str, dict[str, Any]] = {
    "brownian": {"bridge": "brownian"},
    "lens": {"bridge": "brownian", "map": "lens"},
    "posterior": {"bridge": "posterior", "map": "lens"},
    "sde": {"bridge": "sde"},
}
"""Bridge and map of a cost, by arm. All have the same end points: their values take no time, but of a
large vocabulary they take seconds of the machine to make."""

WORDS = Verbalizer(("a", "b"), (("a",), ("b",)), (((10,),), ((11,),)))
"""Labels for models whose vocabulary means nothing."""

HEAD_WIDTH = 64
"""Of an attention head, as in every BERT."""

SEQUENCES = 4
"""Whose cost is compared with the float64 one."""

WEIGHT = 0.5


@dataclass(frozen=True)
class Workload:
    """A model, a batch, and how they are put together.

    Attributes:
        model: plain, frozen or not; LoRA comes on a copy.
        inputs: of a step.
        targets: token ids or labels [B, S] at the targets, else -100.
        ready: makes what is stepped from the model with LoRA.
    """

    name: str
    says: str
    shape: Shape
    model: nn.Module
    inputs: dict[str, Tensor]
    ready: Callable[[nn.Module], nn.Module]

    @property
    def device(self) -> torch.device:
        """Of the batch."""
        return self.inputs["input_ids"].device

    def costs(self) -> Iterator[tuple[str, Callable[[], RunningCost]]]:
        """How the cost of each arm is made for this model; its map is random and stays so."""
        made: list[RunningCost] = []
        for arm in COSTS:
            yield arm, partial(self._cost, arm, made)

    def _cost(self, arm: str, made: list[RunningCost]) -> RunningCost:
        name, kind, widths = COSTS[arm]["bridge"], COSTS[arm].get("map", "mlp"), self.shape.widths
        if not made:  # with the map of a plain one, whose end points the others take
            made.append(RunningCost.for_model(self.model, fit=False, widths=widths))
        like, bridge = made[0], catalogue.parse(name)
        sizes = widths[-1:] if kind == "lens" else widths
        torch.manual_seed(0)
        reader = make_reader(kind, bridge, like.spec, sizes)
        cost = RunningCost(like.spec, bridge, reader, copy.deepcopy(like.end_points)).to(self.device)
        cost.options |= like.options
        return cost

    def tuned(self) -> nn.Module:
        """A copy with LoRA of rank 8 on query and value, in training."""
        torch.manual_seed(1)
        model: Any = copy.deepcopy(self.model)
        return self.ready(get_peft_model(model, pets.get("lora"))).train()

    def error(self, cost: RunningCost) -> float:
        """How far a cost of this model's own states is off, relative, against float64 on the device."""
        few = {k: v[:SEQUENCES] for k, v in self.inputs.items()}
        ids, mask, targets = few["input_ids"], few["attention_mask"], few["labels"]
        hidden = self.hidden(ids, mask)
        with torch.no_grad():
            generator = torch.Generator(ids.device).manual_seed(0)
            value = cost(hidden, targets, mask, generator=generator)
            true = truth(cost, hidden, targets, mask)
        return relative_rms(value, true)

    def hidden(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """The plain model's L+1 hidden states, without gradient."""
        encoder: Any = self.model.base_model
        with torch.no_grad():
            found = encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return tuple(found)

    @property
    def allowed(self) -> float:
        """Bound of `error`: one unit of 16-bit states."""
        dtype = self.shape.dtype
        return 1e-4 if dtype == torch.float32 else torch.finfo(dtype).eps


def truth(cost: RunningCost, hidden: tuple[Tensor, ...], targets: Tensor, mask: Tensor) -> Tensor:
    """The cost in float64 by the PyTorch path; an SDE's with the noise that seed 0 gives in float32."""
    exact = copy.deepcopy(cost).double()
    states = tuple(h.double() for h in hidden)
    g, bridge = exact.latent_map, exact.bridge
    if not isinstance(bridge, SDEBridge):
        value: Tensor = exact(states, targets, mask)
        return value
    assert isinstance(g, DriftNetwork)
    trajectory, answers = exact.trajectory(states, targets, mask)
    trajectory, end = g.seen(trajectory), exact.end_points(answers).double()
    grid = path_grid(bridge.process, len(states), bridge.steps).to(g.weights[0])
    generator = torch.Generator(end.device).manual_seed(0)
    noise = torch.randn(len(grid.decay), *end.shape, generator=generator, device=end.device).double()
    context = trajectory.context if bridge.reads == "both" else None
    value, _ = sde_cost(
        trajectory.states,
        context,
        trajectory.rows,
        g.path.weight,
        g.weights,
        g.biases,
        end,
        noise,
        grid,
        solver="sequential",
        backend="pytorch",
    )
    return value


def bert(device: torch.device | str, *, quick: bool) -> Workload:
    """A BERT-large: B 32, S 128, one [MASK] a row, two labels' words."""
    shape = named("tiny" if quick else "bert-large", device)
    vocabulary = 1100 if quick else 30_522
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=max(shape.hidden // HEAD_WIDTH, 1),
        intermediate_size=4 * shape.hidden,
        max_position_embeddings=max(shape.length, 64),
    )
    with torch.device(device):
        model = BertForMaskedLM(config)
    ids, mask = _text(shape, vocabulary)
    ids[:, 1] = 4
    labels = torch.full_like(ids, -100)
    labels[:, 1] = torch.randint(len(WORDS), (shape.batch,))
    return _workload(
        "bert",
        "LoRA on a BERT with random weights, one masked word a row",
        shape,
        model.to(device, shape.dtype),
        {"input_ids": ids, "attention_mask": mask, "labels": labels},
        lambda tuned: PromptClassifier(tuned, WORDS),
    )


def causal(device: torch.device | str, *, quick: bool) -> Workload:
    """A Llama of 1.1 billion parameters: B 8, S 512, answers of 32 tokens at the end of each row."""
    small = Shape("tiny-causal", 3, 64, 2, 24, (64, 32, 16), targets=4, dtype=torch.bfloat16)
    shape = small if quick else named("causal", device)
    vocabulary = 320 if quick else 32_000
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=4 if quick else 32,
        num_key_value_heads=2 if quick else 8,
        intermediate_size=128 if quick else 8192,
        max_position_embeddings=max(shape.length, 64),
        use_cache=False,
        tie_word_embeddings=False,
    )
    with torch.device(device):
        model = LlamaForCausalLM(config)
    ids, _ = _text(replace(shape, targets=shape.length), vocabulary)
    labels = torch.full_like(ids, -100)
    labels[:, -shape.targets :] = ids[:, -shape.targets :]
    return _workload(
        "causal",
        "LoRA on a Llama with random weights, answers of several tokens",
        shape,
        model.to(device, shape.dtype),
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels},
        lambda tuned: tuned,
    )


BY_NAME = {"bert": bert, "causal": causal}


def _workload(
    name: str,
    says: str,
    shape: Shape,
    model: nn.Module,
    inputs: dict[str, Tensor],
    ready: Callable[[nn.Module], nn.Module],
) -> Workload:
    device = next(model.parameters()).device
    moved = {key: value.to(device) for key, value in inputs.items()}
    return Workload(name, says, shape, model.eval(), moved, ready)


def _text(shape: Shape, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask [B, S]; rows of 60 to 100 % of the length, unless all of it are targets."""
    shortest = max(int(0.6 * shape.length), shape.targets)
    lengths = torch.randint(shortest, shape.length + 1, (shape.batch,))
    lengths[0] = shape.length
    mask = (torch.arange(shape.length) < lengths[:, None]).long()
    return torch.randint(20, vocabulary, (shape.batch, shape.length)) * mask, mask
