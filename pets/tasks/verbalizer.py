"""The words that say a label: a verbalizer."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bridges import LabelEnds, RunningCost
from bridges.errors import BadInput, one_line, shown
from bridges.model.spec import pretrained_model
from pets.tasks.label_words import proposals, word_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_log = logging.getLogger(__name__)

Words = str | Sequence[str]
"""One word, or several with the same meaning."""


@dataclass(frozen=True)
class Verbalizer:
    """Labels and the words that say them, each word of one token or more.

    Attributes:
        labels: C names, in the order of the model's or the task's classes.
        words: of each label, one or more.
        tokens: ids of each word.
        mask_token: the tokenizer's id of the mask; None where it has none.
    """

    labels: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    tokens: tuple[tuple[tuple[int, ...], ...], ...]
    mask_token: int | None = None

    @classmethod
    def of_words(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        words: Mapping[str, Words] | Sequence[Words],
        *,
        bare: bool = False,
        warn: bool = True,
        tokens_of: Callable[[str], tuple[int, ...]] | None = None,
    ) -> Verbalizer:
        """From words: ``{"negative": "bad", "positive": ["good", "great"]}``, or without the names.

        A word is the tokens that it adds to a text which it continues after a space. So it is written
        as in a text: " yes", and "Ġyes" or "▁yes" in a vocabulary that writes the space so, are "yes".
        With a tokenizer that has a mask, which may also stand where a text begins, it is the bare word
        where only that is a single token.

        Args:
            tokenizer: of the model.
            words: one or more for each label, in the order of the classes.
            bare: take each word's tokens as they are of the word alone, with no space before it where
                vocabularies tell the two apart: the published protocol.
            warn: whether to log the words of several tokens, and shorter ones near them.
            tokens_of: what a word's tokens are in its place, instead of all that.

        Raises:
            BadInput: for a label without words, a word that is empty, unknown to the vocabulary or
                written with the marks of another one, or two words of the same tokens.
        """
        expected = "expected a word, or a list of words, for each label"
        if isinstance(words, str) or not isinstance(words, (Mapping, Sequence)):
            raise BadInput(f"label words {shown(words)}: {expected}")
        for each in words.values() if isinstance(words, Mapping) else words:
            if not isinstance(each, (str, Sequence)) or not all(isinstance(w, str) for w in each):
                raise BadInput(f"label words {shown(each)}: {expected}")
        named = dict(words) if isinstance(words, Mapping) else {_name(each): each for each in words}
        if len(named) < len(words) or not named:
            raise BadInput(f"label words {shown(words)}: expected one label or more, no two the same")
        for label in named:
            if not isinstance(label, str):
                raise BadInput(f"label {shown(label)}: expected the name of a class, in class order")
        lists = [(each,) if isinstance(each, str) else tuple(each) for each in named.values()]
        tokens_of = tokens_of or partial(word_tokens, tokenizer, bare=bare)
        seen: dict[tuple[int, ...], str] = {}
        tokens = []
        for label, of_label in zip(named, lists, strict=True):
            if not of_label:
                raise BadInput(f"label {shown(label)} has no words: give it one or more")
            tokens.append(tuple(map(tokens_of, of_label)))
            for word, ids in zip(of_label, tokens[-1], strict=True):
                if ids in seen:
                    raise BadInput(
                        f"label words {shown(seen[ids])} and {shown(word)} are the same tokens (ids "
                        f"{shown(list(ids))}); choose two different words"
                    )
                seen[ids] = word
        verbalizer = cls(tuple(named), tuple(lists), tuple(tokens), tokenizer.mask_token_id)
        if warn:
            verbalizer._warn_of_long_words(tokenizer, bare=bare)
        return verbalizer

    @classmethod
    def of_classes(cls, tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> Verbalizer:
        """From the class names in a classifier's config; "not_entailment" is "not entailment".

        Raises:
            BadInput: if the names are numbers only ("LABEL_0"), or as `of_words`.
        """
        names: dict[int, str] = pretrained_model(model).config.id2label
        labels = [str(names[index]) for index in sorted(names)]
        texts = [re.sub(r"[\W_]+", " ", label).strip() for label in labels]
        if any(re.fullmatch(r"(label)?\s*\d*", text, re.IGNORECASE) for text in texts):
            raise BadInput(
                f"the class names {', '.join(labels)} say nothing: give words with "
                "Verbalizer.of_words(tokenizer, [...]), one for each class, or set id2label"
            )
        return cls.of_words(tokenizer, dict(zip(labels, texts, strict=True)))

    def __len__(self) -> int:
        return len(self.labels)

    def ends(self, cost: RunningCost) -> LabelEnds:
        """Where a cost's trajectories of these labels end.

        Raises:
            BadInput: for a word with tokens that the cost's model does not have, or whose ends cancel.
        """
        self.check_tokens(cost.spec.vocab_size)
        return LabelEnds.of_words(cost.end_points, self.tokens)

    def check_tokens(self, vocabulary: int) -> None:
        """Whether a model with so many word embeddings has all tokens of the words.

        Raises:
            BadInput: naming a word that it cannot read, as after tokens were added to the tokenizer.
        """
        for words, tokens in zip(self.words, self.tokens, strict=True):
            for word, ids in zip(words, tokens, strict=True):
                if not ids or min(ids) < 0 or max(ids) >= vocabulary:
                    raise BadInput(
                        f"label word {shown(word)} has tokens {shown(list(ids))}, and the model knows 0 "
                        f"to {vocabulary - 1}: choose another word, or give the model rows for added "
                        "tokens with resize_token_embeddings(len(tokenizer)) before all else"
                    )

    def score(self, logits: Tensor) -> Tensor:
        """Log-probability [N, C] that one of a label's words is said, from one position's logits [N, V].

        One position says one token: a longer word has the mean of its tokens' log-probabilities there.
        """
        log_probs = torch.log_softmax(logits, -1)
        scores = []
        for words in self.tokens:
            each = [log_probs[:, list(tokens)].mean(1) for tokens in words]
            scores.append(torch.logsumexp(torch.stack(each), 0))
        return torch.stack(scores, 1)

    def _warn_of_long_words(self, tokenizer: PreTrainedTokenizerBase, *, bare: bool) -> None:
        """Log the words that one position cannot say, and shorter ones near them."""
        for word, tokens in zip(
            itertools.chain(*self.words), itertools.chain(*self.tokens), strict=True
        ):
            if len(tokens) > 1:
                near = proposals(tokenizer, word, bare=bare)
                _log.warning(
                    "label word %s is %d tokens of this vocabulary (%s): in one place it has the mean "
                    "of their log-probabilities, and it ends at the mean of their directions; targets "
                    "of a language model are single tokens%s",
                    shown(word),
                    len(tokens),
                    one_line(" ".join(tokenizer.convert_ids_to_tokens(list(tokens))), 300),
                    f"; words of one token are, for example, {', '.join(near)}" if near else "",
                )


def _name(words: Words) -> str:
    return words if isinstance(words, str) else "/".join(words)
