"""The loop of a fit: steps, held-out cost, early stop, state; of one cost, or of several in step."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bridges.errors import BadInput
from bridges.fitting.fittable import Fittable
from bridges.fitting.pace import Pace
from bridges.fitting.seen import HeldOut, Seen, gathered
from bridges.fitting.settings import FitResult, FitSettings
from bridges.fitting.text import FitText
from bridges.progress import progress_bar
from bridges.seeds import generator
from bridges.storage.checkpoint import Checkpoint, Snapshot
from bridges.storage.shapes import COUNT, FINITE, Shape

logger = logging.getLogger(__name__)

_MIN_GAIN = 1e-3  # less of a gain does not count against patience
_SHOWN = 3  # held-out costs beside the bar
_PAIRS: Shape = [(COUNT, FINITE)]
_FACTS: Shape = {"step": COUNT, "history": {"held_out": _PAIRS, "training": _PAIRS}}


def run(loops: Sequence[FitLoop], text: FitText, settings: FitSettings, *, progress: bool) -> None:
    """Bring fits on the same text to their ends: for each batch the model runs once for all of them.

    Each goes as it would alone, to the same bits. One that was interrupted earlier than the others
    catches up with them; one that stops early is done.
    """
    running = [loop for loop in loops if not loop.is_over]
    held_out = HeldOut(text, [loop.cost for loop in loops])
    pace = Pace(settings, sum(map(len, text.rows)) / len(text.rows) * settings.batch_size)
    start = min((loop.steps for loop in running), default=settings.max_steps)
    with progress_bar(
        desc="fit", unit="step", total=settings.max_steps, initial=start, shown=progress
    ) as bar:

        def look(due: Sequence[FitLoop]) -> None:
            with pace.looking():
                _look(due, held_out)
            bar.set_postfix_str(_held_out_costs(loops) + pace.shown)

        look([loop for loop in running if not loop.history["held_out"]])
        for number, rows in text.batches(start // settings.updates):
            first = number * settings.updates
            last = min(first + settings.updates, settings.max_steps)
            began = pace.now()
            if not any(first <= loop.steps < last and not loop.is_over for loop in loops):
                if all(loop.is_over for loop in loops):
                    break
                continue
            seen = gathered(text.read(number, rows), [loop.cost for loop in loops])
            for step in range(max(first, start), last):
                taking = [loop for loop in loops if loop.steps == step and not loop.is_over]
                part = seen.part(step - first, settings)
                for loop in taking:
                    loop.step(part)
                bar.update()
                if (step + 1) % settings.eval_every == 0 or step + 1 == settings.max_steps:
                    look(taking)
                    for loop in taking:
                        loop.save()
            if pace.batch(began, number, sum(map(len, rows))):
                bar.set_postfix_str(_held_out_costs(loops) + pace.shown)


def _look(loops: Sequence[FitLoop], held_out: HeldOut) -> None:
    """The held-out cost of each, mean over target tokens."""
    if not loops:
        return
    totals, tokens = [0.0] * len(loops), 0
    with torch.no_grad():
        for seen in held_out:
            for k, loop in enumerate(loops):
                totals[k] += loop.value(seen).item() * len(seen.answers)
            tokens += len(seen.answers)
    for loop, total in zip(loops, totals, strict=True):
        loop.look(total / tokens)


def _held_out_costs(loops: Sequence[FitLoop]) -> str:
    last = [(loop.name, f"{loop.history['held_out'][-1][1]:.4g}") for loop in loops]
    if len(last) == 1:
        return f"held-out cost {last[0][1]}"
    shown = [f"{name} {value}" for name, value in last[:_SHOWN]]
    more = [f"{len(last) - _SHOWN} more"] if len(last) > _SHOWN else []
    return "held-out costs " + ", ".join(shown + more)


class FitLoop:
    """One cost's fit: its optimiser and how far it has come.

    Args:
        cost: what is fitted, in place.
        settings: of the fit.
        snapshot: where its state is kept; the fit begins where that left off.

    Attributes:
        fitted: the latent map, and the bridge with the parameters it learns.
        steps: optimiser steps taken.
        checkpoint: of ``fitted``; its best is the state with the lowest held-out cost.
        history: (step, held-out cost) and (step, mean training cost since the pair before) pairs.
    """

    def __init__(self, cost: Fittable, settings: FitSettings, snapshot: Snapshot | None = None) -> None:
        self.cost, self.settings, self.snapshot = cost, settings, snapshot
        self.fitted = nn.ModuleDict({"latent_map": cost.latent_map, "bridge": cost.bridge})
        self.optimizer = torch.optim.AdamW(
            self.fitted.parameters(), lr=settings.learning_rate, weight_decay=0.0, foreach=False
        )
        self.checkpoint = Checkpoint(self.fitted.state_dict(), self.optimizer)
        self.history: dict[str, list[tuple[int, float]]] = {"held_out": [], "training": []}
        self.steps = 0
        self._losses: list[float] = []  # since the last look

    @property
    def name(self) -> str:
        """Of the bridge."""
        return str(self.cost.bridge.registered_name)

    @property
    def is_over(self) -> bool:
        """Whether all steps are taken, or the last ``patience`` looks brought no gain worth the time."""
        return self.steps >= self.settings.max_steps or self._is_stale()

    def step(self, seen: Seen) -> None:
        """One step of the optimiser.

        Raises:
            BadInput: if the cost is not finite.
        """
        settings, number = self.settings, seen.number
        warmup = max(1, round(settings.warmup * settings.max_steps))
        rate = min(
            (number + 1) / warmup, (settings.max_steps - number) / (settings.max_steps - warmup + 1)
        )
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        loss = self.value(seen)
        if not loss.isfinite():
            raise BadInput(
                f"the running cost of {self.name!r} became {loss.item()} at step {number}: lower "
                f"learning_rate ({settings.learning_rate})"
            )
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.fitted.parameters(), 1.0)
        self.optimizer.step()
        self._losses.append(loss.item())
        self.steps += 1

    def value(self, seen: Seen) -> Tensor:
        """The mean cost of trajectories; their number fixes its noise, if it draws any."""
        noise = generator(self.settings.seed, 2, seen.number)
        value: Tensor = self.cost.of_trajectory(seen.trajectory, seen.answers, generator=noise).mean()
        return value

    def look(self, held_out: float) -> None:
        """Note a held-out cost; the best state so far is kept.

        Raises:
            BadInput: if it is not finite: nothing is better or worse than that.
        """
        if not math.isfinite(held_out):
            rate = f"lower learning_rate ({self.settings.learning_rate})"
            more = "" if self.steps else ", or as no step was taken yet check the model on the text"
            raise BadInput(
                f"the running cost of {self.name!r} became {held_out} at step {self.steps}: "
                f"{rate}{more}; this is on held-out text"
            )
        before = [value for _, value in self.history["held_out"]]
        if not before or held_out < min(before):
            self.checkpoint.keep_best()
        self.history["held_out"].append((self.steps, held_out))
        if self._losses:
            self.history["training"].append((self.steps, sum(self._losses) / len(self._losses)))
            self._losses.clear()

    def finish(self) -> FitResult:
        """Leave the best state in the cost, and say what was done."""
        self.checkpoint.restore_best()
        held_out = tuple(self.history["held_out"])
        return FitResult(
            steps=self.steps,
            best_step=min(held_out, key=lambda pair: pair[1])[0],
            held_out=held_out,
            training=tuple(self.history["training"]),
            stopped_early=self.steps < self.settings.max_steps,
        )

    def save(self) -> None:
        """Keep the state, where there is a place for it."""
        if self.snapshot is not None:
            self.checkpoint.save(self.snapshot, {"step": self.steps, "history": self.history})

    def resume(self) -> None:
        """Go on from the state that was kept, if there is one.

        Raises:
            BadInput: if it is another fit's.
        """
        if self.snapshot is None or not (facts := self.checkpoint.resume(self.snapshot, _FACTS)):
            return
        self.history = {k: [(s, v) for s, v in facts["history"][k]] for k in self.history}
        self.steps = int(facts["step"])
        logger.info("going on from step %d", self.steps)

    def _is_stale(self) -> bool:
        values = [value for _, value in self.history["held_out"]]
        before = values[: -self.settings.patience]
        # The cost of a bridge with learned parameters may be negative.
        return bool(before) and min(before) - min(values) < _MIN_GAIN * abs(min(before))
