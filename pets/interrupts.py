"""Ctrl-C while the command line is still being imported: one line, as later; nothing here is heavy."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from types import FrameType

INTERRUPTED = 130
WORDS = "\ninterrupted; the same command goes on from the last saved state"


def end_in_words() -> None:
    """Until `restore` an interrupt ends this process with one line, if it is the command line."""
    if (
        _is_command_line()
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, _end)


def restore() -> None:
    """From now on an interrupt is a KeyboardInterrupt again, which the command line catches."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{WORDS}\n".encode())
    os._exit(INTERRUPTED)  # an exception would be caught by some import that tries whether it works


def _is_command_line() -> bool:
    """Whether this is `bridge-pets`, or `python -m pets.cli`."""
    arguments = sys.orig_argv
    by_module = any(pair == ("-m", f"{__package__}.cli") for pair in itertools.pairwise(arguments))
    return by_module or os.path.basename(sys.argv[0]) in ("bridge-pets", "bridge-pets.exe")


end_in_words()
