"""A comparison on a Ray cluster of two nodes, one of which is killed at work."""

from __future__ import annotations

import socket
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from comparison_cases import rows_of, save_inputs, small_grid, sources
from ray_cluster import two_nodes

from bridges import BadInput
from pets.study.compare.run import Tally, compare

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.usefixtures("few_rounds"),
]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    return save_inputs(tmp_path)


def run(inputs: Path, name: str, *, ray: str | None = None) -> Tally:
    return compare(small_grid(), inputs / name, *sources(inputs), ray=ray, progress=False)


def test_a_lost_node_changes_nothing_in_the_table(inputs: Path) -> None:
    assert run(inputs, "alone").failed == 0
    with two_nodes() as (cluster, other):

        def kill_at_work() -> None:
            while not list((inputs / "ray" / "cells").glob("*/try-*")):
                time.sleep(0.05)
            cluster.remove_node(other, allow_graceful=False)

        watcher = threading.Thread(target=kill_at_work)
        watcher.start()
        assert run(inputs, "ray", ray=cluster.address) == Tally(done=6, failed=0, reused=0)
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
