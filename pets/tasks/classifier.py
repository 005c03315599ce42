"""Prompt-based classification: a language model read at one place, its answer one of the label words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bridges.model.positions import IGNORED
from pets.tasks import prompts
from pets.tasks.answering import PromptOutput, Rows, WordAnswering
from pets.tasks.families import CAUSAL, ENCODER_DECODER
from pets.tasks.layout import MaskFirst
from pets.tasks.verbalizer import Verbalizer


class PromptClassifier(WordAnswering):
    """A language model that says one word, at its target positions.

    Args:
        model: a masked or causal LM or an encoder-decoder, plain or with a PET.
        verbalizer: the C labels' words; `pets.regularize` takes them from here.
        mask_first: prompts begin with [MASK], the published layout: see `pets.tasks.layout.MaskFirst`.
        among_labels: the loss is of the right label among the labels, not in the whole vocabulary.
        **options: see `WordAnswering`.

    Raises:
        BadInput: if the model has no vocabulary head, or not all tokens of the words, or cannot be given
            the published layout.
    """

    verbalizer: Verbalizer

    def __init__(
        self,
        model: nn.Module,
        verbalizer: Verbalizer,
        *,
        mask_first: bool = False,
        among_labels: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(model, verbalizer, **options)
        self.among_labels = among_labels
        self._layout = MaskFirst(model) if mask_first else None

    def remove(self) -> None:
        super().remove()
        if self._layout is not None:
            self._layout.remove()

    @property
    def mask_first(self) -> bool:
        return self._layout is not None

    def collate(self, rows: Rows) -> dict[str, Tensor]:
        if self.family != ENCODER_DECODER:
            return prompts.collate(rows, self.pad_id)
        said = torch.tensor([self.decoder_start] * len(rows))
        labels = torch.full_like(said, IGNORED)
        labels[:, -1] = torch.tensor([label for _, label in rows])
        inputs = self.collate_inputs([row.input_ids for row, _ in rows])
        return {**inputs, "decoder_input_ids": said, "labels": labels}

    def _behind_prompt(self, columns: Tensor, soft: int) -> Tensor:
        return columns + (soft * (columns > 0) if self.mask_first else soft)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **decoder: Tensor
    ) -> PromptOutput:
        """Loss and scores of prompts [B, S]; labels [B, S] are class indices at N targets, else -100.

        Of an encoder-decoder labels and ``decoder_input_ids`` are [B, T].
        """
        if self._layout is not None:
            self._layout.read(attention_mask)
        try:
            logits = self.logits_at(
                labels, input_ids=input_ids, attention_mask=attention_mask, **decoder
            )
        finally:
            if self._layout is not None:
                self._layout.read(None)
        scores = self.verbalizer.score(logits)
        if self.among_labels:
            scores = scores.log_softmax(1)
        loss = F.nll_loss(scores, labels[labels != IGNORED])
        return PromptOutput(loss=loss, logits=scores)


class WholeAnswers(WordAnswering):
    """A language model that compares answers of any length by their whole log-probability.

    Each prompt is read once with each answer behind it, or in a masked LM with as many masks as the
    answer has tokens.

    Args:
        model: as `PromptClassifier`.
        verbalizer: where the answers are the words of the task's labels; several words of a label count
            together. Without one each row has answers of its own.
        answers: the tokens of the words of each label; the verbalizer's by default.
        among_labels, **options: as `PromptClassifier`.
    """

    def __init__(
        self,
        model: nn.Module,
        verbalizer: Verbalizer | None = None,
        *,
        answers: Sequence[Sequence[tuple[int, ...]]] | None = None,
        among_labels: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(model, verbalizer, **options)
        self.among_labels = among_labels
        of_labels = answers if answers is not None else (verbalizer.tokens if verbalizer else ())
        self._words = [tuple(word) for words in of_labels for word in words]
        self._label_of = [k for k, words in enumerate(of_labels) for _ in words]

    def collate(self, rows: Rows) -> dict[str, Tensor]:
        """The rows of each prompt, one an answer, follow each other.

        Returns:
            "input_ids" and "attention_mask"; "answers", at each answer's place its tokens, else -100;
            "labels", of right answers alone, the class where they begin or, without a verbalizer, their
            tokens; "decoder_input_ids" of an encoder-decoder.
        """
        inputs, tokens, targets, said = [], [], [], []
        decodes = self.family == ENCODER_DECODER
        start = self.decoder_start if decodes else []
        for row, label in rows:
            candidates = self._words or list(row.answers)
            right = self._label_of.index(label) if self._words else label
            ids, here = row.input_ids, row.mask_position
            for k, answer in enumerate(candidates):
                if decodes:
                    inputs.append(ids)
                    said.append([*start, *answer[:-1]])
                    place, length = len(start) - 1, len(said[-1])
                else:
                    filled = answer if self.family == CAUSAL else [ids[here]] * len(answer)
                    inputs.append([*ids[:here], *filled, *ids[here + 1 :]])
                    place, length = here, len(inputs[-1])
                own = [IGNORED] * length
                own[place : place + len(answer)] = answer
                tokens.append(own)
                target = [IGNORED] * length
                if k == right and self._words:
                    target[place] = label
                targets.append(own if k == right and not self._words else target)
        batch = {
            **self.collate_inputs(inputs),
            "answers": prompts.padded(tokens, IGNORED),
            "labels": prompts.padded(targets, IGNORED),
        }
        if decodes:
            batch["decoder_input_ids"] = self.collate_ids(said)
        return batch

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        answers: Tensor,
        **decoder: Tensor,
    ) -> PromptOutput:
        """Loss and scores [N, C] of N prompts in N * C rows; see `collate`."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **decoder}
        logits = self.logits_at(answers, **inputs)
        at = answers != IGNORED
        log_probs = -F.cross_entropy(logits, answers[at], reduction="none")
        rows = at.nonzero()[:, 0]
        whole = log_probs.new_zeros(len(answers)).index_add(0, rows, log_probs)
        right = (labels != IGNORED).any(1).nonzero()[:, 0]
        scores = whole.view(len(right), -1)
        index = right % scores.shape[1]
        if self._words:
            of_word = torch.tensor(self._label_of, device=scores.device)
            index = of_word[index]
            scores = torch.stack(
                [scores[:, of_word == k].logsumexp(1) for k in range(self._label_of[-1] + 1)], 1
            )
        if self.among_labels:
            scores = scores.log_softmax(1)
        return PromptOutput(loss=F.nll_loss(scores, index), logits=scores)
