"""A language model that writes its answer, greedily, until the end of the sequence."""

from __future__ import annotations

from typing import Any

import torch
from peft import PromptLearningConfig
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig

from bridges.model.positions import IGNORED
from bridges.model.spec import pretrained_model
from pets.tasks.answering import PromptOutput, Rows, WordAnswering
from pets.tasks.families import ENCODER_DECODER
from pets.tasks.prompts import padded


class Writer(WordAnswering):
    """A causal LM or an encoder-decoder that writes texts.

    It is trained on the first accepted answer of each example, with the end of the sequence behind it,
    and by that answer's tokens the running cost is read: each ends at itself.

    Args:
        model: plain or with a PET.
        tokenizer: of the model.
        end: the token that ends an answer; None for none.
        answer_tokens: how long a written answer is at most.
        **options: see `WordAnswering`.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, end: int | None, *, answer_tokens: int, **options: Any
    ) -> None:
        super().__init__(model, None, **options)
        self.tokenizer, self.end, self.answer_tokens = tokenizer, end, answer_tokens

    def collate(self, rows: Rows) -> dict[str, Tensor]:
        """Prompts with their answers; "labels" are the answers' tokens, else -100."""
        answers = [row.answers[0] for row, _ in rows]
        if self.family == ENCODER_DECODER:
            start = self.decoder_start
            inputs = self.collate_inputs([row.input_ids for row, _ in rows])
            said = self.collate_ids([[*start, *answer[:-1]] for answer in answers])
            skip = [IGNORED] * (len(start) - 1)
            labels = padded([[*skip, *answer] for answer in answers], IGNORED)
            return {**inputs, "decoder_input_ids": said, "labels": labels}
        before = [row.input_ids[: row.mask_position] for row, _ in rows]
        both = list(zip(before, answers, strict=True))
        inputs = self.collate_inputs([[*prompt, *answer] for prompt, answer in both])
        labels = padded([[*[IGNORED] * len(prompt), *answer] for prompt, answer in both], IGNORED)
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
        config = getattr(self.model, "active_peft_config", None)
        with torch.no_grad():
            if isinstance(config, PromptLearningConfig):
                written = self._by_whole_forwards(rows)
            else:
                written = self._generated(rows)
        texts: list[str] = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _generated(self, rows: Rows) -> Any:
        """What transformers generates, which keeps the states of what was read: [B, *] token ids."""
        if self.family == ENCODER_DECODER:
            inputs = self.collate_inputs([row.input_ids for row, _ in rows])
            said = inputs["decoder_input_ids"] = torch.tensor([self.decoder_start] * len(rows))
        else:  # padded on the left, so that all go on from the same place
            before = [row.input_ids[: row.mask_position] for row, _ in rows]
            inputs = {k: v.flip(1) for k, v in self.collate_inputs([p[::-1] for p in before]).items()}
            said = inputs["input_ids"]
        end = self.end
        plm: Any = pretrained_model(self.model)
        # Without the least lengths, penalties and forced tokens that a model may come with.
        own, plm.generation_config = (
            plm.generation_config,
            GenerationConfig(decoder_start_token_id=self._start),
        )
        try:
            generate: Any = self.model.generate
            written = generate(
                **self.on_device(inputs),
                max_new_tokens=self.answer_tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=self.pad_id if end is None else end,
                eos_token_id=end,
                synced_gpus=self.in_step,
            )
        finally:
            plm.generation_config = own
        return written[:, said.shape[1] :]

    def _by_whole_forwards(self, rows: Rows) -> list[list[int]]:
        """The same by a forward of everything for each token.

        Behind a soft prompt or a prefix peft's own generation reads otherwise than its forward does,
        where prompts are padded and after the first token (seen with peft 0.21, transformers 5.23).
        """
        end = self.end
        written: list[list[int]] = [[] for _ in rows]
        for _ in range(self.answer_tokens):
            if not self.in_step and all(words and words[-1] == end for words in written):
                break
            asked = [  # any answer behind what is written has its first token predicted there
                (row._replace(answers=((*words, self.pad_id),)), label)
                for (row, label), words in zip(rows, written, strict=True)
            ]
            batch = self.on_device(self.collate(asked))
            ends = (batch["labels"] != IGNORED).sum(1).cumsum(0) - 1
            tokens = self(**batch).logits[ends].argmax(1).tolist()
            for words, token in zip(written, tokens, strict=True):
                words.append(end if words and words[-1] == end else token)
        return written
