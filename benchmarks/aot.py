"""Every Triton kernel compiled ahead of time, without a GPU, with what it takes of the GPU.

``python -m benchmarks.aot`` prints the table and exits with 1 if a kernel spills registers or wants more
shared memory than there is; with ``--sample`` all of them for one device and the largest tiles for the
others. The wrappers themselves are run, on tensors without data, and their launches recorded: what is
compiled is what the same shapes launch on a GPU.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import pairwise
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.gpu import launch as triton_launch
from kernels.gpu import operations as triton_backend
from kernels.path.network import PathNetwork

SHARED_LIMIT = {80: 163 * 1024, 86: 99 * 1024, 90: 227 * 1024, 120: 99 * 1024}
"""Shared memory one program may use, by compute capability: A100; RTX 30 and A10; H100 and H200; RTX 50
(CUDA C++ Programming Guide, table of technical specifications)."""

SPILLED = 32
"""Bytes a thread that may be spilled: far below the 255 registers that it may use the assembler gives
up a few numbers, as it seems for one more program at a time."""

WHOLE = 90
"""The compute capability that a sample compiles every entry for."""

POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}


Dtypes = tuple[torch.dtype, torch.dtype]
"""Of the latent map or lens, and of the hidden states that are read."""

FULL = (torch.float32, torch.float32)
MIXED = (torch.float32, torch.bfloat16)
"""As nearly always: a cost stays in float32, whatever the model is in."""
BFLOAT16 = (torch.bfloat16, torch.bfloat16)
FLOAT16 = (torch.float16, torch.float16)


@dataclass(frozen=True)
class Shape:
    """A named size of the problem: the operations as `bridges.RunningCost` would call them."""

    name: str
    layers: int  # L+1, the embedding output included
    batch: int
    targets: int
    length: int
    width: int
    sizes: tuple[int, ...]
    fitting: bool = False  # gradients of g's weights instead of the hidden states
    carry: bool = False
    dtypes: tuple[Dtypes, ...] = (FULL,)


PAPER = (1024, 256, 128)
SHAPES = (
    Shape("tiny", 3, 3, 5, 9, 20, (12, 10, 6), carry=True, dtypes=(FULL, FLOAT16)),
    Shape("tiny fit", 3, 3, 5, 9, 20, (12, 6), fitting=True),
    Shape("one layer", 3, 3, 5, 9, 32, (16,), carry=True),
    Shape("bert-base", 13, 32, 32, 128, 768, (768, 192, 96), dtypes=(FULL, MIXED, BFLOAT16, FLOAT16)),
    Shape(
        "bert-base path",
        13,
        32,
        32,
        128,
        768,
        (768, 192, 96),
        carry=True,
        dtypes=(FULL, MIXED, BFLOAT16),
    ),
    Shape("bert-base fit", 13, 32, 9 * 32, 128, 768, (768, 192, 96), fitting=True),
    Shape("bert-base path fit", 13, 32, 9 * 32, 128, 768, (768, 192, 96), fitting=True, carry=True),
    Shape("bert-large", 25, 32, 32, 128, 1024, PAPER, dtypes=(FULL, MIXED)),
    Shape("bert-large fit", 25, 32, 19 * 32, 128, 1024, PAPER, fitting=True, dtypes=(MIXED, BFLOAT16)),
    Shape("causal", 17, 8, 256, 512, 2048, PAPER, dtypes=(MIXED, BFLOAT16)),
    Shape("128 layers", 129, 32, 32, 128, 1024, PAPER, carry=True),
)

PATHS: dict[str, tuple[int, ...]] = {
    "path tiny": (12, 10, 6),
    "path one layer": (16,),
    "path two layers": (64, 48),
    "path bert-base": (768, 192, 96),
    "path bert-large": (1024, 256, 128),
    "path four layers": (1024, 256, 256, 128),
}
"""Widths of the SDE cost's network, for the sequential solver; it computes in float32 alone."""


Kind = str | tuple[str, ...]
"""The type of an argument for Triton's compiler; of a tuple, those of its items."""

Place = tuple[int, ...]
"""Where an argument stands among the kernel's; two numbers for an item of a tuple."""


@dataclass(frozen=True)
class Entry:
    """One kernel as the runtime would specialise it."""

    kernel: str
    signature: tuple[tuple[str, Kind], ...]
    constants: tuple[tuple[Place, Any], ...]
    aligned: tuple[Place, ...]  # arguments known to be divisible by 16
    options: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        kinds = ((kind,) if isinstance(kind, str) else kind for _, kind in self.signature)
        types = ",".join(k for kind in kinds for k in kind if k.startswith("*"))
        constants = " ".join(f"{self._name(place)}={v}" for place, v in self.constants)
        divisible = ",".join(self._name(p) for p in self.aligned if not self._kind(p).startswith("*"))
        return f"{self.kernel} {types} {constants} %16:{divisible or '-'}"

    def _name(self, place: Place) -> str:
        return "".join([self.signature[place[0]][0], *(f"[{i}]" for i in place[1:])])

    def _kind(self, place: Place) -> str:
        kind = self.signature[place[0]][1]
        return kind if isinstance(kind, str) else kind[place[1]]


@dataclass(frozen=True)
class Usage:
    """What a compiled kernel takes: bytes of shared memory, registers and spilled bytes a thread."""

    capability: int
    shared: int
    registers: int
    spilled: int

    @property
    def fits(self) -> bool:
        return self.spilled <= SPILLED and self.shared <= SHARED_LIMIT[self.capability]


def entries() -> dict[Entry, str]:
    """Every distinct launch of all shapes, with the name of the first shape that makes it."""
    table: dict[Entry, str] = {}
    for shape in SHAPES:
        for dtypes in shape.dtypes:
            of_map, of_states = (str(dtype).removeprefix("torch.") for dtype in dtypes)
            for entry in launches(partial(_run, shape, dtypes)):
                table.setdefault(entry, f"{shape.name}, {of_map} of {of_states}")
    for name, sizes in PATHS.items():
        for entry in launches(partial(_run_path, sizes)):
            table.setdefault(entry, name)
    return table


def launches(run: Callable[[], object]) -> list[Entry]:
    """What ``run`` would launch; nothing is, so tensors without data (device "meta") are enough."""
    recorded: list[Entry] = []

    def record(kernel: Any, grid: tuple[int, int, int], /, **arguments: Any) -> None:
        recorded.append(_specialise(kernel, arguments))

    with mock.patch.object(triton_launch, "launch", record):
        run()
    return recorded


def _run(shape: Shape, dtypes: Dtypes) -> None:
    """Pooling, the costs by the map and by the lens, forward and backward, and without a gradient."""
    dtype, source = dtypes

    def empty(*size: int, grad: bool = False, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(size, dtype=dtype, device="meta").requires_grad_(grad)

    fit, layers = shape.fitting, shape.layers
    rows = empty(shape.targets, dtype=torch.int64)
    size = (shape.batch, shape.length, shape.width)
    hidden = [empty(*size, grad=not fit, dtype=source) for _ in range(layers)]
    mask = empty(shape.batch, shape.length, dtype=torch.bool)
    unsorted = triton_backend.pool_trajectory(hidden, mask, rows, rows)
    outputs = triton_backend.pool_trajectory(hidden, mask, rows, rows, in_order=True)
    states, context = (x.to(dtype) for x in outputs)
    weights = [empty(b, a, grad=fit) for a, b in pairwise((2 * shape.width, *shape.sizes))]
    biases = [empty(b, grad=fit) for b in shape.sizes]
    end = empty(2, shape.targets, shape.sizes[-1])
    laws = (end, empty(layers) if shape.carry else None, empty(layers), empty(layers))
    given = (states, context, rows, weights, biases, *laws)
    triton_backend.bridge_nll(*given, source=source).sum().backward()
    with torch.no_grad():
        triton_backend.bridge_nll(*given, source=source)
    if not fit:
        torch.autograd.backward([x.sum() for x in unsorted])
        for in_order in (False, True):
            triton_backend.target_states(hidden, rows, rows, in_order=in_order).sum().backward()
    if not shape.carry:  # a lens knows no path
        _run_lens(shape, dtype, source)


def _run_lens(shape: Shape, dtype: torch.dtype, source: torch.dtype) -> None:
    """The lens on pooled states, which are float32 whatever its own dtype: its costs and its latents."""
    dim, layers = shape.sizes[-1], shape.layers

    def empty(*size: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    lens = empty(layers, dim, shape.width), empty(layers, dim)
    laws = empty(2, shape.targets, dim), empty(layers), empty(layers), empty(layers)
    states = empty(layers, shape.targets, shape.width, dtype=torch.float32)
    with torch.no_grad():
        triton_backend.lens_nll(states, *lens, *laws, source=source)
    states.requires_grad_()
    values = (
        triton_backend.lens_nll(states, *lens, *laws, source=source),
        triton_backend.lens_project(states, *lens, source=source),
    )
    (values[0].sum() + values[1].sum()).backward()


def _run_path(sizes: tuple[int, ...], steps: int = 25, tokens: int = 32) -> None:
    """The sequential solver of a path and its adjoint."""

    def empty(*size: int) -> Tensor:
        return torch.empty(size, device="meta")

    dim = sizes[-1]
    net = PathNetwork(
        empty(steps + 1, tokens, sizes[0]),
        empty(sizes[0], 1 + dim)[:, 1:],  # as it is cut from the weight on [t; y]
        [empty(b, a) for a, b in pairwise(sizes)],
        [empty(b) for b in sizes[1:]],
    )
    forcing, law = empty(steps, tokens, dim), (empty(steps), empty(steps))
    found = triton_backend.solve_sequential(net, forcing, *law)
    triton_backend.adjoint_sequential(net, found, found.y, found.y, *law)


def _specialise(kernel: Any, arguments: dict[str, Any]) -> Entry:
    """The rules of Triton's launcher: pointers and numbers divisible by 16 are, and 1 is a constant."""
    signature: dict[str, Kind] = {}
    constants: dict[Place, Any] = {}
    aligned: list[Place] = []

    def kind(place: Place, value: Any, specialised: bool) -> str:
        if isinstance(value, Tensor):
            found, divisible = POINTERS[value.dtype], value.data_ptr() % 16 == 0
        elif isinstance(value, float):
            return "fp32"
        elif value == 1 and specialised:
            constants[place] = 1
            return "constexpr"
        else:
            found = "i32" if value < 2**31 else "i64"
            divisible = specialised and value % 16 == 0
        if divisible:
            aligned.append(place)
        return found

    for i, parameter in enumerate(kernel.params):
        value, specialised = arguments[parameter.name], not parameter.do_not_specialize
        if parameter.is_constexpr:
            signature[parameter.name], constants[i,] = "constexpr", value
        elif isinstance(value, tuple):
            items = (kind((i, j), item, specialised) for j, item in enumerate(value))
            signature[parameter.name] = tuple(items)
        else:
            signature[parameter.name] = kind((i,), value, specialised)
    return Entry(
        f"{kernel.fn.__module__}.{kernel.fn.__name__}",
        tuple(signature.items()),
        tuple(constants.items()),
        tuple(aligned),
        tuple((k, v) for k, v in arguments.items() if k not in kernel.arg_names),
    )


def measure(entry: Entry, capability: int) -> Usage:
    """Compile one entry for one compute capability."""
    module, _, name = entry.kernel.rpartition(".")
    source = ASTSource(
        fn=getattr(import_module(module), name),
        signature=dict(entry.signature),
        constexprs=dict(entry.constants),
        attrs={place: [["tt.divisibility", 16]] for place in entry.aligned},
    )
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options=dict(entry.options))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used = {k: int(v) for k, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return Usage(capability, compiled.metadata.shared, used["REG"], used["STACK"] + used["LOCAL"])


def largest(table: dict[Entry, str]) -> dict[Entry, str]:
    """Of every kernel, by what it multiplies in and alignment, the first entry of the largest tile."""

    def size(entry: Entry) -> int:
        return math.prod(v for p, v in entry.constants if entry.signature[p[0]][0].startswith("BLOCK_"))

    chosen: dict[tuple[Any, ...], Entry] = {}
    for entry in table:
        of = {entry.signature[p[0]][0]: v for p, v in entry.constants}
        key = entry.kernel, str(of.get("DOT")), of.get("ALIGNED")
        if key not in chosen or size(entry) > size(chosen[key]):
            chosen[key] = entry
    return {entry: table[entry] for entry in chosen.values()}


def measure_all(processes: int = 2, *, sample: bool = False) -> Iterator[tuple[Entry, str, Usage]]:
    """Compile the entries for every capability; compiled ones come from Triton's cache.

    Args:
        sample: every one for WHOLE alone, and the largest for the others.
    """
    table = entries()
    some = largest(table) if sample else table
    work = [
        (entry, name, capability)
        for entry, name in table.items()
        for capability in SHARED_LIMIT
        if capability == WHOLE or entry in some
    ]
    found = [e for e, _, _ in work], [name for _, name, _ in work], [c for _, _, c in work]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        yield from zip(found[0], found[1], pool.map(measure, found[0], found[2]), strict=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if a kernel does not fit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aot", description=__doc__)
    parser.add_argument(
        "--sample", action="store_true", help=f"all for sm_{WHOLE}, the largest tiles for the others"
    )
    sample = parser.parse_args(arguments).sample
    failed = 0
    print("sm shared regs spill  kernel")
    for entry, name, usage in measure_all(sample=sample):
        failed += not usage.fits
        note = "" if usage.fits else "  DOES NOT FIT"
        numbers = f"{usage.capability} {usage.shared:6} {usage.registers:4} {usage.spilled:5}"
        print(f"{numbers}  {entry}  ({name}){note}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
