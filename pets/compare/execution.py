"""Independent pieces of work one after another, in processes or on Ray, none of which stops the rest."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from bridges.errors import BadInput, check_counts, is_out_of_memory

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
Context = TypeVar("Context")

ATTEMPTS = 3
"""How often an item may take its worker down with it."""


@dataclass(frozen=True)
class Failure:
    """What came of an item instead of a result.

    Attributes:
        kind: class of the exception, or "WorkerDied".
        message: one line, the same in equal runs.
        traceback: for the log; empty where the message says it all.
    """

    kind: str
    message: str
    traceback: str = field(default="", compare=False, repr=False)

    @classmethod
    def of(cls, error: Exception) -> Failure:
        told = isinstance(error, BadInput) or is_out_of_memory(error)
        trace = "" if told else "".join(traceback.format_exception(error))
        return cls(type(error).__name__, " ".join(str(error).split()), trace)

    @classmethod
    def worker_died(cls, details: str = "") -> Failure:
        what = f"its worker died {ATTEMPTS} times: killed, or out of memory"
        return cls("WorkerDied", what, details)

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


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
        from pets.compare import on_ray

        found = on_ray.outcomes(on_ray.connect(ray), function, items, make_context)
    elif jobs == 1:
        found = _one_after_another(function, items, make_context)
    else:
        found = _in_processes(function, items, make_context, jobs)
    return _logged(found)


def attempt(function: Callable[[Any, Any], Any], context: Any, item: Any) -> Any:
    """The item's result or its failure."""
    try:
        return function(context, item)
    except Exception as error:
        return Failure.of(error)


def _logged(found: Generator[Any, None, None]) -> Generator[Any, None, None]:
    with contextlib.closing(found):
        for item, result in found:
            if isinstance(result, Failure) and result.traceback:
                logger.error("%s", result.traceback.rstrip())
            yield item, result


def _one_after_another(
    function: Callable[[Any, Any], Any], items: Sequence[Any], make_context: Callable[[], Any]
) -> Generator[Any, None, None]:
    if items:
        logger.info("%d to do, one after another", len(items))
        context = make_context()
    for item in items:
        yield item, attempt(function, context, item)


def _in_processes(
    function: Callable[[Any, Any], Any],
    items: Sequence[Any],
    make_context: Callable[[], Any],
    jobs: int,
) -> Generator[Any, None, None]:
    logger.info("%d to do, in %d processes", len(items), min(jobs, len(items)))
    threads = max(1, _cores() // jobs)
    left = deque(range(len(items)))
    # Those that ran when a worker died run again alone, which tells the one at fault from the others.
    suspects: deque[int] = deque()
    deaths: Counter[int] = Counter()
    while left or suspects:
        queue, width = (suspects, 1) if suspects else (left, min(jobs, len(left)))
        running: dict[Future[Any], int] = {}
        with _workers(make_context, width, threads) as pool:
            try:
                while queue or running:
                    while queue and len(running) < width:
                        running[pool.submit(_in_worker, function, items[queue[0]])] = queue[0]
                        queue.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        yield items[running.pop(future)], result
            except BrokenProcessPool:
                logger.warning("a worker process died; what it ran is tried again")
        for index in running.values():
            deaths[index] += width == 1
            if deaths[index] < ATTEMPTS:
                suspects.append(index)
            else:
                yield items[index], Failure.worker_died()


# In the worker processes


@contextlib.contextmanager
def _workers(make_context: Callable[[], Any], count: int, threads: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes that do not outlive the block, nor this process."""
    spawn = multiprocessing.get_context("spawn")  # a forked torch may hang
    end, held_here = spawn.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        count, mp_context=spawn, initializer=_start_worker, initargs=(make_context, end, threads)
    )
    try:
        yield pool
    finally:
        held_here.close()
        pool.shutdown(cancel_futures=True)
        end.close()


def _start_worker(make_context: Callable[[], Any], end: Connection, threads: int) -> None:
    global _context
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process decides
    threading.Thread(target=_exit_at, args=(end,), daemon=True).start()
    torch.set_num_threads(min(threads, torch.get_num_threads()))
    # Made with the first item, as the pool would hide an error in here.
    _context = functools.cache(make_context)


def _exit_at(end: Connection) -> None:
    """Leave at once, however busy, when the other end of the pipe is closed or its holder is dead."""
    with contextlib.suppress(EOFError, OSError):
        end.recv_bytes()
    os._exit(1)


def _in_worker(function: Callable[[Any, Any], Any], item: Any) -> Any:
    return attempt(function, _context(), item)


_context: Callable[[], Any]
"""Of this worker."""


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
