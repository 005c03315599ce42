"""Positions of a sequence: how many a model has, and the label of those that are no target."""

from __future__ import annotations

from typing import Any

IGNORED = -100  # the label of every position that is no target

# Model types whose position ids start at pad_token_id + 1.
_PADDED_POSITIONS = frozenset(
    {
        "camembert",
        "data2vec-text",
        "ibert",
        "longformer",
        "luke",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    }
)


def max_positions(config: Any) -> int | None:
    """How many positions the model of this config has; None when its config sets no limit."""
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions is None or positions < 1:
        return None
    return positions - first_position(config)


def first_position(config: Any) -> int:
    """The position id of a sequence's first token."""
    return int(config.pad_token_id) + 1 if config.model_type in _PADDED_POSITIONS else 0
