"""The text of a fit, read by the frozen model: the same for every cost that is fitted on it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from bridges.errors import BadInput, is_out_of_memory, one_line
from bridges.fitting.batches import (
    Batch,
    batches,
    causal_batch,
    encoder_decoder_batch,
    masked_batch,
    moved_ahead,
    token_rows,
)
from bridges.fitting.settings import TextSettings
from bridges.model.autocast import forward_in
from bridges.model.forward import accepted_parameters
from bridges.model.head import head_at, narrowed_logits
from bridges.model.positions import max_positions
from bridges.model.spec import ModelSpec, text_config
from bridges.model.vocabulary import input_embeddings
from bridges.model.weights import device_of
from bridges.progress import progress_bar
from bridges.seeds import generator

logger = logging.getLogger(__name__)

Rows = list[list[int]]
KEPT = 2**30
"""Bytes of held-out text that are kept: 5,000 targets of a model of a billion parameters."""
_TWINS = 0.1  # of the held-out rows: more are told of


@dataclass(frozen=True)
class ReadBatch:
    """A batch and what the model makes of it.

    Attributes:
        number: of the batch, from 0; that of held-out ones is negative. It fixes a cost's noise.
        hidden_states: L+1 tensors [B, S, H].
        targets: [B, S], -100 where there is none.
        attention_mask: [B, S].
        count: how many targets there are.
        logits: [N, V], what the head expects where each of N targets is predicted, in the order of the
            trajectories; None where it was not asked.
    """

    number: int
    hidden_states: tuple[Tensor, ...]
    targets: Tensor
    attention_mask: Tensor
    count: int
    logits: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Of its states and logits."""
        return sum(x.nbytes for x in (*self.hidden_states, self.logits) if x is not None)


@dataclass(frozen=True)
class AskedHead:
    """A language model around the encoder, and where its head is asked.

    Attributes:
        plm: in eval mode.
        positions: rows and columns [N] of the targets [B, S] with an attention mask, in the order of the
            trajectories.
    """

    plm: nn.Module
    positions: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class FitText:
    """Rows of tokens to train and to look at, as batches that depend on the settings' seed alone.

    Args:
        spec: of the model.
        encoder: the base model, in eval mode while it reads.
        tokenizer: a fast tokenizer of the model.
        texts: one text an item, none of them blank.
        settings: of the fit.
        context: whether the context is read: in a causal row it ends where the targets begin, which are
            then a share of its tokens, not all that come after.
        head: asks the head too.

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
        settings: TextSettings,
        *,
        context: bool = True,
        head: AskedHead | None = None,
    ) -> None:
        self._context, self._head = context, head
        self._kept: list[ReadBatch] = []
        self.spec, self.encoder, self.tokenizer, self.settings = spec, encoder, tokenizer, settings
        self.config: Any = encoder.config
        self.device = device_of(encoder)
        self._check_inputs()
        if settings.masking == "words" and not self._masks:
            logger.warning("masking='words' has no part here: nothing is masked for this model")
        limit = min(settings.max_length, max_positions(text_config(encoder)) or settings.max_length)
        rows = token_rows(
            tokenizer,
            list(texts),
            max_length=limit,
            most=settings.most_rows,
            seed=settings.seed,
            most_tokens=settings.most_tokens,
            whole_words=self._whole_words,
        )
        if len(rows) < 2:
            raise BadInput("the text makes a single row of tokens: fitting needs at least two")
        # Held-out rows are the first ones, so at most one text has rows on both sides.
        kept_out = min(settings.held_out, max(1, len(rows) // 5))
        self._check_tokens(rows)
        self.rows, held_out = rows[kept_out:], sorted(rows[:kept_out], key=len)
        self._tell_of_twins(held_out)
        size = settings.batch_size
        self._held_out = [
            self._batch(held_out[i : i + size], generator(settings.seed, -1, i))
            for i in range(0, len(held_out), size)
        ]

    def batches(self, start: int) -> Iterator[tuple[int, Rows]]:
        """Endless numbered batches of training rows, unread; see `bridges.fitting.batches.batches`."""
        return batches(self.rows, self.settings.batch_size, seed=self.settings.seed, start=start)

    def read(self, number: int, rows: Rows) -> ReadBatch:
        """The model's reading of a training batch."""
        return self._read(number, self._batch(rows, generator(self.settings.seed, 0, number)))

    @property
    def asks_head(self) -> bool:
        """Whether a batch has logits."""
        return self._head is not None

    @property
    def most_targets(self) -> int:
        """How many targets one reading of the training rows has, about."""
        partly = self._masks or self.spec.encoder_decoder
        return round(sum(map(len, self.rows)) * (self.settings.mask_share if partly else 1))

    def held_out(self, desc: str = "", *, progress: bool = False) -> Iterator[ReadBatch]:
        """The held-out batches, each read when its turn comes: together they might fill the memory.

        On a CPU, where reading takes long, a lens's are kept if all fit into a gigabyte.

        Args:
            desc: what a progress bar calls it.
            progress: whether there is one.
        """
        if self._kept:
            yield from self._kept
            return
        total = sum(int((batch.targets >= 0).sum()) for batch in self._held_out)
        kept: list[ReadBatch] = []
        size = 0
        keeps = self.device.type == "cpu" and not self._context  # `HeldOut` keeps what a map needs
        with progress_bar(desc=desc, unit="token", total=total, shown=progress) as bar:
            for i, batch in enumerate(self._held_out):
                reading = self._read(-1 - i, batch)
                size += reading.nbytes
                if not keeps or size > KEPT:
                    kept.clear()
                else:
                    kept.append(reading)
                yield reading
                bar.update(reading.count)
        if len(kept) == len(self._held_out):
            self._kept = kept

    def common_tokens(self, most: int) -> Tensor:
        """Ids of the most frequent tokens of the training rows, special ones aside, in their order."""
        tokens = torch.tensor(list(chain.from_iterable(self.rows)))
        count = torch.bincount(tokens)
        count[[token for token in self.tokenizer.all_special_ids if token < len(count)]] = 0
        order = count.argsort(descending=True, stable=True)[:most]
        return order[count[order] > 0]

    def _read(self, number: int, batch: Batch) -> ReadBatch:
        asked = {**batch.inputs(self.device), "output_hidden_states": True, "return_dict": True}
        targets, mask = batch.targets.to(self.device), batch.target_mask.to(self.device)
        try:
            output, logits = self._forward(asked, targets, mask)
        except RuntimeError as error:
            if self.settings.dtype != "bfloat16" or is_out_of_memory(error):
                raise
            raise BadInput(
                "the model's forward fails under an autocast to bfloat16, in which it is faster here "
                f"({one_line(str(error), 200)}): fit with dtype='model'"
            ) from error
        length = batch.targets.shape[1]
        read = self.spec.states(output)
        return ReadBatch(
            number,
            # Some models pad on the right to whole blocks, and return the padding's states.
            # Under an autocast not all need be of one dtype. What `enable_input_require_grads` hangs on
            # the embeddings wants a gradient even here.
            tuple(states[:, :length].detach().to(read[0].dtype) for states in read),
            targets,
            mask,
            int((batch.targets >= 0).sum()),
            logits,
        )

    def _forward(
        self, asked: dict[str, Any], targets: Tensor, mask: Tensor
    ) -> tuple[Any, Tensor | None]:
        with torch.no_grad(), forward_in(self.settings.dtype, self.device):
            if self._head is None:
                return self.encoder(**asked), None
            rows, columns = self._head.positions(targets, mask)
            with head_at(self._head.plm, rows, columns):
                output = self._head.plm(**asked)
            return output, narrowed_logits(output, len(rows), self.spec.vocab_size)

    def _check_inputs(self) -> None:
        name = type(self.encoder).__name__
        if "input_ids" not in accepted_parameters(self.encoder):
            raise BadInput(
                f"fit reads text, and {name} takes {self.encoder.main_input_name}, no token ids: it "
                "cannot be fitted on text alone"
            )
        if self.spec.causal and self.spec.autoregressive is False:
            logger.warning(
                "%s predicts the next token from states that have seen it, since it attends to all of a "
                "text: was it meant to be a decoder (is_decoder=True in its config)?",
                name,
            )

    def _tell_of_twins(self, held_out: Rows) -> None:
        """Warn where much of the held-out text is no other text than what is read."""
        apart = set(map(tuple, held_out))  # few, where all rows as tuples would fill the memory
        read = {row for row in map(tuple, self.rows) if row in apart}
        twins = sum(tuple(row) in read for row in held_out)
        if twins > _TWINS * len(held_out):
            logger.warning(
                "held-out rows that stand in the rest of the text too: %d of %d, so what is said of "
                "held-out text is not of other text; give each text once",
                twins,
                len(held_out),
            )

    def _check_tokens(self, rows: Rows) -> None:
        """Every id that is shown has its row in the model, and every target its end point."""
        if self.spec.encoder_decoder:
            if getattr(self.config, "decoder_start_token_id", None) is None:
                raise BadInput(
                    "the model's config has no decoder_start_token_id: set it to the token its decoder "
                    "begins with"
                )
        elif self._masks and self.tokenizer.mask_token_id is None:
            name = type(self.tokenizer).__name__
            raise BadInput(f"{name} has no mask token: fitting a masked LM needs one")
        shown = _rows(self.encoder) or self.spec.vocab_size
        answered = shown
        if self.spec.encoder_decoder:
            decoder: Any = self.encoder
            answered = _rows(decoder.get_decoder()) or self.spec.vocab_size
        used = max(max(row) for row in rows)
        if self._masks:
            used = max(used, self.tokenizer.mask_token_id)
        if answered != shown:
            raise BadInput(
                f"the encoder has a vocabulary of {shown} tokens and the decoder one of {answered}: fit "
                "reads both sides with one tokenizer, so it cannot fit a cost of this model"
            )
        self._vocabulary = min(shown, self.spec.vocab_size)
        if used >= self._vocabulary:
            token = self.tokenizer.convert_ids_to_tokens(used)
            raise BadInput(
                f"the tokenizer makes token {used} ({token!r}) of the text, and the model has "
                f"{self._vocabulary} rows: call model.resize_token_embeddings(len(tokenizer)) and make "
                "a new cost, or use the model's own tokenizer"
            )

    @property
    def _masks(self) -> bool:
        """Whether targets are hidden from the model, as in a masked LM."""
        return self.spec.reads == "same" and not self.spec.decodes

    @property
    def _whole_words(self) -> bool:
        return self._masks and self.settings.masking == "words"

    def _batch(self, rows: Rows, rng: torch.Generator) -> Batch:
        batch = self._made(rows, rng)
        pad = self.tokenizer.pad_token_id
        if pad is None or pad < self._vocabulary:
            return batch
        # A padding token that the model does not have: nothing attends to what stands in its place.
        shown, decoder = batch.input_ids, batch.decoder_input_ids
        return replace(
            batch,
            input_ids=shown.masked_fill(shown == pad, 0),
            decoder_input_ids=None if decoder is None else decoder.masked_fill(decoder == pad, 0),
        )

    def _made(self, rows: Rows, rng: torch.Generator) -> Batch:
        share = self.settings.mask_share if self._context else None  # a lens is read everywhere
        if self.spec.encoder_decoder:
            start = self.config.decoder_start_token_id
            return encoder_decoder_batch(rows, self.tokenizer, start=start, rng=rng, share=share)
        if self._masks:
            return masked_batch(
                rows,
                self.tokenizer,
                share=self.settings.mask_share,
                rng=rng,
                vocabulary=self._vocabulary,
                whole_words=self._whole_words,
            )
        batch = causal_batch(rows, self.tokenizer, rng=rng, context=self._context, share=share)
        # A causal LM that does not shift its labels gets them shifted.
        return batch if self.spec.reads == "next" else moved_ahead(batch)


def _rows(model: nn.Module) -> int | None:
    """How many tokens the model can be shown."""
    table: Any = input_embeddings(model)
    weight = getattr(table, "weight", None)
    return len(weight) if isinstance(weight, Tensor) and weight.dim() == 2 else None
