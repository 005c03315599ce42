"""The sequential path solver's kernels against PyTorch in float64, and the SDE cost on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device or TRITON_INTERPRET=1", allow_module_level=True)

from kernels import oracle
from kernels.gpu import launch as triton_launch
from kernels.gpu import path as triton_sequential
from kernels.path import sequential as path_sequential
from kernels.path.network import PathNetwork
from kernels.sde import PathGrid, sde_cost

pytestmark = pytest.mark.slow

DEVICE = "cuda" if torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1" else "cpu"
FLOAT32 = 1e-5
"""Relative RMS; about 2e-7 is seen in the interpreter, which has no TF32."""


def relative_rms(value: Tensor, truth: Tensor) -> float:
    if not truth.numel():
        return 0.0
    difference = (value.double().cpu() - truth.double().cpu()).norm()
    return float(difference / truth.double().cpu().norm())


def network(widths: tuple[int, ...], steps: int, tokens: int) -> tuple[PathNetwork, tuple[Tensor, ...]]:
    """A random float64 network with forcing, decay and gain; the path weight is part of a larger one."""
    rng = torch.Generator().manual_seed(sum(widths) + steps + tokens)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    net = PathNetwork(
        randn(steps + 1, tokens, widths[0]),
        (randn(widths[0], 1 + widths[-1]) / widths[-1] ** 0.5)[:, 1:],
        [randn(b, a) / a**0.5 for a, b in pairwise(widths)],
        [randn(b) for b in widths[1:]],
    )
    law = randn(steps, tokens, widths[-1]), randn(steps).sigmoid(), randn(steps).sigmoid()
    return net, law


def cast(net: PathNetwork) -> PathNetwork:
    def small(x: Tensor) -> Tensor:
        return x.to(DEVICE, torch.float32)

    return PathNetwork(
        small(net.inputs),
        torch.cat([small(net.path_weight[:, :1]), small(net.path_weight)], 1)[:, 1:],
        [small(w) for w in net.weights],
        [small(b) for b in net.biases],
    )


@pytest.mark.parametrize(
    ("widths", "steps", "tokens"),
    [
        ((5,), 3, 4),
        ((16,), 1, 16),
        ((7, 3), 4, 17),
        ((20, 9, 6), 4, 21),
        ((64, 48, 32), 2, 1),
        ((70, 40, 36), 2, 5),
        ((6, 5, 4, 3), 3, 33),
        ((6, 5, 4, 4, 3), 2, 3),  # deeper than the kernels: PyTorch's
        ((8, 4), 3, 0),
    ],
)
def test_path_and_adjoint_are_pytorchs(
    widths: tuple[int, ...], steps: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, law = network(widths, steps, tokens)
    truth = path_sequential.solve_sequential(net, *law)
    rng = torch.Generator().manual_seed(1)
    grads = [torch.randn(truth.y.shape, generator=rng, dtype=torch.float64) for _ in range(2)]
    adjoint = path_sequential.adjoint_sequential(net, truth, *grads, *law[1:])

    def poisoned(make: Any) -> Any:
        return lambda *a, **k: make(*a, **k).fill_(float("nan"))

    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))
    small, small_law = cast(net), [x.to(DEVICE, torch.float32) for x in law]
    found = triton_sequential.solve_sequential(small, *small_law)
    for value, expected in zip([found.y, *found.values], [truth.y, *truth.values], strict=True):
        assert relative_rms(value, expected) < FLOAT32
    total, layers = triton_sequential.adjoint_sequential(
        small, found, *(g.to(DEVICE, torch.float32) for g in grads), *small_law[1:]
    )
    for value, expected in zip([total, *layers], [adjoint[0], *adjoint[1]], strict=True):
        assert relative_rms(value, expected) < FLOAT32


@pytest.mark.parametrize("widths", [(10, 6, 5), (4,)])
def test_the_sde_cost_on_the_kernels_is_the_oracles(widths: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(3)
    layers, tokens, batch, width, steps = 4, 5, 2, 6, 6

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    times = torch.linspace(0, 0.9, steps + 1, dtype=torch.float64)
    grid = PathGrid(
        times=times,
        spline=randn(steps + 1, layers),
        decay=1 - 0.1 * times[1:],
        gain=times[1:],
        spread=0.1 + times[1:],
        of_net=1 + times,
        of_state=-times,
        of_end=2 - times,
        weight=1 / (1.5 - times),
    )
    sizes = (2 * width, *widths)
    inputs: list[Any] = [
        randn(layers, tokens, width),
        randn(layers, batch, width),
        torch.randint(batch, (tokens,), generator=rng),
        randn(widths[0], 1 + widths[-1]) / 3,
        [randn(b, a) / a**0.5 for a, b in pairwise(sizes)],
        [randn(b) for b in widths],
        randn(tokens, widths[-1]),
        randn(steps, tokens, widths[-1]),
    ]

    def leaves(values: list[Any]) -> list[Tensor]:
        flat = [x for v in values for x in (v if isinstance(v, list) else [v])]
        return [x.requires_grad_() for x in flat if x.is_floating_point()]

    def small(value: Any) -> Any:
        if isinstance(value, list):
            return [small(v) for v in value]
        value = value.detach().to(DEVICE)
        return value.float() if value.is_floating_point() else value

    single = [small(v) for v in inputs]
    wanted, found = leaves(inputs), leaves(single)
    true = oracle.sde_cost(*inputs, grid)
    mine, report = sde_cost(*single, grid, solver="sequential", backend="triton")
    assert report.solver == "sequential"
    assert relative_rms(mine.detach(), true.detach()) < FLOAT32
    gradients = torch.autograd.grad(mine, found), torch.autograd.grad(true, wanted)
    for got, want in zip(*gradients, strict=True):
        assert relative_rms(got, want) < FLOAT32


def test_launches_are_on_the_device_of_their_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton launches on the current device, which need not be theirs."""
    net, law = network((8, 3), 4, 5)
    net, law = cast(net), tuple(x.to(DEVICE, torch.float32) for x in law)
    current: list[torch.device] = []
    launched: list[torch.device] = []

    @contextmanager
    def on(device: torch.device) -> Iterator[None]:
        current.append(device)
        yield
        current.pop()

    def launch(kernel: Any, grid: Any, /, **arguments: Any) -> None:
        launched.append(current[-1])

    monkeypatch.setattr(triton_launch, "on", on)
    monkeypatch.setattr(triton_launch, "launch", launch)
    found = triton_sequential.solve_sequential(net, *law)
    triton_sequential.adjoint_sequential(net, found, found.y, found.y, *law[1:])
    assert launched == [found.y.device] * 2
