"""Independent pieces of work on a Ray cluster, which survives the loss of workers and of nodes."""

from __future__ import annotations

import functools
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch

from bridges.errors import BadInput
from pets import extras
from pets.study.execution.attempt import ATTEMPTS, Failure, attempt

logger = logging.getLogger(__name__)

_SECONDS = 5
"""To be reached in: 0.1 are enough for a head, which then has four times as long to answer."""


def connect(address: str) -> Any:
    """The module `ray`, connected; the caller ends it with ``shutdown``.

    Ray itself goes on trying for a quarter of an hour where nothing answers.

    Args:
        address: "local", "auto" or "host:port", see `outcomes`.

    Raises:
        BadInput: within seconds, if Ray is not installed, nothing answers, or what does is of no use.
    """
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_gcs_server_request_timeout_seconds": "20",  # else 60, where this machine is no node
        "RAY_task_oom_retries": str(ATTEMPTS - 1),  # else without end
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default, without a warning about it
    }.items():
        os.environ.setdefault(name, value)
    check(address)
    import ray

    options = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BadInput(
            f"Ray at {address!r} cannot be used from here: {_one_line(error)} (this machine must be one "
            f"of the cluster's nodes: `ray start --address {address}`)"
        ) from error
    return ray


def check(address: str) -> None:
    """Whether Ray is there and can be reached.

    Raises:
        BadInput: if not, within seconds.
    """
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise extras.missing(f"Ray is not installed ({error})", "ray") from error
    if address != "local":
        _check_answers(address)


def _check_answers(address: str) -> None:
    """Whether a Ray head answers at an address."""
    reach = "give the HOST:PORT that `ray start --head` printed, or 'local'"
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or "/" in host:
            raise BadInput(f"Ray address {address!r}: expected HOST:PORT, 'auto' or 'local'")
        try:
            socket.create_connection((host, int(port)), timeout=_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise BadInput(f"Ray cannot be reached at {address}: {error}; {reach}") from error
    # Another kind of server may listen there, and "auto" may lead to a head that has gone.
    command = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
    try:
        done = subprocess.run(command, capture_output=True, timeout=4 * _SECONDS, check=False)
        silent = done.returncode != 0
    except subprocess.TimeoutExpired:
        silent = True
    if silent:
        raise BadInput(f"no Ray head answers at {address!r}: {reach}")


def outcomes(
    ray: Any,
    function: Callable[[Any, Any], Any],
    items: Sequence[Any],
    make_context: Callable[[], Any],
) -> Generator[Any, None, None]:
    """As `outcomes`; one CPU an item, and a GPU where this machine has one."""
    gpus = int(torch.cuda.is_available())  # as the context is made here, its tensors are on it
    try:
        found = ray.cluster_resources()
        nodes = sum(node["Alive"] for node in ray.nodes())
        for kind, needed in (("CPU", 1), ("GPU", gpus)):
            if found.get(kind, 0) < needed:
                raise BadInput(
                    f"the {nodes} nodes of the Ray cluster offer no {kind}: start one that does"
                )
        logger.info(
            "%d to do, on Ray: %d nodes, %d CPUs, %d GPUs",
            len(items),
            nodes,
            found["CPU"],
            found.get("GPU", 0),
        )
        if not items:
            return
        task = ray.remote(_in_worker).options(num_cpus=1, num_gpus=gpus, max_retries=ATTEMPTS - 1)
        shared = ray.put(make_context())
        # In a list, or Ray would load it anew for every item.
        pending = {task.remote(function, [shared], item): item for item in items}
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1)
            for reference in done:
                yield pending.pop(reference), _result(ray, reference)
    finally:
        ray.shutdown()


def _result(ray: Any, reference: Any) -> Any:
    errors = ray.exceptions
    try:
        return ray.get(reference)
    except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
        return Failure.worker_died(str(error))
    except errors.RayTaskError as error:  # not of the item, which `attempt` catches
        if "No module named" in str(error):
            raise BadInput(
                f"a node of the Ray cluster lacks a package ({_one_line(error.cause)}): install the "
                "same bridge-pets on every node"
            ) from error
        raise
    except errors.RayError as error:
        return Failure.of(error)


# In the worker processes


def _in_worker(function: Callable[[Any, Any], Any], shared: list[Any], item: Any) -> Any:
    return attempt(function, _context(shared[0]), item)


@functools.lru_cache(maxsize=1)
def _context(reference: Any) -> Any:
    import ray

    return ray.get(reference)


def _one_line(error: BaseException) -> str:
    lines = [line for line in str(error).split("\n") if line.strip()]
    return " ".join((lines or [type(error).__name__])[-1].split())
