"""What a device is and what it can do: its clocks, its memory's bandwidth and its rate of products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.environment import environment
from benchmarks.gpu.machine import clocks
from benchmarks.gpu.plan import Context
from benchmarks.meter import Call, measure, quantiles

GIBIBYTE = 2**30


def run(context: Context) -> None:
    """Rows "environment", "bandwidth" and "products"."""
    device, quick = context.device, context.quick
    found = environment("triton", "torchsde")
    del found["command"]  # the parent's is recorded
    context.add("environment", environment=found, clocks=clocks())
    size, rounds = (GIBIBYTE // 64, 3) if quick else (2 * GIBIBYTE, 20)
    rates = bandwidth(device, size, rounds)
    context.add("bandwidth", bytes=size, gigabytes_per_second=rates)
    context.say(", ".join(f"{way} {rate:.0f} GB/s" for way, rate in rates.items()))
    width = 256 if quick else 8192
    products = matmul(device, width, rounds)
    context.add("products", width=width, teraflop_per_second=products)
    context.say(", ".join(f"{name} {rate:.3g} TFLOP/s" for name, rate in products.items()))
    context.add("clocks after", clocks=clocks())


def bandwidth(device: torch.device | str, size: int, rounds: int) -> dict[str, float]:
    """GB/s of reading (a sum), writing (a fill) and copying (read and written both count).

    Args:
        size: bytes of the array; far more than a cache holds.
    """
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    calls: dict[str, tuple[Call, int]] = {
        "read": (lambda: source.sum(), size),
        "write": (lambda: target.fill_(1.0), size),
        "copy": (lambda: target.copy_(source), 2 * size),
    }
    times = measure({name: call for name, (call, _) in calls.items()}, rounds, device)
    return {
        name: round(moved / quantiles(times[name])["p50"] / 1e6, 1) for name, (_, moved) in calls.items()
    }


def matmul(device: torch.device | str, width: int, rounds: int) -> dict[str, float]:
    """TFLOP/s of a square product in bfloat16, in float32, and in float32 with TF32 allowed."""
    rates = {}
    for name, dtype, tf32 in (
        ("bf16", torch.bfloat16, False),
        ("fp32", torch.float32, False),
        ("tf32", torch.float32, True),
    ):
        if torch.device(device).type != "cuda" and tf32:
            continue
        a, b = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
        with _tf32(tf32):
            times = measure({name: lambda a=a, b=b: a @ b}, rounds, device, seconds=2)  # type: ignore[misc]
        rates[name] = float(f"{2 * width**3 / quantiles(times[name])['p50'] / 1e9:.4g}")
    return rates


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
