"""How kernels are launched: by name, on the device of their tensors, with tiles that follow from shapes.

Tiles follow by the small rules below, never from measurement, so that `benchmarks.aot` compiles ahead of
time exactly what runs, and the order of every sum depends on shapes alone.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 128
"""About one program for each multiprocessor of an A100 (108) or H100 (132)."""

TILES = ((64, 64), (32, 64), (32, 32), (16, 32))
"""Output tiles of the matrix products, large to small: a large one reuses more of what it loads."""

WIDE = (128, 64)
"""The tile where there are `MANY` rows and products are not made of three."""

MANY = 4096

INNER = 32
"""Terms of a product that are loaded at a time."""


Digits = Literal["tf32", "tf32x3"]
"""What a float32 product is made of: one TF32 product, or three, which give it its own digits."""


def digits(source: torch.dtype | None) -> Digits:
    """Enough for what was read in a dtype: of 16 bits a number has no more digits than TF32."""
    return "tf32" if source is not None and source.itemsize == 2 else "tf32x3"


def launch(kernel: Any, grid: tuple[int, int, int], /, **arguments: Any) -> None:
    """Every launch goes through here, its arguments by name. A grid without programs is none."""
    if 0 not in grid:
        kernel[grid](**arguments)


def on(device: torch.device) -> Any:
    """The context to launch in: Triton launches on the current CUDA device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def full_precision(device: torch.device) -> Any:
    """The context for products of torch in a gradient that may be asked for under an autocast."""
    known = device.type in ("cuda", "cpu")  # and tensors without data, when kernels are compiled
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def tile(
    rows: int, columns: int, *, largest: int = 0, products: int = 1, wide: bool = False
) -> tuple[int, int]:
    """The largest tile from TILES[largest] on that gives every multiprocessor work, or the smallest.

    Args:
        products: how many matrices of that size are cut into tiles, none of which lies in two.
        wide: whether WIDE may be taken.
    """
    for block in ((WIDE,) if wide and rows >= MANY else ()) + TILES[largest:]:
        if products * triton.cdiv(rows, block[0]) * triton.cdiv(columns, block[1]) >= PROGRAMS:
            return block
    return TILES[-1]


def warps(block: tuple[int, int]) -> int:
    """Eight for the largest tiles: on four, float32 products made of three spill registers."""
    return 8 if block in (WIDE, TILES[0]) else 4


def operands(dtype: torch.dtype, digits: Digits = "tf32x3", *, backward: bool = False) -> dict[str, Any]:
    """What a product is made of: 16-bit operands as they are, float32 ones as ``digits`` says.

    The gradients of a mean over layers and tokens leave the range of float16, and the interpreter knows
    no bfloat16 products: both are made in float32.
    """
    interpreted = triton.knobs.runtime.interpret
    if dtype == torch.bfloat16 and not interpreted:
        return {"DOT": tl.bfloat16, "PRECISION": "ieee"}
    if dtype == torch.float16 and not backward:
        return {"DOT": tl.float16, "PRECISION": "ieee"}
    return {"DOT": tl.float32, "PRECISION": digits}


def as_matrix(weight: Tensor) -> Tensor:
    """A weight, or a part of one, whose last dimension is contiguous."""
    return weight if weight.stride(1) == 1 else weight.contiguous()
