"""Processes that tests start: forked from a server that has imported what they need.

A new interpreter takes ten seconds of a processor to import torch, transformers and peft; the server
takes them once. What is about imports, or variables that are read at one, starts a new interpreter.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest import mock

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["pets.cli", "pets.study.compare.run", "transformers.trainer", "pytest"])
_FEW_THREADS = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Done:
    """How a process ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


class Started:
    """A running process; it leads a group of its own, which a kill takes along."""

    def __init__(self, process: Any, folder: Path) -> None:
        self._process, self._folder = process, folder
        self.pid: int = process.pid

    @property
    def output(self) -> str:
        """What it wrote so far, errors last."""
        return "".join((self._folder / name).read_text() for name in ("stdout", "stderr"))

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return bool(self._process.is_alive())

    def wait(self, seconds: float = 300) -> Done:
        """Its end.

        Raises:
            TimeoutError: if it does not come; the group is killed then.
        """
        self._process.join(seconds)
        if self._process.exitcode is None:
            self.kill()
            raise TimeoutError(f"{seconds} s passed: {self.output[-3000:]}")
        stdout, stderr = ((self._folder / name).read_text() for name in ("stdout", "stderr"))
        return Done(self._process.exitcode, stdout, stderr)

    def kill(self) -> None:
        """All of the group, if it is there."""
        if self._process.exitcode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.join()


def server() -> Any:
    """The server, as one of multiprocessing's contexts."""
    with mock.patch.dict(os.environ, _FEW_THREADS):
        forkserver.ensure_running()
    return _SERVER


@functools.cache  # made by who starts one: a child that reads this module ends without clearing up
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bridge-pets-processes-")


def start(
    arguments: Sequence[object], *, cwd: Path | None = None, together: bool = False, **environment: str
) -> Started:
    """As ``python *arguments`` in ``cwd``: a script, or ``-m`` a module, or ``-c`` a program.

    With ``together`` all that it writes is its stdout, as after ``2>&1``.
    """
    folder = Path(tempfile.mkdtemp(dir=_folder().name))
    words = [str(argument) for argument in arguments]
    described = {**os.environ, **_FEW_THREADS, **environment}
    process = server().Process(
        target=_main, args=(words, cwd or Path.cwd(), described, folder, together)
    )
    process.start()
    deadline = time.monotonic() + 60
    while not (folder / "stderr").exists():  # then it leads its group
        assert process.is_alive() or (folder / "stderr").exists(), "no process could be started"
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.005)
    return Started(process, folder)


def run(
    arguments: Sequence[object],
    *,
    cwd: Path | None = None,
    seconds: float = 300,
    together: bool = False,
    **environment: str,
) -> Done:
    """The end of `start`."""
    return start(arguments, cwd=cwd, together=together, **environment).wait(seconds)


@contextmanager
def ranks(
    count: int, arguments: Sequence[object], *, cwd: Path | None = None, **environment: str
) -> Iterator[list[Started]]:
    """As many processes with the variables that torchrun sets; in the end none runs on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "tests"}
    sizes = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    started: list[Started] = []
    try:
        for rank in range(count):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            started.append(start(arguments, cwd=cwd, **shared, **sizes, **own, **environment))
        yield started
    finally:
        for process in started:
            process.kill()


def run_ranks(
    count: int, arguments: Sequence[object], *, cwd: Path | None = None, seconds: float = 300
) -> list[Done]:
    """What each of them said; they ended well."""
    with ranks(count, arguments, cwd=cwd) as started:
        done = [process.wait(seconds) for process in started]
    assert [d.returncode for d in done] == [0] * count, "\n".join(d.stderr[-3000:] for d in done)
    return done


def _main(
    words: list[str], cwd: Path, environment: dict[str, str], folder: Path, together: bool
) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(1 if together and number == 2 else file, number)
        os.close(file)
    sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep)
    kind, *rest = words
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.argv = rest
        sys.path.insert(0, "")
        sys.modules.pop(rest[0], None)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(kind).parent))
        runpy.run_path(kind, run_name="__main__")
