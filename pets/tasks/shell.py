"""What a tokenizer puts around a text: special tokens, a pair's separator, a chat's turns."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bridges.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONTENT = "0123456789"  # stands for a user's text; no chat template has it


@dataclass(frozen=True)
class Shell:
    """Token ids around a text, and between the two of a pair, with the token types of all parts.

    Attributes:
        before, between, after: ids.
        types: of before, the first text, between, the second text and after; empty where the tokenizer
            has none.
    """

    before: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    types: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.before) + len(self.after)


def special_tokens(tokenizer: PreTrainedTokenizerBase, *, pair: bool = False) -> Shell:
    """What the tokenizer puts around a text, or a pair of them, by itself."""
    encoded: Any = tokenizer(*(["a", "b"] if pair else ["a"]), verbose=False)
    ids, types = encoded["input_ids"], encoded.get("token_type_ids")
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    texts = [k for k, token in enumerate(ids) if token not in special]
    first = texts[0]
    if not pair:
        return Shell(tuple(ids[:first]), (), tuple(ids[texts[-1] + 1 :]))
    gaps = [k for k, later in itertools.pairwise(texts) if later > k + 1]
    end = gaps[0] if gaps else texts[len(texts) // 2 - 1]
    second = texts[texts.index(end) + 1]
    shell = (tuple(ids[:first]), tuple(ids[end + 1 : second]), tuple(ids[texts[-1] + 1 :]))
    places = (0, first, second - 1, second, len(ids) - 1)
    return Shell(*shell, tuple(types[k] for k in places) if types else ())


def chat_turns(tokenizer: PreTrainedTokenizerBase) -> Shell:
    """A user's turn around a text, and the beginning of the answer's, in the tokenizer's chat template.

    Raises:
        BadInput: if it has none, or one that does not write what a user says.
    """
    name = tokenizer.name_or_path
    if not getattr(tokenizer, "chat_template", None):
        raise BadInput(f"tokenizer {name!r} has no chat template: leave chat out, or take a chat model")
    turns = [{"role": "user", "content": _CONTENT}]
    try:
        written = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # templates are programs and raise what they like
        raise BadInput(f"the chat template of {name!r} fails: {' '.join(str(error).split())}") from error
    if written.count(_CONTENT) != 1:
        raise BadInput(
            f"the chat template of {name!r} does not write a user's text once: leave chat out"
        )
    parts = written.split(_CONTENT)
    before, after = (tokenizer(part, add_special_tokens=False, verbose=False) for part in parts)
    return Shell(tuple(before["input_ids"]), (), tuple(after["input_ids"]))
