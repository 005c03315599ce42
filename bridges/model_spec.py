"""Which model a cost belongs to: found out, written down, compared."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from bridges.errors import BadInput

_PROBES = 16
_TOLERANCE = 0.02  # relative: survives a change of dtype, not another training run


def pretrained_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside ``model``: itself, or what a wrapper (peft, DDP) holds.

    Raises:
        BadInput: if there is none.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise BadInput(
        f"{type(model).__name__} holds no transformers model: expected a PreTrainedModel or a module "
        "that wraps one"
    )


@dataclass(frozen=True)
class ModelSpec:
    """What must agree between the model a cost was made for and the model it is used on.

    Attributes:
        name: as the model was loaded (the last part of a local path); told, never compared.
        model_type: architecture, e.g. "bert".
        num_layers: L; of an encoder-decoder its decoder's.
        hidden_size: H.
        vocab_size: V, rows of the word-embedding matrix.
        causal: whether position s predicts token s + 1, as its kind of model does.
        fingerprint: word-embedding entries at fixed places.
        encoder_decoder: whether the states are those of a decoder beside an encoder.
    """

    name: str
    model_type: str
    num_layers: int
    hidden_size: int
    vocab_size: int
    causal: bool
    fingerprint: tuple[float, ...]
    encoder_decoder: bool = False

    @classmethod
    def of(cls, model: nn.Module) -> ModelSpec:
        """Read the spec off a model.

        Raises:
            BadInput: if it is no transformers model with word embeddings.
        """
        plm = pretrained_model(model)
        config: Any = plm.config.get_text_config()
        both = bool(plm.config.is_encoder_decoder)
        embeddings = plm.get_input_embeddings()
        if embeddings is None or not isinstance(getattr(embeddings, "weight", None), torch.Tensor):
            raise BadInput(f"{type(plm).__name__} has no word embeddings to take end points from")
        weight = embeddings.weight.detach()
        if isinstance(weight, DTensor):  # sharded by FSDP
            weight = weight.full_tensor()
        vocab, width = weight.shape
        rows = torch.linspace(0, vocab - 1, _PROBES).long()
        columns = torch.linspace(0, width - 1, _PROBES).long()
        probe = weight[rows.to(weight.device), columns.to(weight.device)]
        return cls(
            name=os.path.basename(os.path.normpath(str(plm.config.name_or_path or "unnamed"))),
            model_type=str(config.model_type),
            num_layers=_decoder_layers(config) if both else int(config.num_hidden_layers),
            hidden_size=int(config.hidden_size),
            vocab_size=vocab,
            causal=not both and _is_causal(plm, str(config.model_type)),
            fingerprint=tuple(float(f"{x:.6g}") for x in probe.float().tolist()),
            encoder_decoder=both,
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelSpec:
        """Inverse of `dataclasses.asdict`, through JSON.

        Raises:
            BadInput: for a fingerprint of another length.
        """
        if len(values["fingerprint"]) != _PROBES:
            raise BadInput(
                f"the cost's config has a fingerprint of {len(values['fingerprint'])} numbers, expected "
                f"{_PROBES}: fit the cost anew"
            )
        return cls(**{**values, "fingerprint": tuple(values["fingerprint"])})

    def differences(self, other: ModelSpec) -> list[str]:
        """What differs, one phrase each: ``"hidden_size is 384 here, 768 there"``."""
        found = []
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name not in ("name", "fingerprint") and mine != theirs:
                found.append(f"{field.name} is {mine} in the cost, {theirs} in the model")
        if not found:
            mine, theirs = torch.tensor(self.fingerprint), torch.tensor(other.fingerprint)
            if (mine - theirs).norm() > _TOLERANCE * mine.norm():
                found.append("the word embeddings differ: same architecture, other weights")
        return found

    def states(self, output: Any) -> tuple[torch.Tensor, ...]:
        """The L+1 hidden states [B, S, H] in the output of a model of this kind."""
        found = output.decoder_hidden_states if self.encoder_decoder else output.hidden_states
        return tuple(found)


def _is_causal(plm: PreTrainedModel, model_type: str) -> bool:
    """By its class where that is a language model's, else by what its kind is known for."""
    name = type(plm).__name__
    if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        return True
    if model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return bool(getattr(plm.config, "is_decoder", False))
    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def _decoder_layers(config: Any) -> int:
    for name in ("num_decoder_layers", "decoder_layers", "num_hidden_layers"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    raise BadInput(f"{type(config).__name__} does not say how many layers its decoder has")
