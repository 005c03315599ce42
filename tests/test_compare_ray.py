"""A comparison on a Ray cluster of two nodes, one of which is killed at work."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from comparison_cases import rows_of, save_glue, save_model, small_grid
from ray_cluster import two_nodes
from tiny import TEXTS

from bridges import BadInput
from pets.compare import step_times
from pets.compare.run import Comparison, compare

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture(scope="module", autouse=True)
def _few_rounds() -> Iterator[None]:
    """Step times are not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_times, "_ROUNDS", (1, 1))
        yield


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    save_model(tmp_path / "model")
    save_glue(tmp_path / "glue")
    return tmp_path


def run(inputs: Path, name: str, *, ray: str | None = None) -> Comparison:
    where = (inputs / name, str(inputs / "model"), inputs / "glue", tuple(TEXTS))
    return compare(small_grid(), *where, ray=ray, progress=False)


def test_a_lost_node_changes_nothing_in_the_table(inputs: Path) -> None:
    assert run(inputs, "alone").failed == 0
    with two_nodes() as (cluster, other):

        def kill_at_work() -> None:
            while not list((inputs / "ray" / "cells").glob("*/try-*")):
                time.sleep(0.05)
            cluster.remove_node(other, allow_graceful=False)

        watcher = threading.Thread(target=kill_at_work)
        watcher.start()
        assert run(inputs, "ray", ray=cluster.address) == Comparison(done=6, failed=0, reused=0)
        watcher.join()
    for one, two in zip(rows_of(inputs / "ray"), rows_of(inputs / "alone"), strict=True):
        assert one["cell"] == two["cell"]
        assert one["score"] == two["score"]
        for a, b in zip(one["tries"], two["tries"], strict=True):  # rounding: other numbers of threads
            assert a["dev_loss"] == pytest.approx(b["dev_loss"], rel=1e-4)


def test_an_unreachable_cluster_is_said_before_anything_is_loaded(inputs: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(BadInput, match=f"Ray cannot be reached at 127.0.0.1:{port}"):
            run(inputs, "runs", ray=f"127.0.0.1:{port}")
        assert time.monotonic() - began < 60  # Ray itself goes on for a quarter of an hour
    assert not (inputs / "runs").exists()
