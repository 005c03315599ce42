"""Every Triton kernel compiles without a GPU and fits: next to no spills, enough memory."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest
from places import REPOSITORY

pytestmark = pytest.mark.slow

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def table() -> list[str]:
    """The lines of ``python -m benchmarks.aot --sample``, where the interpreter is off."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(REPOSITORY)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.aot", "--sample"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[1:]


def kernels_in_the_source() -> set[str]:
    """Functions under ``triton.jit`` that no other one calls: those that are launched."""
    kernels, called = set(), set()
    for path in (REPOSITORY / "kernels" / "gpu").glob("*_kernels.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and "triton.jit" in map(_name, node.decorator_list):
                kernels.add(node.name)
                called |= {_name(n) for n in ast.walk(node) if isinstance(n, ast.Call)}
    return kernels - called


def _name(node: ast.expr) -> str:
    return ast.unparse(node.func if isinstance(node, ast.Call) else node)


def test_no_kernel_is_forgotten(table: list[str]) -> None:
    for capability in ("80", "86", "90", "120"):
        lines = [line.split() for line in table if line.split()[0] == capability]
        assert {line[4].rpartition(".")[2] for line in lines} == kernels_in_the_source()


def test_next_to_nothing_spills_and_shared_memory_suffices(table: list[str]) -> None:
    for line in table:
        capability, shared, registers, spilled = map(int, line.split()[:4])
        assert spilled <= 32, line
        assert registers <= 255, line
        assert shared <= {80: 163, 86: 99, 90: 227, 120: 99}[capability] * 1024, line


def test_float32_products_are_rounded_to_tf32_only_where_16_bits_were_read(table: list[str]) -> None:
    """The interpreter computes them exactly whatever the precision, and would not notice."""
    products = [line for line in table if "DOT=fp32" in line]
    once, thrice = (
        [line for line in products if f"PRECISION={digits} " in line] for digits in ("tf32", "tf32x3")
    )
    assert once
    assert thrice
    assert len(once) + len(thrice) == len(products)
    assert all("of bfloat16)" in line or "of float16)" in line for line in once)
    read_whole = [line for line in products if "of float32)" in line]
    assert set(read_whole) <= set(thrice)
    assert all("of float32)" in line or "(path" in line for line in thrice)
