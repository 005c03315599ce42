"""Which model a cost belongs to: found out, written down, compared."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bridges.errors import BadInput
from bridges.model.fingerprint import WORDS, Fingerprint
from bridges.model.forward import states_of
from bridges.model.probe import NotSeen, Probe, Reads, probe
from bridges.model.vocabulary import predicting_table
from bridges.model.weights import pretrained_model as pretrained_model
from bridges.model.weights import unsharded

_READS = ("same", "next")
_SHOWN = 3
_ARCHITECTURE = ("model_type", "num_layers", "hidden_size", "vocab_size", "encoder_decoder")


@dataclass(frozen=True)
class ModelSpec:
    """What must agree between the model a cost was made for and the model it is used on.

    Attributes:
        name: as the model was loaded (the last part of a local path); told, never compared.
        model_type: architecture, e.g. "bert".
        num_layers: L; of an encoder-decoder its decoder's.
        hidden_size: H.
        vocab_size: V, rows of the table of the tokens that it predicts.
        reads: "same" where the state at a label's own position predicts it, "next" where the one
            before it does.
        fingerprint: of the weights.
        encoder_decoder: whether the states are those of a decoder beside an encoder.
        autoregressive: whether a state depends on no later position; None where it was not seen.
        asked: whether the model's own loss told ``reads``; else it was given, or follows from how the
            model attends.
    """

    name: str
    model_type: str
    num_layers: int
    hidden_size: int
    vocab_size: int
    reads: Reads
    fingerprint: Fingerprint
    encoder_decoder: bool = False
    autoregressive: bool | None = None
    asked: bool = True

    @property
    def causal(self) -> bool:
        """Whether position s predicts token s + 1, in a model without an encoder beside."""
        return self.reads == "next" and not self.encoder_decoder

    @property
    def decodes(self) -> bool:
        """Whether, read at its own position, a label stands where its token has not been seen yet.

        Then what comes after the first label is no context: it holds the answer.
        """
        return self.encoder_decoder or (self.reads == "same" and bool(self.autoregressive))

    @classmethod
    def of(cls, model: nn.Module, reads: str | None = None) -> ModelSpec:
        """Read the spec off a model, and ask it which state predicts a label; see `bridges.model.probe`.

        Args:
            model: a transformers model, plain or wrapped.
            reads: "same" or "next", instead of asking.

        Raises:
            BadInput: if it is no transformers model with word embeddings, or it cannot be asked.
        """
        plm: Any = pretrained_model(model)
        if reads not in (None, *_READS):
            raise BadInput(f"reads={reads!r}: expected 'same' or 'next'")
        with unsharded(plm):
            rows, fingerprint = len(predicting_table(plm)), Fingerprint.of(plm)
        seen: Probe | None = None
        try:
            seen = probe(plm)
        except NotSeen as error:
            if reads is None:
                raise NotSeen(
                    f"which state predicts a label cannot be asked of the model: {error}. Say it: "
                    "reads='next' where position s predicts the token after it (most causal LMs), "
                    "reads='same' where it predicts its own label (masked LMs, encoder-decoders)"
                ) from error
        config = text_config(plm)
        both = seen.encoder_decoder if seen else bool(plm.config.is_encoder_decoder)
        position = reads or (seen.reads if seen else None)
        if position is None:  # by how it attends: that is what it was trained with
            position = "next" if seen and seen.autoregressive and not both else "same"
        return cls(
            name=os.path.basename(os.path.normpath(str(plm.config.name_or_path or "unnamed"))),
            model_type=str(config.model_type),
            num_layers=seen.num_layers if seen else _layers(config, both=both),
            hidden_size=seen.hidden_size if seen else int(config.hidden_size),
            vocab_size=rows,
            reads=position,  # type: ignore[arg-type]
            fingerprint=fingerprint,
            encoder_decoder=both,
            autoregressive=seen.autoregressive if seen else None,
            asked=reads is None and seen is not None and seen.reads is not None,
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelSpec:
        """Inverse of `dataclasses.asdict`, through JSON; also reads what older versions wrote."""
        values = {**values, "fingerprint": Fingerprint.from_json(values["fingerprint"])}
        if "reads" not in values:  # once it went by the names of classes
            values["reads"] = "next" if values.pop("causal") else "same"
        return cls(**values)

    def differences(self, other: ModelSpec) -> list[str]:
        """What differs in the architecture, one phrase each: ``"num_layers is 3 in the cost, ..."``."""
        names = list(_ARCHITECTURE)
        attend = (self.autoregressive, other.autoregressive)
        if self.asked and other.asked:
            names.append("reads")
        elif None not in attend:
            names.append("autoregressive")
        phrases = []
        for name in names:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                phrases.append(f"{name} is {mine} in the cost, {theirs} in the model")
        return phrases

    def other_weights(self, other: ModelSpec) -> str:
        """Of the same architecture: what is known to differ in the weights, in words; else empty."""
        parts = self.fingerprint.differences(other.fingerprint)
        if WORDS in parts:
            return WORDS
        more = len(parts) - _SHOWN
        return ", ".join(parts[:_SHOWN]) + (f" and {more} other parts" if more > 0 else "")

    def check(self, model: nn.Module, *, same_weights: bool = True) -> None:
        """Refuse any other model than this one; see `RunningCost.check_model`.

        Raises:
            BadInput: naming everything that differs.
        """
        try:
            other = ModelSpec.of(model)
        except NotSeen:
            other = ModelSpec.of(model, self.reads)
        differs = self.differences(other)
        remedy = "Fit a cost for this model"
        if not differs and same_weights and (parts := self.other_weights(other)):
            differs = [f"{parts} differ: same architecture, other weights"]
            remedy += (
                ". If it was trained further from the cost's own (embeddings in modules_to_save, full "
                "fine-tuning, a merged PET), use it on purpose: "
                "pets.regularize(model, cost, same_weights=False)"
            )
        if differs:
            raise BadInput(
                f"this cost was made for {self.name!r} and does not fit the model: "
                f"{'; '.join(differs)}. {remedy}"
            )

    def states(self, output: Any) -> tuple[torch.Tensor, ...]:
        """The L+1 hidden states [B, S, H] in the output of a model of this kind.

        Raises:
            BadInput: for an output without them.
        """
        states = states_of(output)
        if states is None:
            raise BadInput(f"{type(output).__name__} holds no hidden states")
        return states


def encoder_of(model: nn.Module) -> nn.Module:
    """The module inside that yields the hidden states from token ids, if it can be without a head."""
    plm: Any = pretrained_model(model)
    try:
        encoder: nn.Module = plm.get_submodule(probe(plm).encoder)
    except NotSeen:
        encoder = plm.base_model
    return encoder


def hub_name(plm: Any) -> str | None:
    """The hub's name of a transformers model; None where it was not loaded from there."""
    name = getattr(plm.config, "name_or_path", None)
    return str(name) if name and getattr(plm.config, "_commit_hash", None) else None


def text_config(plm: Any) -> Any:
    """The config of the part that reads text; of two such parts the decoder's."""
    try:
        return plm.config.get_text_config()
    except ValueError:  # an encoder and a decoder of their own
        return plm.config.get_text_config(decoder=True)


def _layers(config: Any, *, both: bool) -> int:
    names = ["num_decoder_layers", "decoder_layers"] if both else []
    for name in (*names, "num_hidden_layers"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    raise BadInput(f"{type(config).__name__} does not say how many layers the model has")
