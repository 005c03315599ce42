"""Ordinary tokens of a model: what may stand anywhere in a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def ordinary_tokens(plm: Any, count: int) -> list[int]:
    """Token ids that both tables of embeddings have and the config gives no meaning of their own.

    Fewer than ``count`` come again.
    """
    config = plm.config
    tables = (plm.get_input_embeddings(), plm.get_output_embeddings())
    sizes = [len(t.weight) for t in tables if isinstance(getattr(t, "weight", None), Tensor)]
    sizes.append(getattr(config.get_text_config(decoder=True), "vocab_size", None) or 2**31)
    size = min(sizes)
    special = set(_special(config.to_dict()))
    # From the middle, since the first and the last are often special or never used.
    order = (i % size for i in range(size // 2, size // 2 + min(size, 5000)))
    plain = [i for i in order if i not in special] or [0]
    return [plain[i % len(plain)] for i in range(count)]


def _special(config: Mapping[Any, Any]) -> Iterator[int]:
    """Ids of tokens that a config names, such as those that stand for images."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _special(value)
        elif isinstance(name, str) and ("token" in name or name.endswith(("_id", "_index"))):
            yield from (v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int))
