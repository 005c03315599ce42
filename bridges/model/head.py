"""What a model's head says: at a few positions of a forward, and of the states of any layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from bridges.errors import BadInput, shown
from bridges.model.ending import given_output, look_at_ending
from bridges.model.forward import accepted_parameters
from bridges.model.probe import probing
from bridges.model.tokens import ordinary_tokens
from bridges.model.undisturbed import undisturbed
from bridges.model.weights import device_of, pretrained_model, unsharded

_SAME = (1e-3, 5e-2)
"""Largest difference of logits that are the same, to the largest of them; of 16-bit models."""


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


class ModelHead:
    """The whole of what a model puts behind its encoder, read at any states of it, with gradient.

    That is transform, pooler, norm, tied embedding and bias, scaling and softcap, with the PET in them
    where it has one: the model's own forward runs, without its encoder. Where the encoder ends in a norm
    of all layers' sum (Llama, GPT-2, T5, ModernBERT), a layer's states pass that norm first: the head
    knows no others (nostalgebraist, "interpreting GPT: the logit lens", 2020).

    The model runs once to be looked at, and then in the mode and under the autocast of the caller.

    Args:
        model: a transformers model with logits, of tokens or classes, plain or with a PET.

    Raises:
        BadInput: if its head cannot be read so, by the model's own logits on a few tokens.
    """

    def __init__(self, model: nn.Module) -> None:
        plm: Any = pretrained_model(model)
        self._plm, self._name = plm, type(plm).__name__
        self._accepted = frozenset(accepted_parameters(plm))
        self._both = bool(getattr(plm.config, "is_encoder_decoder", False))
        try:
            with unsharded(plm):
                self._ending = look_at_ending(plm, self._inputs(self._tokens()))
                self._num_layers = len(self._ending.states) - 1
                self._dtype = self._ending.raw.dtype
                self._check()
        except BadInput:
            raise
        except Exception as error:  # whatever a model stops with that wants other inputs
            message = " ".join(str(error).split())[:200]
            raise BadInput(
                f"the head of {self._name} cannot be read at other layers: it does not run on token ids "
                f"alone ({type(error).__name__}: {message})"
            ) from error
        # What was seen is not kept.
        nothing = torch.zeros(())
        self._ending = replace(self._ending, states=(), raw=nothing, logits=nothing)

    def __call__(self, states: Tensor, layers: Sequence[int] | None = None) -> Tensor:
        """The logits, had the model stopped at these states.

        Args:
            states: [K, N, H], of N positions in K layers, on the model's device, of any dtype.
            layers: which of the L+1 hidden states each of the K is; without it none is the last.

        Returns:
            [K, N, C], of C tokens or classes.

        Raises:
            BadInput: for states of another shape.
        """
        if states.dim() != 3 or (layers is not None and len(layers) != len(states)):
            raise BadInput(
                f"states {tuple(states.shape)} at layers {shown(layers)}: expected [K, N, H] and K of "
                "them, or None"
            )
        if not states.shape[0] * states.shape[1]:
            width = self._logits(states.new_zeros(1, states.shape[2], dtype=self._dtype)).shape[1]
            none = states.new_zeros(*states.shape[:2], width)
            return none + states.sum()  # part of their graph
        states = states.to(self._dtype)
        norm, last = self._ending.norm, self._ending.last_is_normed
        if norm is not None:
            which = layers if layers is not None and last else [-1] * len(states)
            pairs = zip(states, which, strict=True)
            states = torch.stack([s if k == self._num_layers else norm(s) for s, k in pairs])
        logits = self._logits(states.flatten(0, 1))
        return logits.reshape(*states.shape[:2], -1)

    def _logits(self, hidden: Tensor) -> Tensor:
        """Logits [R, C] of states [R, H], which the encoder might have ended in."""
        plm, ending = self._plm, self._ending
        # A row for each: a head of sequences takes one position of a row, the first or the last.
        rows = hidden[:, None]
        encoder: Any = plm.get_submodule(ending.path)
        pooled = {"pooler_output": _pooled(encoder, rows)} if ending.pools else {}
        output = ending.made(last_hidden_state=rows, **pooled)
        inputs = self._inputs(self._tokens()[:1, -1:].expand(len(rows), 1))
        if self._both and "encoder_outputs" in self._accepted:
            inputs["encoder_outputs"] = BaseModelOutput(last_hidden_state=rows)
        with probing(), given_output(plm, ending.path, output):
            logits: Tensor = plm.forward(**inputs, return_dict=True).logits
        if logits.shape[:-1] not in ((len(rows), 1), (len(rows),)):
            raise BadInput(f"{self._name} has no head that reads its encoder's last states one by one")
        return logits.reshape(len(rows), -1)

    def _tokens(self) -> Tensor:
        """Ids [2, 4]; of an encoder-decoder's sequences the head reads where they end."""
        ids = torch.tensor(ordinary_tokens(self._plm, 8), device=device_of(self._plm)).reshape(2, 4)
        end = getattr(self._plm.config, "eos_token_id", None)
        if self._both and isinstance(end, int):
            ids[:, -1] = end
        return ids

    def _inputs(self, ids: Tensor) -> dict[str, Any]:
        inputs: dict[str, Any] = {"input_ids": ids}
        if "attention_mask" in self._accepted:
            inputs["attention_mask"] = torch.ones_like(ids)
        if self._both and "decoder_input_ids" in self._accepted:
            inputs["decoder_input_ids"] = ids
        if "use_cache" in self._accepted:
            inputs["use_cache"] = False
        return inputs

    def _check(self) -> None:
        """On the last states it gives the model's logits; before the norm, where there is one, too."""
        ending = self._ending
        shape = ending.states[-1].shape
        with undisturbed(self._plm), torch.no_grad():
            found = [
                self(states.reshape(1, -1, shape[-1]), layers)[0].unflatten(0, shape[:2])
                for states, layers in ((ending.states[-1], [self._num_layers]), (ending.raw, None))
            ]
        own = ending.logits
        near = _SAME[own.element_size() < 4]
        for logits in found:
            # Of a sequence's logits one position is theirs, in every row the same.
            tries = [logits] if own.dim() == 3 else list(logits.unbind(1))
            off = [(one - own).abs().max() / own.abs().max() for one in tries if one.shape == own.shape]
            if not off or not min(off) <= near:
                far = f"it is {float(min(off)):.2g} of the largest away from" if off else "it has no"
                raise BadInput(
                    f"the head of {self._name} cannot be read at other layers: at the last one {far} "
                    "the model's own logits"
                )


def _pooled(encoder: Any, rows: Tensor) -> Tensor:
    """The pooled state [R, P] of rows [R, 1, H]."""
    activation = getattr(encoder, "pooler_activation", None)  # ALBERT's pooler is a linear map alone
    pooled: Tensor = encoder.pooler(rows if activation is None else rows[:, 0])
    return pooled if activation is None else activation(pooled)
