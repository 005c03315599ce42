"""The text of a fit, read by the frozen model: the same for every cost that is fitted on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bridges.errors import BadInput
from bridges.fit_settings import FitSettings
from bridges.model_spec import ModelSpec
from bridges.text import (
    Batch,
    batches,
    causal_batch,
    encoder_decoder_batch,
    generator,
    masked_batch,
    max_positions,
    token_rows,
)

Rows = list[list[int]]


@dataclass(frozen=True)
class Reading:
    """A batch and what the model makes of it.

    Attributes:
        number: of the batch, from 0; that of held-out ones is negative. It fixes a cost's noise.
        hidden_states: L+1 tensors [B, S, H].
        targets: [B, S], -100 where there is none.
        attention_mask: [B, S].
        count: how many targets there are.
    """

    number: int
    hidden_states: tuple[Tensor, ...]
    targets: Tensor
    attention_mask: Tensor
    count: int


class FitText:
    """Rows of tokens to train and to look at, as batches that depend on the settings' seed alone.

    Args:
        spec: of the model.
        encoder: the base model, in eval mode while it reads.
        tokenizer: a fast tokenizer of the model.
        texts: one text an item, none of them blank.
        settings: of the fit.

    Raises:
        BadInput: for text of less than two rows, or a model or tokenizer without the token that its
            targets need.
    """

    def __init__(
        self,
        spec: ModelSpec,
        encoder: nn.Module,
        tokenizer: Any,
        texts: Iterable[str],
        settings: FitSettings,
    ) -> None:
        self.spec, self.encoder, self.tokenizer, self.settings = spec, encoder, tokenizer, settings
        self.config: Any = encoder.config
        self.device = next(encoder.parameters()).device
        limit = min(settings.max_length, max_positions(self.config) or settings.max_length)
        most = settings.max_steps * settings.batch_size + settings.held_out
        rows = token_rows(tokenizer, list(texts), max_length=limit, most=most, seed=settings.seed)
        if len(rows) < 2:
            raise BadInput("the text makes a single row of tokens: fitting needs at least two")
        # Held-out rows are the first ones, so at most one text has rows on both sides.
        kept_out = min(settings.held_out, max(1, len(rows) // 5))
        self._check_tokens()
        self.rows, held_out = rows[kept_out:], sorted(rows[:kept_out], key=len)
        size = settings.batch_size
        self._held_out = [
            self._batch(held_out[i : i + size], generator(settings.seed, -1, i))
            for i in range(0, len(held_out), size)
        ]

    def batches(self, start: int) -> Iterator[tuple[int, Rows]]:
        """Endless numbered batches of training rows, not read yet; see `bridges.text.batches`."""
        return batches(self.rows, self.settings.batch_size, seed=self.settings.seed, start=start)

    def read(self, number: int, rows: Rows) -> Reading:
        """The model's reading of a training batch."""
        return self._read(number, self._batch(rows, generator(self.settings.seed, 0, number)))

    def held_out(self) -> Iterator[Reading]:
        """The held-out batches, each read when its turn comes: together they would fill the memory."""
        for i, batch in enumerate(self._held_out):
            yield self._read(-1 - i, batch)

    def _read(self, number: int, batch: Batch) -> Reading:
        with torch.no_grad():
            output = self.encoder(
                **batch.inputs(self.device), output_hidden_states=True, return_dict=True
            )
        return Reading(
            number,
            self.spec.states(output),
            batch.targets.to(self.device),
            batch.target_mask.to(self.device),
            int((batch.targets >= 0).sum()),
        )

    def _check_tokens(self) -> None:
        if self.spec.encoder_decoder:
            if getattr(self.config, "decoder_start_token_id", None) is None:
                raise BadInput(
                    "the model's config has no decoder_start_token_id: set it to the token its decoder "
                    "begins with"
                )
        elif not self.spec.causal and self.tokenizer.mask_token_id is None:
            name = type(self.tokenizer).__name__
            raise BadInput(f"{name} has no mask token: fitting a masked LM needs one")

    def _batch(self, rows: Rows, rng: torch.Generator) -> Batch:
        if self.spec.encoder_decoder:
            start = self.config.decoder_start_token_id
            return encoder_decoder_batch(rows, self.tokenizer, start=start, rng=rng)
        if self.spec.causal:
            return causal_batch(rows, self.tokenizer, rng=rng)
        return masked_batch(rows, self.tokenizer, share=self.settings.mask_share, rng=rng)
