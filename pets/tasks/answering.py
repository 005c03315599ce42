"""A model that answers: its head narrowed to where answers stand, its loss, its guesses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.utils import ModelOutput

from bridges.errors import BadInput
from bridges.model.positions import IGNORED
from bridges.model.spec import pretrained_model
from pets.tasks import prompts
from pets.tasks.families import CAUSAL, family_of
from pets.tasks.prompts import Row
from pets.tasks.verbalizer import Verbalizer

Rows = Sequence[tuple[Row, int]]
"""Encoded prompts, and of each the index of its answer."""


@dataclass
class PromptOutput(ModelOutput):  # type: ignore[misc]
    """Output of `Answering`.

    Attributes:
        loss: negative log-probability of the right answers, mean.
        logits: [N, C], log-probabilities of the answers to choose from; where a text is written those of
            the whole vocabulary at its N tokens.
        running_cost: where one is plugged in.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    running_cost: Tensor | None = None


class Answering(nn.Module, ABC):
    """A language model that answers prompts.

    The language model stays in eval mode in training too: the published protocol tunes without dropout.
    What is plugged into it, `pets.regularize`, takes the words of its labels from here.

    Args:
        model: a language model, plain or with a PET.
        verbalizer: the C labels' words, where the answers are the task's classes.

    Attributes:
        family: one of `pets.tasks.families.FAMILIES`.
        in_step: several processes that share out its weights run it together, so that what is written
            goes on until all are done.
    """

    in_step = False

    def __init__(self, model: nn.Module, verbalizer: Verbalizer | None) -> None:
        super().__init__()
        self.model = model
        self.verbalizer = verbalizer
        self.family = family_of(model)
        self.train(self.training)

    def train(self, mode: bool = True) -> Answering:
        super().train(mode)
        self.model.eval()
        return self

    def remove(self) -> None:
        """Give the model back as it was."""

    @property
    def mask_first(self) -> bool:
        """Whether [MASK] stands before a soft prompt."""
        return False

    @abstractmethod
    def collate(self, rows: Rows) -> dict[str, Tensor]:
        """A batch of prompts, padded, for a forward: tensors that begin with the same dimension."""

    def answer(self, rows: Rows) -> tuple[list[Any], float]:
        """The guessed answers of B prompts, and the mean loss of the right ones; for eval mode."""
        output = self(**self.on_device(self.collate(rows)))
        return output.logits.argmax(1).tolist(), output.loss.item()

    def on_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch where the model is."""
        device = next(self.parameters()).device
        return {name: tensor.to(device) for name, tensor in batch.items()}


class WordAnswering(Answering):
    """A language model whose head is evaluated only where answers stand.

    The head over all positions is most of a small model's step; here its input is narrowed.

    Args:
        pad_id: the tokenizer's padding token.
        decoder_prefix: what a decoder has said before an answer, but for its start token.

    Raises:
        BadInput: if the model has no vocabulary head.
    """

    def __init__(
        self,
        model: nn.Module,
        verbalizer: Verbalizer | None,
        *,
        pad_id: int = 0,
        decoder_prefix: Sequence[int] = (),
    ) -> None:
        plm: Any = pretrained_model(model)
        head = plm.get_output_embeddings()
        if head is None:
            raise BadInput(f"{type(plm).__name__} has no vocabulary head to read label words from")
        if verbalizer is not None:
            verbalizer.check_tokens(int(head.weight.shape[0]))
        super().__init__(model, verbalizer)
        self.pad_id = pad_id
        self.decoder_prefix = tuple(decoder_prefix)
        self._start = getattr(plm.config, "decoder_start_token_id", None)
        self._targets: tuple[Tensor, ...] | None = None
        self._length = 0
        self._hook = head.register_forward_pre_hook(self._narrow)

    def remove(self) -> None:
        self._hook.remove()

    def collate_ids(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Token ids [B, S], padded on the right."""
        return prompts.padded(rows, self.pad_id)

    def collate_inputs(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Inputs of a model [B, S], see `pets.tasks.prompts.collate_inputs`."""
        return prompts.collate_inputs(rows, self.pad_id)

    @property
    def decoder_start(self) -> list[int]:
        """What a decoder has said before an answer.

        Raises:
            BadInput: if the model's config has no start token.
        """
        if self._start is None:
            raise BadInput(
                f"the config of {type(pretrained_model(self.model)).__name__} has no "
                "decoder_start_token_id, with which a decoder begins: set it"
            )
        return [int(self._start), *self.decoder_prefix]

    def logits_at(self, labels: Tensor, **inputs: Tensor) -> Tensor:
        """The head's logits [N, V] that predict the N tokens at which labels [B, S] are not ignored."""
        self._targets = (labels != IGNORED).nonzero(as_tuple=True)
        self._length = labels.shape[1]
        try:
            scores: Tensor = self.model(**inputs).logits
            if scores.dim() == 3:  # a head that does not end in its output embeddings
                scores = scores[self._places(scores)]
        finally:
            self._targets = None
        return scores.float()

    def _narrow(self, head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._targets is None:
            return None
        hidden, *rest = args
        return hidden[self._places(hidden)], *rest

    def _places(self, sequence: Tensor) -> tuple[Tensor, ...]:
        """Where the targets are predicted in a sequence [B, S', *] that a soft prompt has lengthened."""
        assert self._targets is not None
        rows, columns = self._targets
        soft = sequence.shape[1] - self._length
        return rows, self._behind_prompt(columns, soft) - int(self.family == CAUSAL)

    def _behind_prompt(self, columns: Tensor, soft: int) -> Tensor:
        return columns + soft
