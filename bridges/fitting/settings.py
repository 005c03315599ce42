"""How a fit of a latent map goes, and what it did."""

from __future__ import annotations

from dataclasses import dataclass

from bridges.errors import BadInput, check_counts, check_seeds, is_number, shown

MASKINGS = ("tokens", "words")
_SHARES = {"learning_rate": "a number", "warmup": "a share", "mask_share": "a share"}


@dataclass(frozen=True)
class FitSettings:
    """How the latent map is fitted. Published optimiser (arXiv 2305.17670, appendix), smaller scale.

    Attributes:
        max_steps: optimiser steps at most.
        batch_size: rows a step.
        max_length: tokens a row at most.
        learning_rate: peak of AdamW's; linear warm-up, then linear decay to 0 at max_steps.
        warmup: share of max_steps.
        mask_share: share of a masked-LM row's tokens, or words, that are targets.
        masking: of a masked LM's text, "tokens" one by one, or "words" with all their pieces.
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
    masking: str = "tokens"
    held_out: int = 256
    eval_every: int = 50
    patience: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("max_steps", "batch_size", "max_length", "held_out", "eval_every", "patience")
        check_counts(**{name: getattr(self, name) for name in counts})
        check_seeds(seed=self.seed)
        if self.masking not in MASKINGS:
            raise BadInput(f"masking={shown(self.masking)}: expected {' or '.join(map(repr, MASKINGS))}")
        if self.max_length < 8:
            raise BadInput(f"max_length={self.max_length}: expected at least 8 tokens")
        for name, expected in _SHARES.items():
            value = getattr(self, name)
            if not is_number(value) or not 0 < value < 1:
                raise BadInput(f"{name}={shown(value)}: expected {expected} in (0, 1)")


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
