"""Independent pieces of work one after another, in processes or on Ray, none of which stops the rest."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from bridges.errors import BadInput, check_counts
from pets.study.execution import local
from pets.study.execution.attempt import Failure

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
Context = TypeVar("Context")


def outcomes(
    function: Callable[[Context, Item], Result],
    items: Iterable[Item],
    *,
    make_context: Callable[[], Context],
    jobs: int = 1,
    ray: str | None = None,
) -> Generator[tuple[Item, Result | Failure], None, None]:
    """Do ``function(context, item)`` for every item; what came of each comes as soon as it is there.

    An exception of one item becomes its `Failure`, and so does the repeated death of the worker that
    runs it. An error of ``make_context`` ends everything. Leaving the iterator, by an interrupt too,
    stops the workers at once; they also end when this process is killed. With another number of threads
    torch adds in another order: results are the same to the byte for the same ``jobs``, or with
    OMP_NUM_THREADS=1 for all. Close the iterator where an error may come between two results::

        with contextlib.closing(outcomes(run, cells, make_context=load, jobs=4)) as results:
            for cell, result in results: ...

    Args:
        function: at the top level of a module, as workers are sent its name. It must give the same
            result when it is run again: the item of a dead worker is.
        items: of values that can be pickled, as results are.
        make_context: makes what the items share; called once in each process. On Ray it is called
            once, here, and what it makes travels to the workers, so files it reads need not exist
            on other nodes.
        jobs: processes on this machine, each with its share of the threads; 1: none but this one.
        ray: None, or the address "host:port" of a Ray cluster that this machine is a node of, "auto"
            for the one that runs here, "local" to start one here. bridge-pets must be installed on
            every node.

    Raises:
        BadInput: at once, if Ray is not installed or cannot be reached, or under torchrun.
    """
    check_counts(jobs=jobs)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadInput(
            "started by torchrun, which is for a single run: start it plainly, with jobs or Ray"
        )
    items = list(items)
    if ray is not None:
        if jobs != 1:
            raise BadInput(f"jobs={jobs} together with Ray, which has its own workers: leave one out")
        from pets.study.execution import ray as cluster

        found = cluster.outcomes(cluster.connect(ray), function, items, make_context)
    elif jobs == 1:
        found = local.one_after_another(function, items, make_context)
    else:
        found = local.in_processes(function, items, make_context, jobs)
    return _logged(found)


def _logged(found: Generator[Any, None, None]) -> Generator[Any, None, None]:
    with contextlib.closing(found):
        for item, result in found:
            if isinstance(result, Failure) and result.traceback:
                logger.error("%s", result.traceback.rstrip())
            yield item, result
