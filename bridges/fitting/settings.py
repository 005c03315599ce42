"""How a fit of a latent map goes, and what it did."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from bridges.errors import BadInput, check_counts, check_name, check_seeds, is_number, shown

_TOKENS_A_DIMENSION = 40
_LEAST = 1e-12
"""Of a ridge: with less, directions that the text has nothing of would be rounding over nothing."""
MASKINGS = ("tokens", "words")
DTYPES = ("auto", "model", "bfloat16")
"""Of the frozen model's forward; see `TextSettings`."""
UPDATES = 8


@dataclass(frozen=True)
class TextSettings:
    """How text is read for a fit.

    Attributes:
        batch_size: rows a step.
        max_length: tokens a row at most.
        mask_share: share of a row's tokens, or words, that are targets: in a masked LM hidden ones, else
            some of those after a random place.
        masking: of a masked LM's text, "tokens" one by one, or "words" with all their pieces.
        held_out: rows kept for the held-out cost.
        seed: of order and masks.
        dtype: of the frozen model's forward: "model", that of its weights; "bfloat16", by autocast;
            "auto", bfloat16 for a float32 model where the GPU or CPU (AMX) is fast in it, else "model".
            A fit goes on only where "auto" comes to the same.
    """

    batch_size: int = 32
    max_length: int = 128
    mask_share: float = 0.15
    masking: str = "tokens"
    held_out: int = 256
    seed: int = 0
    dtype: str = "model"

    def __post_init__(self) -> None:
        check_counts(**{name: getattr(self, name) for name in ("batch_size", "max_length", "held_out")})
        check_seeds(seed=self.seed)
        if self.masking not in MASKINGS:
            raise BadInput(f"masking={shown(self.masking)}: expected {' or '.join(map(repr, MASKINGS))}")
        check_name("dtype", self.dtype, DTYPES)
        if self.max_length < 8:
            raise BadInput(f"max_length={self.max_length}: expected at least 8 tokens")
        _check_share("mask_share", self.mask_share, "a share")

    @property
    def most_rows(self) -> int:
        """More rows than these are not read."""
        raise NotImplementedError

    @property
    def most_tokens(self) -> int | None:
        """Nor are more once there are so many tokens; None for no bound."""
        return None


@dataclass(frozen=True)
class FitSettings(TextSettings):
    """How the latent map is fitted. Published optimiser (arXiv 2305.17670, appendix), smaller scale.

    Attributes:
        batch_size, max_length, mask_share, held_out, seed, dtype: of `TextSettings`.
        max_steps: optimiser steps at most; `fit` takes it as ``steps`` too.
        learning_rate: peak of AdamW's; linear warm-up, then linear decay to 0 at max_steps.
        warmup: share of max_steps.
        eval_every: steps between looks at the held-out cost.
        patience: looks without a gain of 0.1 % before the fit stops early.
        updates: optimiser steps for each batch of text, each on a part of its targets: the model's
            reading is what takes the time.
    """

    dtype: str = "auto"
    max_steps: int = 2000
    learning_rate: float = 1e-3
    warmup: float = 0.05
    eval_every: int = 50
    patience: int = 6
    updates: int = UPDATES

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ("max_steps", "eval_every", "patience", "updates")
        check_counts(**{name: getattr(self, name) for name in counts})
        _check_share("learning_rate", self.learning_rate, "a number")
        _check_share("warmup", self.warmup, "a share")

    @property
    def most_rows(self) -> int:
        return self.batches * self.batch_size + self.held_out

    @property
    def batches(self) -> int:
        """Batches of text that are read at most."""
        return -(-self.max_steps // self.updates)

    def of_lens(self) -> LensSettings:
        """The same text for a lens: rows and seed; what is masked and held out is its own."""
        shared = ("batch_size", "max_length", "masking", "seed")
        return LensSettings(**{name: getattr(self, name) for name in shared})


@dataclass(frozen=True)
class LensSettings(TextSettings):
    """How a lens is fitted: one pass over text, without steps or a learning rate.

    Attributes:
        batch_size, max_length, seed: of `TextSettings`.
        mask_share: likewise; twice the published one, for the reading is what takes the time.
        held_out: rows that choose the strengths and are measured; each is as good as many looks of a fit
            by steps.
        max_tokens: targets that are read at most, the held-out ones aside; None for forty for each
            dimension H of the states.
        targets: what the states of a target are regressed on. "words": its end point. "head": the end
            point that the model's head expects there, all words being as likely before,
            ``sum_w v_w p(w | h) / p(w)``, scaled: it says what the model knows of rare words too, with
            less noise. None for "head" where there is a language-model head.
        ridge: strength of the regression, in units of a normalised state's mean square; None for each
            layer's own, chosen by held-out error.
    """

    mask_share: float = 0.3
    held_out: int = 64
    max_tokens: int | None = None
    targets: str | None = None
    ridge: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tokens is not None:
            check_counts(max_tokens=self.max_tokens)
        if self.targets not in (None, "words", "head"):
            raise BadInput(f"targets={shown(self.targets)}: expected 'words' or 'head'")
        if self.ridge is not None and (not is_number(self.ridge) or not _LEAST <= self.ridge < 1e9):
            raise BadInput(
                f"ridge={shown(self.ridge)}: expected a number from {_LEAST:g}, below 1e9, or None"
            )

    @property
    def most_rows(self) -> int:
        return self._targets + self.held_out

    @property
    def most_tokens(self) -> int:
        return math.ceil(min(self._targets / self.mask_share, 2.0**53)) + self.held_out * self.max_length

    @property
    def _targets(self) -> int:
        assert self.max_tokens is not None, "for_model has not been asked"
        return self.max_tokens

    def for_model(self, hidden_size: int, *, head: bool) -> LensSettings:
        """With a number of tokens, and targets, where none were given.

        Raises:
            BadInput: for the targets of a head that is not there.
        """
        if self.targets == "head" and not head:
            raise BadInput("targets='head': the model has no language-model head; use targets='words'")
        return dataclasses.replace(
            self,
            max_tokens=self.max_tokens or _TOKENS_A_DIMENSION * hidden_size,
            targets=self.targets or ("head" if head else "words"),
        )

    def of_text(self) -> dict[str, Any]:
        """What sums over text depend on; the strength is chosen afterwards."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "ridge"}


def _check_share(name: str, value: object, expected: str) -> None:
    if not is_number(value) or not 0 < value < 1:  # type: ignore[operator]
        raise BadInput(f"{name}={shown(value)}: expected {expected} in (0, 1)")


@dataclass(frozen=True)
class LayerFit:
    """How well a lens guesses, on held-out text at one layer, what it was regressed on.

    Attributes:
        r2: the share of its spread that is explained. What the head expects is easier to guess than the
            words that come: only fits with the same ``targets`` compare.
        ridge: the strength of its regression.
    """

    r2: float
    ridge: float


@dataclass(frozen=True)
class FitResult:
    """What a fit did.

    Attributes:
        steps: optimiser steps taken; of a lens, batches read.
        best_step: the step whose latent map and learned parameters were kept.
        held_out: (step, held-out cost) pairs; the first is the random map's.
        training: (step, mean training cost since the pair before) pairs.
        stopped_early: whether patience ran out before max_steps.
        layers: of a lens, how each layer came out.
    """

    steps: int
    best_step: int
    held_out: tuple[tuple[int, float], ...]
    training: tuple[tuple[int, float], ...]
    stopped_early: bool
    layers: tuple[LayerFit, ...] = field(default=(), repr=False)

    @property
    def best(self) -> float:
        """The lowest held-out cost."""
        return min(value for _, value in self.held_out)
