"""How long a fit will take, told after its first batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bridges.fitting.settings import FitSettings

logger = logging.getLogger(__name__)

_BATCHES = 5  # are timed; the first, which warms up, is not counted


class Pace:
    """Times the first batches of text, and says once how long all of them take at most.

    Args:
        settings: of the fit.
        tokens: of a batch, on average: those of a batch are of about one length, and the first batches
            may be of short rows.

    Attributes:
        shown: behind the held-out cost of a progress line, once it is known.
    """

    now = staticmethod(time.perf_counter)

    def __init__(self, settings: FitSettings, tokens: float) -> None:
        self.settings, self.tokens = settings, tokens
        self.shown = ""
        self._batches: list[tuple[float, int]] = []  # seconds and tokens
        self._looks: list[float] = []
        self._aside = 0.0

    @contextmanager
    def looking(self) -> Iterator[None]:
        """A look at the held-out cost, in or between batches."""
        began = self.now()
        yield
        self._looks.append(self.now() - began)
        self._aside += self._looks[-1]

    def batch(self, began: float, number: int, tokens: int) -> bool:
        """The batch of that number, of so many tokens, is done; whether there is something to show."""
        if self.shown:
            return False
        self._batches.append((self.now() - began - self._aside, tokens))
        self._aside = 0.0
        left = self.settings.batches - number - 1
        if len(self._batches) < _BATCHES or not left:
            return False
        taken, read = (sum(numbers) for numbers in zip(*self._batches[1:], strict=True))
        seconds = taken / read * self.tokens * left
        if self._looks:  # the first has read the text, the others are of what it kept
            looks = left * self.settings.updates / self.settings.eval_every
            seconds += looks * self._looks[-1] if len(self._looks) > 1 else 0.0
        self.shown = f", {minutes(seconds)} at most"
        logger.info(
            "the fit takes %s, less if it stops early: %d batches of text and %d steps are left",
            minutes(seconds),
            left,
            min(left * self.settings.updates, self.settings.max_steps),
        )
        return True


def minutes(seconds: float) -> str:
    """``about 12 min``."""
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {max(seconds, 1):.0f} s"
