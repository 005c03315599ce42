"""Reading text for lenses: once for all of them, alone or shared among processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch import distributed as dist

from bridges.fitting.lens_fit import AT_A_TIME, LensFit
from bridges.fitting.settings import LensSettings
from bridges.fitting.text import FitText
from bridges.progress import progress_bar

logger = logging.getLogger(__name__)

_SAVE_EVERY = 30.0  # seconds; what is kept are sums, the same whenever
_RAREST = 1e-8
"""No word is taken to be rarer: else what the head all but excludes would count for most."""


def read_text(fits: Sequence[LensFit], text: FitText, settings: LensSettings, *, progress: bool) -> None:
    """Read the text, once for all fits; one that was interrupted earlier catches up with the others."""
    saved = time.monotonic()
    assert settings.max_tokens is not None
    most = settings.max_tokens
    total = min(most, text.most_targets)
    start = min(fit.batches for fit in fits)
    done = min([total, *(fit.fitted.count for fit in fits)])
    # Each of the three has a bar of its own, or one's time would tell wrongly of the other's.
    _ask_prior(fits, text, progress=progress)
    with progress_bar(desc="fit", unit="token", total=total, initial=done, shown=progress) as bar:
        for number, rows in _one_epoch(text, start):
            taking = [f for f in fits if f.batches == number and f.fitted.count < most]
            if not taking:
                break
            reading = text.read(number, rows)
            for fit in taking:
                fit.take(fit.fitted, reading)
                fit.batches = number + 1
            more = max(0, min(reading.count, total - done))
            done += more
            bar.update(more)
            if time.monotonic() - saved > _SAVE_EVERY:
                for fit in fits:
                    fit.save()
                saved = time.monotonic()
        bar.total = done  # the text may have been at its end before
    read = max(fit.fitted.count for fit in fits)
    if read < most:
        logger.info("the text has %d targets to read, of up to %d (max_tokens)", read, most)
    _read_held_out(fits, text, progress=progress)
    for fit in fits:
        fit.save()


def read_part(fits: Sequence[LensFit], text: FitText, settings: LensSettings) -> None:
    """Read this process's part of the text, one of torch.distributed's, and add up what all have read.

    Every process ends with the same sums, those of one up to rounding; the held-out text is read by all.
    """
    assert settings.max_tokens is not None
    rank, count = dist.get_rank(), dist.get_world_size()
    _ask_prior(fits, text)
    for number, rows in _one_epoch(text, 0):
        if fits[0].fitted.count * count >= settings.max_tokens:
            break
        if number % count == rank:
            reading = text.read(number, rows)
            for fit in fits:
                fit.take(fit.fitted, reading)
                fit.batches += 1
    _read_held_out(fits, text)
    for fit in fits:
        fit.fitted.all_reduce()
        batches = torch.tensor(fit.batches, device=text.device)
        dist.all_reduce(batches)
        fit.batches = int(batches)


def _ask_prior(fits: Sequence[LensFit], text: FitText, *, progress: bool = False) -> None:
    prior = log_prior(text, progress=progress)
    for fit in fits:
        fit.log_prior = prior


def _read_held_out(fits: Sequence[LensFit], text: FitText, *, progress: bool = False) -> None:
    for reading in text.held_out("held-out", progress=progress):
        for fit in fits:
            fit.take(fit.held_out, reading)


def log_prior(text: FitText, *, progress: bool = False) -> Tensor | None:
    """The logarithm of the head's mean probabilities over held-out text, [V]; None without a head."""
    if not text.asks_head:
        return None
    total, count = None, 0
    for reading in text.held_out("prior", progress=progress):
        assert reading.logits is not None
        for logits in reading.logits.split(AT_A_TIME):
            sums = logits.float().softmax(-1).sum(0)
            total = sums if total is None else total + sums
            count += len(logits)
    return None if total is None else (total / count).clamp(min=_RAREST).log()


def _one_epoch(text: FitText, start: int) -> Iterator[tuple[int, list[list[int]]]]:
    """Each row once: a second reading of it would add nothing but weight."""
    count = -(-len(text.rows) // text.settings.batch_size)
    if start < count:
        for number, rows in text.batches(start):
            yield number, rows
            if number + 1 == count:
                return
