"""The tokens of a label word: what the tokenizer makes of it in a text, at its place."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

from bridges.errors import BadInput, shown
from pets.tasks.prompts import plain_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BEFORE = ("It was", "the", "a", "0")
"""Texts that a label word continues; the first one whose tokens stay the same before the word counts."""

_SPACES = {"▁": ("sentencepiece", "▁"), "Ġ": ("byte-level", r"(?<!\S)Ġ")}
"""How vocabularies write the space before a word, which users copy from there; where it is meant so."""

_END = "</w>"
_LONGEST = 100  # characters of a word that others are compared with
_INSIDE = re.compile(r"##\w.*|.*\w@@")


def word_tokens(
    tokenizer: PreTrainedTokenizerBase,
    word: str,
    *,
    bare: bool = False,
    context: str | None = None,
    spaced: bool = True,
) -> tuple[int, ...]:
    """The token ids of a label word: those that it adds, after a space, to a text before it.

    A mask may also stand where a text begins. So with a tokenizer that has one a word counts in its
    bare form where only that is a single token.

    Args:
        tokenizer: of the model.
        word: see `pets.tasks.verbalizer.Verbalizer.of_words`.
        bare: always take the bare form, the tokens of the word alone: the published protocol.
        context: the words right before it, where they are known; it is read behind these then.
        spaced: whether there is a space between.

    Raises:
        BadInput: for a word that is empty, has pieces unknown to the vocabulary, or is written with
            marks of another vocabulary.
    """
    text = _written(tokenizer, word)
    (alone,) = plain_token_ids(tokenizer, [text])
    if bare:
        ids = alone
    elif context is not None:
        ids = in_place(tokenizer, context, text, spaced=spaced)
    else:
        ids = after_space(tokenizer, text)
    if context is None and tokenizer.mask_token is not None and len(ids) != 1 and len(alone) == 1:
        ids = alone
    if not ids or set(tokenizer.all_special_ids).intersection(ids):
        pieces = " ".join(map(str, tokenizer.convert_ids_to_tokens(ids)))
        raise BadInput(
            f"label word {shown(word)} is not in this vocabulary (its pieces: {shown(pieces)}): choose "
            "another one"
        )
    return tuple(ids)


def after_space(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids that ``text`` adds to a text before it and a space; none where all of it is merged.

    Encoded alone, a text with a space in front has a space too many in vocabularies that put one
    before every text, as Llama's.
    """
    for before in _BEFORE:
        alone, whole = plain_token_ids(tokenizer, [before, f"{before} {text}"])
        if whole[: len(alone)] == alone and len(whole) > len(alone):
            return whole[len(alone) :]
    return []


def in_place(tokenizer: PreTrainedTokenizerBase, context: str, text: str, *, spaced: bool) -> list[int]:
    """The ids that ``text`` adds to the context right before it, with a space between or without.

    Where the two melt into other tokens, it is read behind other words with a space, alone without.
    """
    alone, whole = plain_token_ids(tokenizer, [context, f"{context}{' ' if spaced else ''}{text}"])
    if alone and whole[: len(alone)] == alone and len(whole) > len(alone):
        return whole[len(alone) :]
    return after_space(tokenizer, text) if spaced else plain_token_ids(tokenizer, [text])[0]


def proposals(tokenizer: PreTrainedTokenizerBase, word: str, *, bare: bool = False) -> list[str]:
    """Words of one token that are written like ``word``; arguments as `word_tokens`."""
    # Tokens in their written form; fragments of words fall out below, where each is encoded again.
    vocabulary: Any = tokenizer.get_vocab()
    written = {tokenizer.convert_tokens_to_string([token]).strip() for token in vocabulary}
    similar = difflib.get_close_matches(
        word[:_LONGEST], sorted(text for text in written if text.isalpha()), n=100, cutoff=0.4
    )

    def ids(text: str) -> list[int]:
        return plain_token_ids(tokenizer, [text])[0] if bare else after_space(tokenizer, text)

    return [text for text in similar if len(ids(text)) == 1][:4]


def _written(tokenizer: PreTrainedTokenizerBase, word: str) -> str:
    """A label word as a text has it: marks of this very vocabulary, typed by hand, are understood.

    Raises:
        BadInput: for a word that is empty or no text, or has marks of another vocabulary or of the
            inside of a word.
    """
    if not isinstance(word, str) or not word.strip():
        raise BadInput(f"label word {shown(word)} is empty; expected a word of the vocabulary")
    text = word.strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput(f"label word {shown(word)} is no valid text: write it in UTF-8") from None
    if _INSIDE.fullmatch(text):
        raise BadInput(
            f"label word {shown(word)} is written as a piece of a longer word, with the mark '##' or "
            "'@@': a label word stands by itself after a space, so write it as in a text"
        )
    marks = [mark for mark, (_, meant) in _SPACES.items() if re.search(meant, text)]
    marks += [_END] if text.endswith(_END) else []
    if not marks:
        return text
    plain = text
    for mark in marks:
        plain = plain.replace(mark, " ")
    plain = " ".join(plain.split())
    seen = [*after_space(tokenizer, "a 0"), *after_space(tokenizer, plain)]
    used = "".join(map(str, tokenizer.convert_ids_to_tokens(seen)))
    foreign = [mark for mark in marks if mark not in used]
    if foreign or not plain:
        mark = (foreign or marks)[0]
        kind, _ = _SPACES.get(mark, ("other", ""))
        raise BadInput(
            f"label word {shown(word)} is written with {mark!r}, which is a mark of {kind} vocabularies "
            "and no part of a word here: write it as in a text" + (f", {shown(plain)}" if plain else "")
        )
    if text in tokenizer.get_vocab():  # bytes are written as letters there: "ĠgroÃŁ" is " groß"
        plain = tokenizer.convert_tokens_to_string([text]).strip() or plain
    return plain
