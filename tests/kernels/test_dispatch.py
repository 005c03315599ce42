"""Which backend runs: the order of the overrides, the reasons given, and that it really runs."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import os
import sys
import threading
import types
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from sde_cases import case
from torch import Tensor

from kernels import dispatch, pytorch
from kernels.bridge_nll import bridge_nll
from kernels.dispatch import VARIABLE, Backend, choose, explain, use_backend
from kernels.lens import lens_nll, lens_project
from kernels.pooling import pool_trajectory
from kernels.sde import sde_cost

LIKE = torch.zeros(2)
ROUTES = ("the call", "use_backend", VARIABLE)


@pytest.fixture(autouse=True)
def _no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(dispatch, "_chosen", {})  # a test may change what a process does not


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three backends before the real ones: two that run only when named and one that never runs."""

    def fake(name: str, why_not: str | None) -> Backend:
        return Backend(name, f"fake_{name}", lambda like: why_not, lambda like: False)

    front = [fake("one", None), fake("two", None), fake("broken", "it is broken")]
    monkeypatch.setattr(dispatch, "BACKENDS", [*front, *dispatch.BACKENDS])


def chosen(backend: str | None = None) -> str:
    return choose(LIKE, backend=backend).backend.name


def test_a_backend_is_asked_once_about_tensors_that_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[torch.dtype, str | None]] = []

    def refusal(like: Tensor) -> str | None:
        asked.append((like.dtype, os.environ.get("TRITON_INTERPRET")))
        return None

    mine = Backend("mine", "fake_mine", refusal, lambda like: like.dtype == torch.float32)
    monkeypatch.setattr(dispatch, "BACKENDS", [mine, *dispatch.BACKENDS])
    monkeypatch.setattr(dispatch, "_OURS", frozenset(dispatch.BACKENDS))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert [chosen() for _ in range(3)] == ["mine"] * 3
    assert choose(LIKE.double()).backend.name == "pytorch"
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert chosen() == "mine"
    assert asked == [(torch.float32, "1"), (torch.float64, "1"), (torch.float32, "0")]
    monkeypatch.setattr(dispatch, "BACKENDS", dispatch.BACKENDS[1:])
    assert chosen() == "pytorch"


def test_a_backend_of_somebody_else_may_look_at_more_of_a_tensor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refusal(like: Tensor) -> str | None:
        return None if like.dim() == 2 else "it reads matrices"

    mine = Backend("mine", "fake_mine", refusal, lambda like: True)
    monkeypatch.setattr(dispatch, "BACKENDS", [mine, *dispatch.BACKENDS])
    assert choose(torch.zeros(2, 2)).backend.name == "mine"
    assert choose(torch.zeros(2)).backend.name == "pytorch"


# The order of the overrides


def test_without_an_override_a_cpu_gets_pytorch() -> None:
    choice = choose(LIKE)
    assert choice.backend.name == "pytorch"
    assert choice.reason.startswith("first that runs on cpu in torch.float32; not triton: ")
    assert choice.backend.operations is pytorch


@pytest.mark.usefixtures("fakes")
def test_the_call_beats_use_backend_which_beats_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen() == "pytorch"
    monkeypatch.setenv(VARIABLE, "one")
    assert (chosen(), choose(LIKE).reason) == ("one", f"named by {VARIABLE}")
    with use_backend("two"):
        assert (chosen(), choose(LIKE).reason) == ("two", "named by use_backend")
        assert chosen("pytorch") == "pytorch"
        assert choose(LIKE, backend="pytorch").reason == "named by the call"
    assert chosen() == "one"
    monkeypatch.setenv(VARIABLE, "")
    assert chosen() == "pytorch"


def _named(route: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for a backend on one of the three routes."""
    if route == "the call":
        choose(LIKE, backend=name)
    elif route == "use_backend":
        with use_backend(name):
            choose(LIKE)
    else:
        monkeypatch.setenv(VARIABLE, name)
        choose(LIKE)


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize("route", ROUTES)
def test_a_named_backend_that_cannot_run_is_an_error_with_its_reason(
    route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ValueError, match=rf"backend 'broken', named by {route}, cannot run: it is broken"
    ):
        _named(route, "broken", monkeypatch)


@pytest.mark.parametrize("route", ROUTES)
def test_an_unknown_name_is_an_error_with_the_known_ones(
    route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = rf"unknown backend 'cuda', named by {route} \(known: triton, pytorch\)"
    with pytest.raises(ValueError, match=message):
        _named(route, "cuda", monkeypatch)


def test_use_backend_refuses_an_unknown_name_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="unknown backend 'cuda'"):
        use_backend("cuda").__enter__()
    assert chosen() == "pytorch"


@pytest.mark.usefixtures("fakes")
def test_nested_use_backend_goes_back_to_the_one_around_it() -> None:
    with use_backend("one"):
        with use_backend("two"):
            assert chosen() == "two"
        assert chosen() == "one"
    assert chosen() == "pytorch"


def _fail_within(name: str) -> None:
    with use_backend(name):
        raise RuntimeError("elsewhere")


@pytest.mark.usefixtures("fakes")
def test_use_backend_ends_with_an_exception_too() -> None:
    with pytest.raises(RuntimeError, match="elsewhere"):
        _fail_within("one")
    assert chosen() == "pytorch"


@pytest.mark.usefixtures("fakes")
def test_another_thread_does_not_see_use_backend() -> None:
    inside, seen = threading.Event(), threading.Event()

    def work() -> list[str]:
        before = chosen()
        with use_backend("two"):
            inside.set()
            seen.wait(60)
            return [before, chosen()]

    with concurrent.futures.ThreadPoolExecutor(1) as pool, use_backend("one"):
        found = pool.submit(work)
        inside.wait(60)
        assert chosen() == "one"
        seen.set()
        assert found.result() == ["pytorch", "two"]


# Reasons


def test_explain_says_what_runs_and_why() -> None:
    assert explain().startswith("pytorch (first that runs on cpu in torch.float32; not triton: ")
    assert "not triton: its kernels compute in 32 bits, not in torch.float64" in explain(
        dtype=torch.float64
    )
    with use_backend("pytorch"):
        assert explain() == "pytorch (named by use_backend)"


def test_a_choice_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="kernels.dispatch"):
        choose(LIKE, backend="pytorch")
    assert caplog.messages == ["pytorch for cpu torch.float32: named by the call"]


@pytest.mark.usefixtures("fakes")
def test_what_was_passed_over_is_in_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "; not one: only when named; not two: only when named; not broken: it is broken" in explain()
    monkeypatch.setattr(dispatch, "BACKENDS", dispatch.BACKENDS[:3])
    with pytest.raises(
        RuntimeError, match=r"no kernel backend runs on cpu: not one: only when named; .*it is broken"
    ):
        choose(LIKE)


def _triton(**changes: Any) -> str | None:
    """Triton's refusal of a CUDA device's tensor that there need not be."""
    stub = types.SimpleNamespace(dtype=torch.float32, device=torch.device("cuda", 0), is_cuda=True)
    stub.__dict__.update(changes)
    return dispatch.BACKENDS[0].refusal(stub)  # type: ignore[arg-type]


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA device of compute capability 9.0, without the interpreter."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.version, "hip", None)


needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


@needs_triton
@pytest.mark.usefixtures("hopper")
def test_triton_takes_what_it_can() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert _triton(dtype=dtype) is None
    assert dispatch.BACKENDS[0].by_itself(types.SimpleNamespace(is_cuda=True))  # type: ignore[arg-type]
    assert not dispatch.BACKENDS[0].by_itself(LIKE)


@needs_triton
@pytest.mark.usefixtures("hopper")
def test_the_interpreter_runs_on_cpu_tensors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert _triton(device=torch.device("cpu")) is None
    assert _triton() == "with TRITON_INTERPRET=1 it runs on CPU tensors alone"


@needs_triton
@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": torch.float64}, "its kernels compute in 32 bits, not in torch.float64"),
        ({"device": torch.device("cpu")}, "the tensors are on cpu, not on a CUDA device"),
    ],
)
def test_triton_says_why_not(changes: dict[str, Any], reason: str) -> None:
    assert _triton(**changes) == reason


@needs_triton
@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize(("capability", "refused"), [((7, 5), True), ((8, 0), False), ((12, 0), False)])
def test_triton_needs_compute_capability_8(
    capability: tuple[int, int], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert _triton() == ("compute capability 7.5 is below 8.0" if refused else None)


@needs_triton
@pytest.mark.usefixtures("hopper")
def test_triton_is_for_nvidia(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.0")
    assert _triton() == "its kernels were only tried on NVIDIA devices"


def test_without_triton_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="named by the call, cannot run: triton is not installed"):
        choose(LIKE, backend="triton")
    assert "not triton: triton is not installed" in explain()


@needs_triton
def test_on_a_cpu_triton_runs_in_its_interpreter_and_only_when_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert chosen("triton") == "triton"
    assert "not triton: only when named" in explain()
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match="cannot run: the tensors are on cpu, not on a CUDA device"):
        chosen("triton")


# What is chosen runs


def _pool(backend: str | None) -> Tensor:
    hidden = [torch.ones(1, 2, 3)] * 4
    mask = torch.ones(1, 2, dtype=torch.bool)
    return pool_trajectory(hidden, mask, *torch.zeros(2, 1, dtype=torch.int64), backend=backend)[0]


def _nll(backend: str | None) -> Tensor:
    x = case()
    law = torch.ones(4)
    arguments = (*(x.states, x.context, x.rows, x.weights, x.biases, x.end), None, law, law)
    return bridge_nll(*arguments, backend=backend)


def _sde(backend: str | None) -> Tensor:
    return sde_cost(*case().arguments(), backend=backend)[0]


def _targets(backend: str | None) -> Tensor:
    hidden, mask = [torch.ones(1, 2, 3)] * 4, torch.ones(1, 2, dtype=torch.bool)
    where = torch.zeros(2, 1, dtype=torch.int64)
    return pool_trajectory(hidden, mask, *where, context=False, backend=backend)[0]


def _lens() -> tuple[Tensor, Tensor, Tensor]:
    x = case()
    return x.states, x.states.new_ones(len(x.states), 2, x.states.shape[2]), torch.ones(len(x.states), 2)


def _lens_project(backend: str | None) -> Tensor:
    return lens_project(*_lens(), backend=backend)


def _lens_nll(backend: str | None) -> Tensor:
    states, *lens = _lens()
    law = torch.ones(len(states))
    return lens_nll(states, *lens, torch.ones(states.shape[1], 2), law, law, law, backend=backend)


OPERATIONS: dict[str, Callable[[str | None], Tensor]] = {
    "pool_trajectory": _pool,
    "target_states": _targets,
    "lens_project": _lens_project,
    "lens_nll": _lens_nll,
    "bridge_nll": _nll,
    "solve_sequential": _sde,
}


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """A backend whose results cannot be mistaken, before the others; and what it was asked about."""
    seen: list[torch.dtype] = []
    module = types.ModuleType("marked_backend")
    module.pool_trajectory = lambda *_, **__: (torch.tensor(-1.0), torch.tensor(-1.0))  # type: ignore[attr-defined]
    for name in ("target_states", "lens_project", "lens_nll"):
        setattr(module, name, lambda *_, **__: torch.tensor(-1.0))
    module.bridge_nll = lambda *_, **__: torch.tensor([-1.0])  # type: ignore[attr-defined]

    def solve(*arguments: Any) -> Any:
        found = pytorch.solve_sequential(*arguments)
        return dataclasses.replace(found, y=found.y * 0, values=[value * 0 for value in found.values])

    module.solve_sequential = solve  # type: ignore[attr-defined]
    module.adjoint_sequential = pytorch.adjoint_sequential  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "marked_backend", module)

    def refusal(like: Tensor) -> str | None:
        seen.append(like.dtype)
        return None

    front = Backend("marked", "marked_backend", refusal, lambda like: True)
    monkeypatch.setattr(dispatch, "BACKENDS", [front, *dispatch.BACKENDS])
    return seen


def is_marked(name: str, value: Tensor) -> bool:
    """The marked path is zero: half of the weighted square of the end points is left."""
    x = case()
    expected = torch.tensor(-1.0)
    if name == "solve_sequential":
        at_nodes = x.grid.of_end[:, None, None] * x.end
        expected = at_nodes.square().sum((1, 2)) @ x.grid.weight / (2 * len(x.end))
    return bool(torch.allclose(value.double(), expected.double(), rtol=1e-12))


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_backend_in_front_runs_every_operation(name: str, marked: list[torch.dtype]) -> None:
    assert is_marked(name, OPERATIONS[name](None))
    assert not is_marked(name, OPERATIONS[name]("pytorch"))
    with use_backend("pytorch"):
        assert not is_marked(name, OPERATIONS[name](None))
        assert is_marked(name, OPERATIONS[name]("marked"))


def test_a_backend_is_asked_with_the_dtype_of_the_operation(marked: list[torch.dtype]) -> None:
    _pool(None)
    _nll(None)
    assert marked == [torch.float32, torch.float64]


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_refuses_an_unknown_backend(name: str) -> None:
    with pytest.raises(ValueError, match="unknown backend 'cuda', named by the call"):
        OPERATIONS[name]("cuda")


def test_the_gradient_runs_where_the_value_did(
    marked: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it is asked for after use_backend has ended, as autograd's own threads would."""
    module, calls = sys.modules["marked_backend"], []

    def adjoint(*arguments: Any) -> Any:
        calls.append("marked")
        return pytorch.adjoint_sequential(*arguments)

    monkeypatch.setattr(module, "adjoint_sequential", adjoint)
    x = case().trainable()
    with use_backend("pytorch"):
        value = sde_cost(*x.arguments(), solver="sequential")[0]
    value.backward()
    assert calls == []
    sde_cost(*x.arguments(), solver="sequential")[0].backward()
    assert calls == ["marked"]
