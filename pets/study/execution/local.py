"""Work on this machine: one item after another, or in processes that do not outlive this one."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any

import torch

from pets.study.execution.attempt import ATTEMPTS, Failure, attempt

logger = logging.getLogger(__name__)


def one_after_another(
    function: Callable[[Any, Any], Any], items: Sequence[Any], make_context: Callable[[], Any]
) -> Generator[Any, None, None]:
    """As `outcomes` with one job, in this process."""
    if items:
        logger.info("%d to do, one after another", len(items))
        context = make_context()
    for item in items:
        yield item, attempt(function, context, item)


def in_processes(
    function: Callable[[Any, Any], Any],
    items: Sequence[Any],
    make_context: Callable[[], Any],
    jobs: int,
) -> Generator[Any, None, None]:
    """As `outcomes` with several jobs; what ran when a worker died runs again alone."""
    logger.info("%d to do, in %d processes", len(items), min(jobs, len(items)))
    threads = threads_of(jobs)
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


def threads_of(jobs: int) -> int:
    """How many threads each of so many processes has: no more than torch takes here."""
    return min(max(1, _cores() // jobs), torch.get_num_threads())


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
    torch.set_num_threads(threads)
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
