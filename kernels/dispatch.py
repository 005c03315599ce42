"""The one place that chooses which implementation of an operation runs, and says why.

A `Backend` bundles one implementation of every operation. `choose` takes, in this order: the backend
named by the call's argument, by the innermost `use_backend`, by the environment variable
BRIDGE_PETS_BACKEND; else the first of `BACKENDS` that runs on the tensors by itself. A named backend
that cannot run is an error, never replaced.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

VARIABLE = "BRIDGE_PETS_BACKEND"

logger = logging.getLogger(__name__)
_forced: ContextVar[str | None] = ContextVar("backend", default=None)


@dataclass(frozen=True, eq=False)
class Backend:
    """One implementation of every operation.

    Attributes:
        name: what it is called in overrides.
        module: where its operations are, imported when one is first called.
        refusal: why it cannot run on tensors like this one; None if it can.
        by_itself: whether it may be chosen for tensors like this one without being named.
    """

    name: str
    module: str
    refusal: Callable[[Tensor], str | None]
    by_itself: Callable[[Tensor], bool]

    @property
    def operations(self) -> Any:
        """The module that holds them."""
        found = sys.modules.get(self.module)
        if found is None or getattr(found.__spec__, "_initializing", False):  # in another thread
            return importlib.import_module(self.module)
        return found


@dataclass(frozen=True)
class Choice:
    """A backend and why it was taken."""

    backend: Backend
    reason: str


def _pytorch_refusal(like: Tensor) -> str | None:
    return None


def _triton_refusal(like: Tensor) -> str | None:
    if like.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"its kernels compute in 32 bits, not in {like.dtype}"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if like.device.type != "cuda":
        if not interpreted:
            return f"the tensors are on {like.device}, not on a CUDA device"
    elif interpreted:
        return "with TRITON_INTERPRET=1 it runs on CPU tensors alone"
    elif torch.version.hip is not None:
        return "its kernels were only tried on NVIDIA devices"
    else:
        major, minor = torch.cuda.get_device_capability(like.device)
        if (major, minor) < (8, 0):
            return f"compute capability {major}.{minor} is below 8.0"
    # Last: until it is imported this looks through folders, and a CPU asks at every operation.
    return "triton is not installed" if find_spec("triton") is None else None


BACKENDS: list[Backend] = [
    Backend("triton", "kernels.gpu.operations", _triton_refusal, lambda like: like.is_cuda),
    Backend("pytorch", "kernels.pytorch", _pytorch_refusal, lambda like: True),
]
"""In order of priority."""

_OURS = frozenset(BACKENDS)

_chosen: dict[tuple[object, ...], Choice] = {}  # without being named


def choose(like: Tensor, backend: str | None = None) -> Choice:
    """The backend for tensors like this one.

    Args:
        like: device and dtype of the operation.
        backend: a name that overrides everything else.

    Raises:
        ValueError: for a name that is not known, or a named backend that cannot run here.
    """
    for name, origin in (
        (backend, "named by the call"),
        (_forced.get(), "named by use_backend"),
        (os.environ.get(VARIABLE), f"named by {VARIABLE}"),
    ):
        if name:
            named = _by_name(name, origin)
            why_not = named.refusal(like)
            if why_not is not None:
                raise ValueError(f"backend {name!r}, {origin}, cannot run: {why_not}")
            return _said(Choice(named, origin), like)
    if not _OURS.issuperset(BACKENDS):  # which may look at more of a tensor
        return _said(_first(like), like)
    # What else it depends on stays as it is in a process; asked at every operation of every step.
    key = like.device, like.dtype, os.environ.get("TRITON_INTERPRET"), *BACKENDS
    choice = _chosen.get(key)
    if choice is None:
        choice = _chosen[key] = _first(like)
    return _said(choice, like)


def _first(like: Tensor) -> Choice:
    """The first backend that runs by itself on tensors like this one."""
    passed_over: list[str] = []
    for candidate in BACKENDS:
        why_not = candidate.refusal(like)
        if why_not is None and candidate.by_itself(like):
            reason = "; ".join([f"first that runs on {like.device} in {like.dtype}", *passed_over])
            return Choice(candidate, reason)
        passed_over.append(f"not {candidate.name}: {why_not or 'only when named'}")
    raise RuntimeError(f"no kernel backend runs on {like.device}: {'; '.join(passed_over)}")


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within this context every operation runs on the named backend, or fails.

    Raises:
        ValueError: for a name that is not known.
    """
    token = _forced.set(_by_name(name, "named by use_backend").name)
    try:
        yield
    finally:
        _forced.reset(token)


def explain(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> str:
    """Which backend runs on a device in a dtype, and why, in one line.

    Raises:
        ValueError: for a backend that `use_backend` or BRIDGE_PETS_BACKEND names, and that is unknown
            or cannot run here.
    """
    choice = choose(torch.empty(0, device=device, dtype=dtype))
    return f"{choice.backend.name} ({choice.reason})"


def _by_name(name: str, origin: str) -> Backend:
    for backend in BACKENDS:
        if backend.name == name:
            return backend
    raise ValueError(
        f"unknown backend {name!r}, {origin} (known: {', '.join(b.name for b in BACKENDS)})"
    )


def _said(choice: Choice, like: Tensor) -> Choice:
    logger.debug("%s for %s %s: %s", choice.backend.name, like.device, like.dtype, choice.reason)
    return choice
