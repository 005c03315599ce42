"""The shapes that are measured, and the inputs at one: seeded, on any device, in any dtype."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bridges.latent.trajectory import layer_times
from bridges.processes.brownian import BrownianBridge
from bridges.processes.sde import DriftNetwork, path_grid
from kernels.sde import PathGrid

Leaves = Literal["states", "weights", "nothing"]
"""What the gradient goes to: the hidden states in tuning, the weights of g in fitting."""

STEPS = 24
"""Of the SDE's time grid, at least: the default of `bridges.processes.sde.SDEBridge`."""

WALK = 0.3
"""How far a position moves from one layer to the next, as a share of where it starts."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, of a batch and of the latent map; L layers give L+1 hidden states [B, S, H].

    Attributes:
        widths: of g's layers; the last is d.
        targets: target positions in every sequence, N = targets x B in all.
        dtype: of the hidden states; g is float32, as in the library.
    """

    name: str
    layers: int
    hidden: int
    batch: int
    length: int
    widths: tuple[int, ...]
    targets: int = 1
    dtype: torch.dtype = torch.float32

    @property
    def states(self) -> int:
        """L+1."""
        return self.layers + 1

    @property
    def tokens(self) -> int:
        """N."""
        return self.targets * self.batch

    @property
    def steps(self) -> int:
        """T, a multiple of L+1; see `bridges.processes.sde.path_grid`."""
        return -(-STEPS // self.states) * self.states

    @property
    def hidden_bytes(self) -> int:
        """Of all hidden states."""
        return self.states * self.batch * self.length * self.hidden * self.dtype.itemsize

    def facts(self) -> dict[str, int | str | list[int]]:
        """For a record."""
        sizes = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "name"}
        return {**sizes, "widths": list(self.widths), "dtype": str(self.dtype).removeprefix("torch.")}


_SHAPES = {
    "tiny": Shape("tiny", 4, 64, 4, 32, (64, 32, 16)),
    "bert-base": Shape("bert-base", 12, 768, 16, 128, (768, 192, 96)),
    "bert-large": Shape("bert-large", 24, 1024, 16, 128, (1024, 256, 128)),
    "fit": Shape("fit", 24, 1024, 4, 128, (1024, 256, 128), targets=19),
}
_CAUSAL = Shape("causal", 16, 2048, 8, 512, (1024, 256, 128), targets=32, dtype=torch.bfloat16)
"""A causal model of 1.1 billion parameters with answers of 32 tokens: for a GPU alone."""

_BATCH_ON_CUDA = {"bert-large": 32, "fit": 32}
NAMES = tuple(_SHAPES)

FLOAT64_COPIES = 6
"""Copies of the hidden states that a guarded measurement has alive at once, counted in float64:
the truth and its gradient, and the plain form's stack, float32 copy, product and gradient."""


def named(name: str, device: torch.device | str) -> Shape:
    """A shape by name, larger and in bfloat16 where a GPU is to be filled."""
    shape = {**_SHAPES, _CAUSAL.name: _CAUSAL}[name]
    if torch.device(device).type == "cuda" and name in _BATCH_ON_CUDA:
        return dataclasses.replace(shape, batch=_BATCH_ON_CUDA[name], dtype=torch.bfloat16)
    return shape


def that_fit(device: torch.device | str) -> list[str]:
    """The names of the shapes that the free memory is enough for."""
    free = _free_bytes(torch.device(device))

    def needed(shape: Shape) -> int:
        return FLOAT64_COPIES * 8 * shape.hidden_bytes // shape.dtype.itemsize

    return [name for name in NAMES if needed(named(name, device)) <= free]


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    info = Path("/proc/meminfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * float(line.split()[1])
    return float("inf")


@dataclass(frozen=True)
class Inputs:
    """Everything that the operations read.

    Attributes:
        hidden: L+1 tensors [B, S, H].
        mask: bool [B, S]; rows are padded at the end.
        rows, columns: int64 [N], rising by row, then by column.
        weights, biases: of g, as `kernels.bridge_nll.bridge_nll` takes them.
        path_weight: [h_1, 1+d], the SDE's.
        end: [N, d], of unit length.
        mean, precision: [L+1], of the Brownian bridge.
        noise: [T, N, d].
        grid: of the SDE, in float64.
        lens: weight [L+1, d, H] and bias [L+1, d] of `kernels.lens`.
        probe: positive weights of the scalar that is made of the pooled states [L+1, N, H] and
            context [L+1, B, H].
    """

    hidden: tuple[Tensor, ...]
    mask: Tensor
    rows: Tensor
    columns: Tensor
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    path_weight: Tensor
    end: Tensor
    mean: Tensor
    precision: Tensor
    noise: Tensor
    grid: PathGrid
    probe: tuple[Tensor, Tensor]
    lens: tuple[Tensor, Tensor]

    def leaves(self, of: Leaves) -> list[Tensor]:
        """The tensors that the gradient goes to."""
        return [*self.weights, *self.biases] if of == "weights" else list(self.hidden)

    def requiring(self, of: Leaves) -> Inputs:
        """The same data as new leaves, of which only those ask for a gradient."""

        def fresh(tensors: Sequence[Tensor], asks: bool) -> tuple[Tensor, ...]:
            return tuple(t.detach().requires_grad_(asks) for t in tensors)

        return dataclasses.replace(
            self,
            hidden=fresh(self.hidden, of == "states"),
            weights=fresh(self.weights, of == "weights"),
            biases=fresh(self.biases, of == "weights"),
        )

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Inputs:
        """A copy with every floating tensor in one dtype."""
        return Inputs(*(_moved(getattr(self, f.name), device, dtype) for f in fields(self)))

    def subset(self, count: int) -> Inputs:
        """At most ``count`` targets from all over the batch, and only their sequences."""
        tokens = len(self.rows)
        if tokens <= count:
            return self
        kept = torch.linspace(0, tokens - 1, count, device=self.rows.device).round().long()
        sequences, rows = self.rows[kept].unique(return_inverse=True)
        states, context = self.probe
        return dataclasses.replace(
            self,
            hidden=tuple(h.detach()[sequences] for h in self.hidden),
            mask=self.mask[sequences],
            rows=rows,
            columns=self.columns[kept],
            end=self.end[kept],
            noise=self.noise[:, kept],
            probe=(states[:, kept], context[:, sequences]),
        )


def _moved(value: Any, device: torch.device | str, dtype: torch.dtype) -> Any:
    if isinstance(value, PathGrid):
        return PathGrid(*(getattr(value, f.name).to(device, dtype) for f in fields(value)))
    if isinstance(value, tuple):
        return tuple(_moved(v, device, dtype) for v in value)
    return value.detach().to(device, dtype if value.is_floating_point() else value.dtype)


def make_inputs(shape: Shape, device: torch.device | str = "cpu", *, seed: int = 0) -> Inputs:
    """Random inputs at a shape: hidden states that walk through depth, so that layers are alike."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device=device)

    kept, rows, columns = _targets(shape, seed)
    with torch.random.fork_rng(devices=[]):  # nn.Linear's own start, on the CPU
        torch.manual_seed(seed)
        network = DriftNetwork(shape.hidden, shape.widths)
    times = layer_times(shape.states)
    mean, variance = BrownianBridge().marginal(times)
    dim = shape.widths[-1]
    return Inputs(
        hidden=tuple(_walk(shape, generator)),
        mask=kept.to(device),
        rows=rows.to(device),
        columns=columns.to(device),
        weights=tuple(w.detach().to(device) for w in network.weights),
        biases=tuple(b.detach().to(device) for b in network.biases),
        path_weight=network.path.weight.detach().to(device),
        end=torch.nn.functional.normalize(normal(shape.tokens, dim), dim=1),
        mean=mean.to(device, torch.float32),
        precision=(1 / variance).to(device, torch.float32),
        noise=normal(shape.steps, shape.tokens, dim),
        grid=path_grid(BrownianBridge(), shape.states, STEPS).to(
            torch.zeros((), device=device).double()
        ),
        probe=(
            normal(shape.states, shape.tokens, shape.hidden).abs() + 0.5,
            normal(shape.states, shape.batch, shape.hidden).abs() + 0.5,
        ),
        lens=(
            normal(shape.states, dim, shape.hidden) / shape.hidden**0.5,
            0.1 * normal(shape.states, dim),
        ),
    ).requiring("states")


def _walk(shape: Shape, generator: torch.Generator) -> Iterator[Tensor]:
    size = (shape.batch, shape.length, shape.hidden)
    state = torch.randn(size, generator=generator, device=generator.device)
    for _ in range(shape.states):
        yield state.to(shape.dtype)
        state = state + WALK * torch.randn(size, generator=generator, device=generator.device)


def _targets(shape: Shape, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mask [B, S] with sequences of 60 to 100 % of the length, the first whole; rows and columns [N]."""
    generator = torch.Generator().manual_seed(seed)
    shortest = max(shape.targets, int(0.6 * shape.length), 1)
    lengths = torch.randint(shortest, shape.length + 1, (shape.batch,), generator=generator)
    lengths[0] = shape.length
    mask = torch.arange(shape.length) < lengths[:, None]
    # Rising in a row, as a mask's `nonzero` gives them.
    drawn = [torch.randperm(int(n), generator=generator)[: shape.targets] for n in lengths]
    columns = [each.sort().values for each in drawn]
    return mask, torch.arange(shape.batch).repeat_interleave(shape.targets), torch.cat(columns)
