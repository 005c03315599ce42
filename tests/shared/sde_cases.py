"""Random inputs of the SDE cost, and the gradients that tests ask of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.sde import PathGrid


@dataclasses.dataclass(frozen=True)
class Case:
    """The arguments of `kernels.sde.sde_cost`."""

    states: Tensor
    context: Tensor | None
    rows: Tensor
    path_weight: Tensor
    weights: list[Tensor]
    biases: list[Tensor]
    end: Tensor
    noise: Tensor
    grid: PathGrid

    def arguments(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    def to(self, dtype: torch.dtype) -> Case:
        return self._each(lambda x: x.to(dtype))

    def trainable(self) -> Case:
        return self._each(lambda x: x.detach().clone().requires_grad_())

    def floats(self) -> dict[str, Tensor]:
        """Every tensor a gradient may be asked for."""
        names = ("states", "context", "path_weight", "end", "noise")
        flat = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        flat |= {f"weights.{i}": weight for i, weight in enumerate(self.weights)}
        flat |= {f"biases.{i}": bias for i, bias in enumerate(self.biases)}
        grid = dataclasses.fields(PathGrid)
        return flat | {f"grid.{field.name}": getattr(self.grid, field.name) for field in grid}

    def _each(self, change: Callable[[Tensor], Tensor]) -> Case:
        def apply(value: Any) -> Any:
            if value is None:
                return None
            if isinstance(value, list):
                return [change(v) for v in value]
            if isinstance(value, PathGrid):
                return PathGrid(*(change(getattr(value, f.name)) for f in dataclasses.fields(value)))
            return change(value) if value.is_floating_point() else value

        return Case(*(apply(value) for value in self.arguments()))


def case(
    layers: int = 4,
    targets: int = 5,
    batch: int = 3,
    width: int = 4,
    sizes: Sequence[int] = (6, 5, 3),
    steps: int = 6,
    *,
    seed: int = 0,
    context: bool = True,
) -> Case:
    """Random float64 inputs on a random grid; the quadrature weights are positive."""
    rng = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng, dtype=torch.float64)

    inputs, dim = ((1 + context) * width, *sizes[:-1]), sizes[-1]
    grid = PathGrid(
        times=torch.cat([torch.zeros(1).double(), rand(steps).cumsum(0) / max(steps, 1)]),
        spline=randn(steps + 1, layers),
        decay=0.4 + rand(steps),
        gain=rand(steps) - 0.2,
        spread=rand(steps),
        of_net=randn(steps + 1),
        of_state=randn(steps + 1),
        of_end=randn(steps + 1),
        weight=randn(steps + 1).exp(),
    )
    return Case(
        states=randn(layers, targets, width),
        context=randn(layers, batch, width) if context else None,
        rows=torch.randint(batch, (targets,), generator=rng),
        path_weight=randn(sizes[0], 1 + dim) / (1 + dim) ** 0.5,
        weights=[randn(b, a) / a**0.5 for a, b in zip(inputs, sizes, strict=True)],
        biases=[randn(b) for b in sizes],
        end=randn(targets, dim),
        noise=randn(steps, targets, dim),
        grid=grid,
    )


def gradients(value: Tensor, inputs: Case) -> dict[str, Tensor]:
    """Of a scalar with respect to every floating tensor."""
    floats = inputs.floats()
    found = torch.autograd.grad(value, list(floats.values()), materialize_grads=True)
    return dict(zip(floats, found, strict=True))
