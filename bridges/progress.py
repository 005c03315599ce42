"""How far long work has come: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from sys import modules
from typing import Any

from tqdm import tqdm

_EVERY = 10.0  # seconds from one line to the next
_clock = time.monotonic


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    desc: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    shown: bool = True,
) -> Any:
    """A `tqdm` bar on stderr, a widget in a notebook, or `Lines` elsewhere, which a bar would fill.

    Args:
        items: what to go through; without it say `update` after each.
        total: how many there are; the length of ``items`` if they have one.
        initial: how many were done before.
        shown: nothing is written otherwise.
    """
    if shown and _in_notebook():
        from tqdm.auto import tqdm as widget

        return widget(items, desc=desc, unit=unit, total=total, initial=initial)
    if sys.stderr.isatty() or not shown:
        options = {"total": total, "initial": initial, "disable": not shown}
        return tqdm(items, desc=desc, unit=unit, file=sys.stderr, **options)
    return Lines(items, desc=desc, unit=unit, total=total, initial=initial)


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this."""
    python = modules.get("IPython")
    shell = None if python is None else python.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


class Lines:
    """The part of a `tqdm` bar that is used here, as lines: one every ten seconds and one at the end."""

    def __init__(
        self, items: Iterable[Any] | None, *, desc: str, unit: str, total: int | None, initial: int
    ) -> None:
        self.items = () if items is None else items
        self.total = len(items) if total is None and isinstance(items, Sized) else total
        self.desc, self.unit, self.initial, self.done = desc, unit, initial, initial
        self.postfix = ""
        self._started = self._last = _clock()
        self._written: tuple[int, str] | None = None
        self._open = True

    def __iter__(self) -> Iterator[Any]:
        with self:
            for item in self.items:
                yield item
                self.update()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count
        self._write_if_due()

    def set_postfix_str(self, text: str) -> None:
        """What stands at the end of the lines from now on."""
        self.postfix = text
        self._write_if_due()

    def close(self) -> None:
        """The last line, unless all was said."""
        if self._open and self._written != (self.done, self.postfix):
            self._write()
        self._open = False

    def _write_if_due(self) -> None:
        if _clock() - self._last >= _EVERY:
            self._write()

    def _write(self) -> None:
        self._last, self._written = _clock(), (self.done, self.postfix)
        seconds, made = self._last - self._started, self.done - self.initial
        of = "" if self.total is None else f" of {self.total}"
        parts = [f"{self.done}{of} {self.unit}s", f"{tqdm.format_interval(seconds)} so far"]
        if made and seconds > 0:
            rate = made / seconds
            parts.append(f"{rate:.2f} {self.unit}s/s" if rate >= 1 else f"{1 / rate:.1f} s/{self.unit}")
            if self.total is not None and self.done < self.total:
                parts.append(f"{tqdm.format_interval((self.total - self.done) / rate)} left")
        if self.postfix:
            parts.append(self.postfix)
        sys.stderr.write(f"{self.desc}: {', '.join(parts)}\n")
        sys.stderr.flush()
