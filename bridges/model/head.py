"""What a language model's head says at a few positions, from the forward that yields the states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from bridges.errors import BadInput


def has_head(plm: Any) -> bool:
    """Whether a transformers model predicts words, by a module of its own."""
    return isinstance(plm.get_output_embeddings(), nn.Module)


@contextmanager
def head_at(plm: Any, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """In this block the head reads N positions alone, and a forward's logits are [1, N, V].

    Those of whole batches can be larger than all states together.

    Args:
        plm: a language model, see `has_head`.
        rows, columns: int64 [N].
    """

    def narrow(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][rows, columns][None], *args[1:])

    hook = plm.get_output_embeddings().register_forward_pre_hook(narrow)
    try:
        yield
    finally:
        hook.remove()


def narrowed_logits(output: Any, count: int, vocabulary: int) -> Tensor:
    """The logits [N, V] of a forward in `head_at`.

    Raises:
        BadInput: if the model made others.
    """
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.shape[:2] != (1, count) or logits.shape[2] < vocabulary:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else logits
        raise BadInput(
            f"the head of the model gave logits {shape} for {count} positions: what it expects there "
            "cannot be read; fit with targets='words'"
        )
    return logits[0, :, :vocabulary]
