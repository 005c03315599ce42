"""Options of ``pytest benchmarks/``, the groups of arms that its tests share, and the result file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import kernels
from benchmarks import shapes
from benchmarks.arms import arms, at_shape
from benchmarks.environment import RESULTS, environment, result_name, to_json
from benchmarks.suite import Group
from bridges.storage.files import write_text

_WRITTEN = pytest.StashKey[Path]()

PACKAGES = ("triton", "torchsde", "pytest-benchmark")

# In a bare checkout a package `kernels` that is installed for transformers hides this namespace portion.
_KERNELS = str(Path(__file__).resolve().parents[1] / "kernels")
if _KERNELS not in list(kernels.__path__):
    kernels.__path__.append(_KERNELS)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("benchmarks of the kernels")
    known = ",".join(shapes.NAMES)
    group.addoption(
        "--shapes",
        default=os.environ.get("BENCH_SHAPES"),
        help=f"of {known}; default BENCH_SHAPES, else all that fit into memory",
    )
    group.addoption("--out", help="name of a file in benchmarks/results, or auto: also measure in turn")
    group.addoption("--rounds", type=int, default=20, help="of the measurement in turn, at most")
    group.addoption("--group-seconds", type=float, default=60, help="after which no round of it begins")
    group.addoption("--no-compile", action="store_true", help="leave torch.compile out")


def device() -> str:
    """Where everything runs."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def chosen(config: pytest.Config) -> list[str]:
    """Names of the shapes."""
    asked = config.getoption("--shapes")
    if not asked:
        return shapes.that_fit(device())
    names = asked.split(",")
    if unknown := [name for name in names if name not in shapes.NAMES]:
        raise pytest.UsageError(f"--shapes {asked}: no {unknown}, only {', '.join(shapes.NAMES)}")
    return list(names)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each operation, shape and arm, or for each operation and shape."""
    if "operation" not in metafunc.fixturenames:
        return
    pairs = [(op, shape) for shape in chosen(metafunc.config) for op in at_shape(shape)]
    if "arm" not in metafunc.fixturenames:
        metafunc.parametrize(("operation", "shape"), pairs)
        return
    cases = [(op, shape, arm.name) for op, shape in pairs for arm in arms(op, device())]
    metafunc.parametrize(("operation", "shape", "arm"), cases)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of a group one after the other, so that its inputs and truths are made once."""
    first: dict[tuple[str, str], int] = {}

    def place(item: pytest.Item) -> int:
        params: dict[str, str] = item.callspec.params if hasattr(item, "callspec") else {}
        key = params.get("operation", ""), params.get("shape", "")
        return first.setdefault(key, len(first))

    items.sort(key=place)


@pytest.fixture(scope="session")
def groups() -> dict[tuple[str, str], Group]:
    """The one group that is in memory."""
    return {}


@pytest.fixture
def group(
    operation: str, shape: str, groups: dict[tuple[str, str], Group], request: pytest.FixtureRequest
) -> Group:
    """The arms of one operation at one shape."""
    key = operation, shape
    if key not in groups:
        groups.clear()
        off = "--no-compile was given" if request.config.getoption("--no-compile") else True
        groups[key] = Group(operation, shapes.named(shape, device()), device(), compiled=off)
    return groups[key]


@pytest.fixture(scope="session")
def records(request: pytest.FixtureRequest) -> Iterator[list[dict[str, Any]]]:
    """What was measured in turn; written at the end, whatever came between."""
    measured: list[dict[str, Any]] = []
    start = time.perf_counter()
    yield measured
    name = request.config.getoption("--out")
    if name and measured:
        target = RESULTS / (result_name("kernels", device()) if name == "auto" else name)
        head = {"environment": environment(*PACKAGES), "device": device()}
        seconds = round(time.perf_counter() - start, 1)
        write_text(target, to_json({**head, "seconds": seconds, "groups": measured}))
        request.config.stash[_WRITTEN] = target


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Where the result file is."""
    if target := config.stash.get(_WRITTEN, None):
        terminalreporter.write_line(f"wrote {target}")
