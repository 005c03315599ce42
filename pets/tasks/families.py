"""What kind of model answers: where it says a word, or whether it has classes of its own."""

from __future__ import annotations

from typing import Any

from torch import nn

from bridges.model.probe import NotSeen, probe
from bridges.model.spec import pretrained_model
from pets.methods.task_type import task_type

MASKED, CAUSAL, ENCODER_DECODER, CLASSIFIER = "masked", "causal", "encoder-decoder", "classifier"
FAMILIES = (MASKED, CAUSAL, ENCODER_DECODER, CLASSIFIER)


def family_of(model: nn.Module) -> str:
    """One of `FAMILIES`, asked of the model: which state predicts a word, is there a decoder.

    Args:
        model: a transformers model, plain or with a PET.

    Raises:
        BadInput: if it is no transformers model.
    """
    plm: Any = pretrained_model(model)
    if plm.get_output_embeddings() is None:
        return CLASSIFIER
    try:
        seen = probe(plm)
    except NotSeen:  # by its name, then
        if plm.config.is_encoder_decoder:
            return ENCODER_DECODER
        return CAUSAL if task_type(plm) == "CAUSAL_LM" else MASKED
    if seen.encoder_decoder:
        return ENCODER_DECODER
    reads = seen.reads or ("next" if seen.autoregressive else "same")
    return CAUSAL if reads == "next" else MASKED
