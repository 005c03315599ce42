"""A language model that writes its answer, greedily, until the end of the sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bridges.errors import BadInput
from bridges.model.positions import IGNORED
from pets.tasks.answering import PromptOutput, Rows, WordAnswering
from pets.tasks.classifier import padded_labels
from pets.tasks.families import ENCODER_DECODER, MASKED


class Writer(WordAnswering):
    """A causal LM or an encoder-decoder that writes texts.

    It is trained on the first accepted answer of each example, with the end of the sequence behind it,
    and by that answer's tokens the running cost is read: each ends at itself.

    Args:
        model: plain or with a PET.
        tokenizer: of the model.
        answer_tokens: how long a written answer is at most.
        **options: see `WordAnswering`.

    Raises:
        BadInput: for a masked LM, which cannot write.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, *, answer_tokens: int, **options: Any) -> None:
        super().__init__(model, None, **options)
        if self.family == MASKED:
            self.remove()
            raise BadInput(
                "a masked language model does not write texts: give a causal one or an encoder-decoder, "
                "or a task with classes or choices"
            )
        self.tokenizer, self.answer_tokens = tokenizer, answer_tokens

    def collate(self, rows: Rows) -> dict[str, Tensor]:
        """Prompts with their answers; "labels" are the answers' tokens, else -100."""
        answers = [row.answers[0] for row, _ in rows]
        if self.family == ENCODER_DECODER:
            start = self.decoder_start
            inputs = self.collate_inputs([row.input_ids for row, _ in rows])
            said = self.collate_ids([[*start, *answer[:-1]] for answer in answers])
            skip = [IGNORED] * (len(start) - 1)
            labels = padded_labels([[*skip, *answer] for answer in answers])
            return {**inputs, "decoder_input_ids": said, "labels": labels}
        before = [row.input_ids[: row.mask_position] for row, _ in rows]
        both = list(zip(before, answers, strict=True))
        inputs = self.collate_inputs([[*prompt, *answer] for prompt, answer in both])
        labels = padded_labels([[*[IGNORED] * len(prompt), *answer] for prompt, answer in both])
        return {**inputs, "labels": labels}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **decoder: Tensor
    ) -> PromptOutput:
        """The loss of the answers' N tokens, mean, and log-probabilities [N, V] at each of them."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **decoder}
        scores = self.logits_at(labels, **inputs).log_softmax(1)
        return PromptOutput(loss=F.nll_loss(scores, labels[labels != IGNORED]), logits=scores)

    def answer(self, rows: Rows) -> tuple[list[Any], float]:
        loss = self(**self.on_device(self.collate(rows))).loss.item()
        return self.write(rows), loss

    def write(self, rows: Rows) -> list[str]:
        """What it writes behind each prompt."""
        end = self.tokenizer.eos_token_id
        options: dict[str, Any] = {
            "max_new_tokens": self.answer_tokens,
            "do_sample": False,
            "num_beams": 1,
            "pad_token_id": self.pad_id if end is None else end,
            "eos_token_id": end,
            "synced_gpus": self.in_step,
        }
        if self.family == ENCODER_DECODER:
            inputs = self.collate_inputs([row.input_ids for row, _ in rows])
            start = torch.tensor([self.decoder_start] * len(rows))
            inputs["decoder_input_ids"] = start
            seen = start.shape[1]
        else:  # padded on the left, so that all go on from the same place
            before = [row.input_ids[: row.mask_position] for row, _ in rows]
            inputs = {k: v.flip(1) for k, v in self.collate_inputs([p[::-1] for p in before]).items()}
            seen = inputs["input_ids"].shape[1]
        generate: Any = self.model.generate
        with torch.no_grad():
            written = generate(**self.on_device(inputs), **options)
        # Behind a soft prompt that is given as embeddings the prompt's own tokens are not returned.
        new = written[:, seen:] if written.shape[1] > self.answer_tokens else written
        texts: list[str] = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [text.strip() for text in texts]
