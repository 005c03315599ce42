"""The loop of a fit: settings, steps, held-out cost, early stop, state."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bridges.errors import BadInput, check_counts
from bridges.storage import Snapshot, load_optimizer_tensors, optimizer_tensors
from bridges.text import Batch, batches, generator

if TYPE_CHECKING:
    from bridges.running_cost import RunningCost

logger = logging.getLogger(__name__)

_MIN_GAIN = 1e-3  # less of a gain does not count against patience


@dataclass(frozen=True)
class FitSettings:
    """How the latent map is fitted. Published optimiser (arXiv 2305.17670, appendix), smaller scale.

    Attributes:
        max_steps: optimiser steps at most.
        batch_size: rows a step.
        max_length: tokens a row at most.
        learning_rate: peak of AdamW's; linear warm-up, then linear decay to 0 at max_steps.
        warmup: share of max_steps.
        mask_share: share of a masked-LM row's words that are targets.
        held_out: rows kept for the held-out cost.
        eval_every: steps between looks at the held-out cost.
        patience: looks without a gain of 0.1 % before the fit stops early.
        seed: of order and masks.
    """

    max_steps: int = 2000
    batch_size: int = 32
    max_length: int = 128
    learning_rate: float = 1e-3
    warmup: float = 0.05
    mask_share: float = 0.15
    held_out: int = 256
    eval_every: int = 50
    patience: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("max_steps", "batch_size", "held_out", "eval_every", "patience")
        check_counts(**{name: getattr(self, name) for name in counts})
        if self.max_length < 8:
            raise BadInput(f"max_length={self.max_length}: expected at least 8 tokens")
        if not 0 < self.learning_rate < 1:
            raise BadInput(f"learning_rate={self.learning_rate}: expected a number in (0, 1)")
        for name in ("warmup", "mask_share"):
            if not 0 < getattr(self, name) < 1:
                raise BadInput(f"{name}={getattr(self, name)}: expected a share in (0, 1)")


@dataclass(frozen=True)
class FitResult:
    """What a fit did.

    Attributes:
        steps: optimiser steps taken.
        best_step: the step whose latent map and learned parameters were kept.
        held_out: (step, held-out cost) pairs; the first is the random map's.
        training: (step, mean training cost since the pair before) pairs.
        stopped_early: whether patience ran out before max_steps.
    """

    steps: int
    best_step: int
    held_out: tuple[tuple[int, float], ...]
    training: tuple[tuple[int, float], ...]
    stopped_early: bool

    @property
    def best(self) -> float:
        """The lowest held-out cost."""
        return min(value for _, value in self.held_out)


class FitLoop:
    """One fit: its data, its optimiser and how far it has come."""

    def __init__(
        self,
        cost: RunningCost,
        encoder: nn.Module,
        rows: list[list[int]],
        held_out: list[list[int]],
        make: Callable[[list[list[int]], torch.Generator], Batch],
        settings: FitSettings,
    ) -> None:
        self.cost, self.encoder, self.rows, self.make = cost, encoder, rows, make
        self.settings = settings
        self.device = next(encoder.parameters()).device
        held_out = sorted(held_out, key=len)
        size = settings.batch_size
        self.held_out = [
            make(held_out[i : i + size], generator(settings.seed, -1, i))
            for i in range(0, len(held_out), size)
        ]
        self.fitted = fitted_parts(cost)
        self.optimizer = torch.optim.AdamW(
            self.fitted.parameters(), lr=settings.learning_rate, weight_decay=0.0, foreach=False
        )
        self.best = self._copy()
        self.history: dict[str, list[tuple[int, float]]] = {"held_out": [], "training": []}

    def run(self, snapshot: Snapshot | None, *, progress: bool) -> FitResult:
        settings = self.settings
        step = self._resume(snapshot)
        stream = batches(self.rows, settings.batch_size, seed=settings.seed, start=step)
        bar = tqdm(total=settings.max_steps, initial=step, disable=not progress, desc="fit", unit="step")
        losses: list[float] = []
        if step == 0:
            self._look(0, losses, bar)
        while step < settings.max_steps and not self._is_stale():
            for number, rows in itertools.islice(stream, settings.eval_every):
                if step == settings.max_steps:
                    break
                losses.append(self._step(number, rows))
                step += 1
                bar.update()
            self._look(step, losses, bar)
            if snapshot is not None:
                self._save(snapshot, step)
        bar.close()
        self.fitted.load_state_dict(self.best)
        held_out = tuple(self.history["held_out"])
        return FitResult(
            steps=step,
            best_step=min(held_out, key=lambda pair: pair[1])[0],
            held_out=held_out,
            training=tuple(self.history["training"]),
            stopped_early=step < settings.max_steps,
        )

    def _step(self, number: int, rows: list[list[int]]) -> float:
        settings = self.settings
        warmup = max(1, round(settings.warmup * settings.max_steps))
        rate = min(
            (number + 1) / warmup, (settings.max_steps - number) / (settings.max_steps - warmup + 1)
        )
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        loss = self._cost(self.make(rows, generator(settings.seed, 0, number)), number)
        if not loss.isfinite():
            raise BadInput(
                f"the running cost became {loss.item()} at step {number}: lower learning_rate "
                f"({settings.learning_rate})"
            )
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.fitted.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()

    def _cost(self, batch: Batch, number: int) -> Tensor:
        """The cost of a batch; ``number`` fixes its noise, if it draws any."""
        with torch.no_grad():
            output = self.encoder(
                **batch.inputs(self.device), output_hidden_states=True, return_dict=True
            )
        noise = generator(self.settings.seed, 2, number)
        targets, mask = batch.targets.to(self.device), batch.target_mask.to(self.device)
        value: Tensor = self.cost(self.cost.spec.states(output), targets, mask, generator=noise)
        return value

    def _look(self, step: int, losses: list[float], bar: Any) -> None:
        """Held-out cost, mean over target tokens; the best map so far is kept."""
        total, tokens = 0.0, 0
        with torch.no_grad():
            for i, batch in enumerate(self.held_out):
                count = int((batch.targets >= 0).sum())
                total += self._cost(batch, -1 - i).item() * count
                tokens += count
        value = total / tokens
        if not self.history["held_out"] or value < min(v for _, v in self.history["held_out"]):
            self.best = self._copy()
        self.history["held_out"].append((step, value))
        if losses:
            self.history["training"].append((step, sum(losses) / len(losses)))
            losses.clear()
        bar.set_postfix_str(f"held-out cost {value:.4g}")

    def _is_stale(self) -> bool:
        """Whether the last ``patience`` looks brought no gain worth the time."""
        values = [value for _, value in self.history["held_out"]]
        before = values[: -self.settings.patience]
        # The cost of a bridge with learned parameters may be negative.
        return bool(before) and min(before) - min(values) < _MIN_GAIN * abs(min(before))

    def _copy(self) -> dict[str, Tensor]:
        return {k: v.detach().clone() for k, v in self.fitted.state_dict().items()}

    def _save(self, snapshot: Snapshot, step: int) -> None:
        tensors = {f"now.{k}": v for k, v in self.fitted.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        snapshot.save(
            tensors | optimizer_tensors(self.optimizer), {"step": step, "history": self.history}
        )

    def _resume(self, snapshot: Snapshot | None) -> int:
        loaded = snapshot.load() if snapshot is not None else None
        if loaded is None:
            return 0
        tensors, facts = loaded
        self.fitted.load_state_dict(_under("now.", tensors))
        self.best = {k: v.to(self.device) for k, v in _under("best.", tensors).items()}
        load_optimizer_tensors(self.optimizer, tensors)
        self.history = {k: [(s, v) for s, v in pairs] for k, pairs in facts["history"].items()}
        logger.info("going on from step %d", facts["step"])
        return int(facts["step"])


def fitted_parts(cost: RunningCost) -> nn.ModuleDict:
    """What a fit trains: the latent map, and the bridge with the parameters it learns."""
    return nn.ModuleDict({"latent_map": cost.latent_map, "bridge": cost.bridge})


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
