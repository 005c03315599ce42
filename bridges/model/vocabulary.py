"""The table of words that a model predicts from: whose rows the end points are."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bridges.errors import BadInput
from bridges.model.weights import whole_weight


def predicting_table(plm: Any) -> Tensor:
    """The vectors [V, E] of the tokens that a transformers model predicts.

    Its output embeddings, where it has some; they often are its input embeddings too. A model without a
    vocabulary head has the input embeddings of its decoder, or its only ones.

    Raises:
        BadInput: for a model without word embeddings, or a table that cannot be read: quantised, or not
            there.
    """
    name = type(plm).__name__
    embeddings = next((m for m in _tables(plm) if isinstance(getattr(m, "weight", None), Tensor)), None)
    if embeddings is None:
        raise BadInput(f"{name} has no word embeddings to take end points from")
    table = whole_weight(embeddings)
    if not table.is_floating_point():
        raise BadInput(
            f"the word embeddings of {name} are quantised ({table.dtype}): leave them out of the "
            "quantisation, or make the cost on the model that is not quantised"
        )
    if table.dim() != 2:
        raise BadInput(
            f"the word embeddings of {name} have shape {tuple(table.shape)}, expected a table [V, E]: "
            "is the model loaded?"
        )
    return table


def input_embeddings(plm: Any) -> nn.Module | None:
    """What transformers knows as the model's input embeddings; None where it knows of none."""
    try:
        embeddings = plm.get_input_embeddings()
    except (AttributeError, NotImplementedError):  # FSMT's decoder is no model of its own
        return None
    return embeddings if isinstance(embeddings, nn.Module) else None


def _tables(plm: Any) -> list[nn.Module | None]:
    both = getattr(plm.config, "is_encoder_decoder", False)
    decoder = plm.get_decoder() if both else None
    return [
        plm.get_output_embeddings(),
        input_embeddings(decoder) if decoder is not None and decoder is not plm else None,
        input_embeddings(plm),
    ]
