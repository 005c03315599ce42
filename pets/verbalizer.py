"""The words that say a label: a verbalizer."""

from __future__ import annotations

import difflib
import itertools
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bridges import LabelEnds, RunningCost
from bridges.errors import BadInput
from bridges.model_spec import pretrained_model
from pets.prompts import plain_token_ids

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
    """

    labels: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    tokens: tuple[tuple[tuple[int, ...], ...], ...]

    @classmethod
    def of_words(
        cls, tokenizer: PreTrainedTokenizerBase, words: Mapping[str, Words] | Sequence[Words]
    ) -> Verbalizer:
        """From words: ``{"negative": "bad", "positive": ["good", "great"]}``, or without the names.

        A word counts in its form after a space (" yes", what byte-level and sentencepiece vocabularies
        store for whole words), or bare where only that is a single token.

        Raises:
            BadInput: for a label without words, a word that is empty or unknown to the vocabulary, or
                two words of the same tokens.
        """
        if isinstance(words, str):
            raise BadInput(f"label words {words!r}: expected a word, or a list of words, for each label")
        named = dict(words) if isinstance(words, Mapping) else {_name(each): each for each in words}
        if len(named) < len(words) or not named:
            raise BadInput(f"label words {words!r}: expected one label or more, no two the same")
        lists = [(each,) if isinstance(each, str) else tuple(each) for each in named.values()]
        seen: dict[tuple[int, ...], str] = {}
        tokens = []
        for label, of_label in zip(named, lists, strict=True):
            if not of_label:
                raise BadInput(f"label {label!r} has no words: give it one or more")
            tokens.append(tuple(word_tokens(tokenizer, word) for word in of_label))
            for word, ids in zip(of_label, tokens[-1], strict=True):
                if ids in seen:
                    raise BadInput(
                        f"label words {seen[ids]!r} and {word!r} are the same tokens (ids "
                        f"{list(ids)}); choose two different words"
                    )
                seen[ids] = word
        return cls(tuple(named), tuple(lists), tuple(tokens))

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
        """Where a cost's trajectories of these labels end."""
        return LabelEnds.of_words(cost.end_points, self.tokens)

    def score(self, logits: Tensor) -> Tensor:
        """Log-probability [N, C] that one of a label's words is said, from one position's logits [N, V].

        One position says one token: a longer word has the mean of its tokens' log-probabilities there.
        """
        log_probs = torch.log_softmax(logits, -1)
        found = []
        for words in self.tokens:
            each = [log_probs[:, list(tokens)].mean(1) for tokens in words]
            found.append(torch.logsumexp(torch.stack(each), 0))
        return torch.stack(found, 1)

    def warn_of_long_words(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Log the words that one position cannot say, and shorter ones near them."""
        for word, tokens in zip(
            itertools.chain(*self.words), itertools.chain(*self.tokens), strict=True
        ):
            if len(tokens) > 1:
                _log.warning(
                    "label word %r is %d tokens of this vocabulary (%s): at one [MASK] it has the mean "
                    "of their log-probabilities%s",
                    word,
                    len(tokens),
                    " ".join(tokenizer.convert_ids_to_tokens(list(tokens))),
                    _proposals(tokenizer, word),
                )


def _name(words: Words) -> str:
    return words if isinstance(words, str) else "/".join(words)


def word_tokens(tokenizer: PreTrainedTokenizerBase, word: str) -> tuple[int, ...]:
    """The token ids of a label word; see `Verbalizer.of_words`.

    Raises:
        BadInput: for a word that is empty or has pieces unknown to the vocabulary.
    """
    if not word.strip():
        raise BadInput(f"label word {word!r} is empty; expected a word of the vocabulary")
    after_space, bare = plain_token_ids(tokenizer, [" " + word, word])
    ids = bare if len(bare) == 1 and len(after_space) > 1 else after_space
    special = set(tokenizer.all_special_ids)
    if not ids or special.intersection(ids):
        raise BadInput(
            f"label word {word!r} is not in this vocabulary (its pieces: "
            f"{' '.join(tokenizer.convert_ids_to_tokens(ids))!r}): choose another one"
        )
    return tuple(ids)


def _proposals(tokenizer: PreTrainedTokenizerBase, word: str) -> str:
    # Tokens in their written form; fragments of words fall out below, where each is encoded again.
    vocabulary: Any = tokenizer.get_vocab()
    written = {tokenizer.convert_tokens_to_string([token]).strip() for token in vocabulary}
    similar = difflib.get_close_matches(
        word, sorted(text for text in written if text.isalpha()), n=100, cutoff=0.4
    )
    single = [t for t in similar if len(plain_token_ids(tokenizer, [" " + t])[0]) == 1][:4]
    return f"; words of one token are, for example, {', '.join(single)}" if single else ""
