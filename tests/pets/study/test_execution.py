"""Work goes on past failing items, dying workers and lost nodes, and nothing outlives an interrupt.

What needs a process of its own (interrupts, Ray) is this file run as a script; see `main`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from places import script_environment
from ray_cluster import two_nodes

from bridges import BadInput
from pets.study.execution import attempt, local
from pets.study.execution import ray as cluster
from pets.study.execution.attempt import ATTEMPTS, Failure
from pets.study.execution.outcomes import outcomes

pytestmark = pytest.mark.slow

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="ray is not installed (extra `ray`)")

PLAIN = ["1", "2", "3", "4", "5"]
BAD, BUG, DIES, ONCE, SLEEPS = "bad", "bug", "dies", "once-dies", "sleeps"
WAIT = [f"waits-{i}" for i in range(3)]
"""Until there is a file "go"."""


def make(folder: Path) -> dict[str, Any]:
    leave(folder, "context")
    return {"folder": folder, "factor": 3.0}


def leave(folder: Path, what: str) -> None:
    """A mark of what this process did."""
    (folder / f"{what} {os.getpid()} {time.monotonic_ns()}").touch()


def marks(folder: Path, what: str) -> list[int]:
    """Process ids, one for each time that it was done."""
    return [int(path.name[len(what) + 1 :].split()[0]) for path in sorted(folder.glob(f"{what} *"))]


def work(context: dict[str, Any], item: str) -> dict[str, Any]:
    folder = context["folder"]
    first = not marks(folder, item)
    leave(folder, item)
    if item == BAD:
        raise BadInput("bad item: choose\nanother")
    if item == BUG:
        raise ZeroDivisionError("bug in item")
    if item == DIES or (item == ONCE and first):
        os.kill(os.getpid(), signal.SIGKILL)
    if item.startswith(SLEEPS):
        time.sleep(600)
    while item in WAIT and not (folder / "go").exists():
        time.sleep(0.1)
    return {"item": item, "value": float(torch.tensor(len(item) / 7.0).sin() * context["factor"])}


def threads(context: dict[str, Any], item: str) -> int:
    return torch.get_num_threads()


def fail(folder: Path) -> Any:
    raise BadInput(f"no context in {folder.name}")


def found(folder: Path, items: list[str], **options: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return dict(outcomes(work, items, make_context=functools.partial(make, folder), **options))


# In this process


def test_items_are_done_in_their_order_with_one_context(tmp_path: Path) -> None:
    results = list(outcomes(work, PLAIN, make_context=functools.partial(make, tmp_path)))
    assert [item for item, _ in results] == [result["item"] for _, result in results] == PLAIN
    assert len(marks(tmp_path, "context")) == 1


def test_nothing_to_do_is_done_without_a_context(tmp_path: Path) -> None:
    assert found(tmp_path, []) == found(tmp_path, [], jobs=2) == {}
    assert not marks(tmp_path, "context")


FAILURES = {
    BAD: Failure("BadInput", "bad item: choose another"),
    BUG: Failure("ZeroDivisionError", "bug in item"),
}


def test_a_failing_item_is_recorded_and_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = found(tmp_path, [BAD, "1", BUG, "2"])
    assert {item: results[item] for item in FAILURES} == FAILURES
    assert results["1"]["item"] == "1"
    assert results["2"]["item"] == "2"
    assert "in work" in caplog.text  # where the bug is ...
    assert "bad item" not in caplog.text  # ... and of bad input the message is enough


@pytest.mark.parametrize("jobs", [1, 2])
def test_without_a_context_nothing_can_go_on(jobs: int, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"no context in {tmp_path.name}"):
        list(outcomes(work, ["1"], make_context=functools.partial(fail, tmp_path), jobs=jobs))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"jobs": 0}, "jobs=0"), ({"jobs": 2, "ray": "local"}, "jobs=2 together with Ray")],
)
def test_bad_options_are_refused_before_anything_is_done(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        outcomes(work, PLAIN, make_context=functools.partial(make, tmp_path), **options)


def test_torchrun_is_for_a_single_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadInput, match="started by torchrun"):
        outcomes(work, PLAIN, make_context=dict)


# In processes


def test_processes_find_what_one_finds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    items = [*PLAIN, BAD, BUG]
    one, two = tmp_path / "one", tmp_path / "two"
    assert found(two, items, jobs=2) == found(one, items) == {**found(one, PLAIN), **FAILURES}
    assert {os.getpid()} == set(marks(one, "context"))
    assert os.getpid() not in marks(two, "context")
    assert 1 <= len(marks(two, "context")) <= 2
    assert "7 to do, one after another" in caplog.text
    assert "7 to do, in 2 processes" in caplog.text


def test_a_process_gets_its_share_of_the_threads(tmp_path: Path) -> None:
    make_context = functools.partial(make, tmp_path)
    assert list(outcomes(threads, ["1"], make_context=make_context, jobs=500)) == [("1", 1)]


def test_a_dying_worker_costs_only_the_item_that_kills_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "ATTEMPTS", 2)
    monkeypatch.setattr(local, "ATTEMPTS", 2)
    results = found(tmp_path, [ONCE, DIES, "1"], jobs=2)
    assert str(results.pop(DIES)) == "WorkerDied: its worker died 2 times: killed, or out of memory"
    assert results == found(tmp_path, [ONCE, "1"])
    # Deaths beside another item do not count, as the fault may have been the other's.
    assert 2 <= len(marks(tmp_path, DIES)) <= 3


def test_an_error_between_two_results_leaves_no_worker(tmp_path: Path) -> None:
    results = outcomes(work, ["1", SLEEPS], make_context=functools.partial(make, tmp_path), jobs=2)
    with contextlib.closing(results):
        next(results)
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()


# In processes of their own


def main(mode: str, folder: Path) -> None:
    """What the tests below interrupt, and what they read the results of."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner may have had it ignored
    context = functools.partial(make, folder)
    results: dict[str, Any] = {}
    if mode == "sleep":
        list(outcomes(work, [f"{SLEEPS}-{i}" for i in range(2)], make_context=context, jobs=2))
    elif mode == "sleep on ray":
        list(outcomes(work, [f"{SLEEPS}-0"], make_context=context, ray="local"))
    else:
        with two_nodes() as (cluster, other):
            for item, result in outcomes(work, ON_RAY, make_context=context, ray=cluster.address):
                results[item] = str(result) if isinstance(result, Failure) else result
                if len(results) == 1:
                    lose_at_work(other, cluster, folder)
    (folder / "results.json").write_text(json.dumps(results))


ON_RAY = [BAD, *WAIT, DIES, BUG, ONCE, "1"]


def lose_at_work(other: Any, cluster: Any, folder: Path) -> None:
    """Kill a node once it has begun with an item that waits for that."""
    raylet = other.all_processes["raylet"][0].process.pid
    at_work: dict[str, int] = {}
    while not at_work:
        time.sleep(0.1)
        at_work = {item: w for item in WAIT for w in marks(folder, item) if parent(w) == raylet}
    cluster.remove_node(other, allow_graceful=False)
    for worker in at_work.values():  # without its raylet a worker goes on for a moment
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    (folder / "lost.json").write_text(json.dumps(list(at_work)))
    (folder / "go").touch()


def parent(process: int) -> int | None:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return None


def start(mode: str, folder: Path) -> subprocess.Popen[bytes]:
    environment = script_environment(OMP_NUM_THREADS="1")
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, __file__, mode, str(folder)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def log_of(folder: Path) -> str:
    return (folder / "log").read_text()


def wait_for(condition: Callable[[], object], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, log_of(folder)
        time.sleep(0.05)


def runs(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    try:
        return state.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@needs_proc
@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("sleep", signal.SIGINT),
        ("sleep", signal.SIGKILL),
        pytest.param("sleep on ray", signal.SIGINT, marks=needs_ray),
    ],
)
def test_nothing_outlives_an_interrupted_run(mode: str, kind: signal.Signals, tmp_path: Path) -> None:
    process = start(mode, tmp_path)
    try:
        count = 2 if mode == "sleep" else 1
        workers: list[int] = []
        wait_for(lambda: len(marks(tmp_path, f"{SLEEPS}-{count - 1}")) == 1, tmp_path)
        workers = [worker for i in range(count) for worker in marks(tmp_path, f"{SLEEPS}-{i}")]
        assert all(map(runs, workers))
        if kind == signal.SIGINT:
            os.killpg(process.pid, kind)  # as a terminal's Ctrl-C, which every process gets
        else:
            process.kill()
        assert process.wait(60) != 0
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not any(map(runs, workers)), tmp_path)
    # No worker has anything to say.
    assert log_of(tmp_path).count("KeyboardInterrupt") == (kind == signal.SIGINT)


# On Ray


@needs_ray
@needs_proc
def test_a_lost_node_and_dying_workers_cost_nothing_but_time(tmp_path: Path) -> None:
    """On a Ray cluster of two nodes, one of which is killed at work."""
    process = start("lose a node", tmp_path)
    try:
        code = process.wait(300)
    finally:
        process.kill()
        process.wait()
    assert code == 0, log_of(tmp_path)
    for item in json.loads((tmp_path / "lost.json").read_text()):
        assert len(marks(tmp_path, item)) == 2  # on the node that was lost, and again
    results = json.loads((tmp_path / "results.json").read_text())
    assert results.pop(DIES) == str(Failure.worker_died())
    assert len(marks(tmp_path, DIES)) == ATTEMPTS
    expected = found(tmp_path, [item for item in ON_RAY if item != DIES])
    assert results == {k: str(v) if isinstance(v, Failure) else v for k, v in expected.items()}


@needs_ray
@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:x", "ray://127.0.0.1:10001", ":1"])
def test_what_is_no_address_of_a_ray_cluster_is_refused(address: str) -> None:
    with pytest.raises(BadInput, match=r"expected HOST:PORT, 'auto' or 'local'"):
        outcomes(work, PLAIN, make_context=dict, ray=address)


@needs_ray
def test_an_unreachable_ray_is_said_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray by itself tries for many minutes, without a word where its log level is low."""
    monkeypatch.setattr(cluster, "_SECONDS", 0.5)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(BadInput, match=f"Ray cannot be reached at {address}.*refused"):
            outcomes(work, PLAIN, make_context=dict, ray=address)
        server.listen()  # somebody is there, but no Ray
        with pytest.raises(BadInput, match=f"no Ray head answers at '{address}'"):
            outcomes(work, PLAIN, make_context=dict, ray=address)


def test_without_ray_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadInput, match="pip install 'ray"):
        outcomes(work, PLAIN, make_context=dict, ray="local")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
