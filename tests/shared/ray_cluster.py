"""A real Ray cluster on this machine, of a head and another node."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def two_nodes() -> Iterator[tuple[Any, Any]]:
    """The cluster and its other node, which ``cluster.remove_node(other, False)`` kills."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **options})
    other = cluster.add_node(**options)
    cluster.wait_for_nodes()
    try:
        yield cluster, other
    finally:
        cluster.shutdown()
