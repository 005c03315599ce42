"""One look at a model at work: which state predicts a label, which states there are and what from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from bridges.errors import BadInput
from bridges.model.forward import accepted_parameters, states_of
from bridges.model.positions import IGNORED
from bridges.model.tokens import ordinary_tokens
from bridges.model.undisturbed import undisturbed, with_gradients
from bridges.model.weights import device_of

Reads = Literal["same", "next"]

_LENGTH = 8
_PLACES = (3, 5, 4)
"""Where each row has its label."""
_SHARED = 5
"""How many tokens the first two rows begin with together; behind them the first and third are alike."""
_LEAST = 1e-6
"""Relative: a gradient below it is rounding."""
_INFLUENCE, _INFLUENCE_OF_HALF = 1e-5, 1e-3
"""Relative change of states, below which it is rounding; in fp16 and bf16."""

_probing: ContextVar[bool] = ContextVar("probing", default=False)
_seen: WeakKeyDictionary[nn.Module, tuple[Any, Probe | str]] = WeakKeyDictionary()


class NotSeen(BadInput):
    """A model that could not be looked at."""


@dataclass(frozen=True)
class Probe:
    """What was seen.

    Attributes:
        reads: "same" where the state at a label's own position predicts it, "next" where the one
            before it does; None where the model has no loss of tokens.
        autoregressive: whether a state depends on no later position.
        encoder_decoder: whether the states are those of a decoder beside an encoder.
        num_layers: one less than the hidden states that the model returns.
        hidden_size: their width.
        encoder: the path of the module that yields the states from the same input without a head; ""
            where only the model itself does.
    """

    reads: Reads | None
    autoregressive: bool
    encoder_decoder: bool
    num_layers: int
    hidden_size: int
    encoder: str


def is_probing() -> bool:
    """Whether a forward that asks this belongs to a probe, where a running cost has no place."""
    return _probing.get()


@contextmanager
def probing() -> Iterator[None]:
    """In here forwards are a probe's, see `is_probing`."""
    token = _probing.set(True)
    try:
        yield
    finally:
        _probing.reset(token)


def probe(plm: PreTrainedModel) -> Probe:
    """Run the model on two short rows with a label each, once for a model, and see.

    Nothing of it stays: modes, gradients, hooks and random generators are as they were.

    Raises:
        NotSeen: for a model that does not run on token ids, returns no hidden states [B, S, H], or whose
            weights are spread over processes, which a forward of a part of it would disturb.
    """
    # What a user changes on a model between two looks at it.
    config: Any = plm.config
    changeable = ("is_decoder", "num_hidden_layers")
    key = (type(plm).__qualname__, *(getattr(config, name, None) for name in changeable))
    known = _seen.get(plm)
    if known is None or known[0] != key:
        if _is_spread(plm):  # for now: nothing to remember
            raise NotSeen(f"the weights of {type(plm).__name__} are spread over processes")
        result: Probe | str
        try:
            result = _look(plm)
        except NotSeen as error:
            result = str(error)
        _seen[plm] = known = (key, result)
    if isinstance(known[1], str):
        raise NotSeen(known[1])
    return known[1]


def _look(plm: PreTrainedModel) -> Probe:
    name = type(plm).__name__
    try:
        with probing(), undisturbed(plm), with_gradients(plm):
            return _Look(plm).seen()
    except NotSeen:
        raise
    except Exception as error:  # whatever a model stops with that wants other inputs
        message = " ".join(str(error).split())[:200]
        raise NotSeen(
            f"{name} does not run on token ids alone ({type(error).__name__}: {message})"
        ) from error


def _is_spread(plm: nn.Module) -> bool:
    return any(isinstance(m, (FSDPModule, FullyShardedDataParallel)) for m in plm.modules()) or any(
        isinstance(p, DTensor) or hasattr(p, "ds_id") for p in plm.parameters()
    )


class _Look:
    """Three rows of ordinary tokens: the second is the first with another end, the third with another
    start.
    """

    def __init__(self, plm: Any) -> None:
        self.plm, self.name = plm, type(plm).__name__
        self.accepted = accepted_parameters(plm)
        if "input_ids" not in self.accepted:
            raise NotSeen(f"{self.name} takes {plm.main_input_name}, no token ids")
        self.both = bool(getattr(plm.config, "is_encoder_decoder", False))
        self.head = plm.get_output_embeddings()
        self.ids = self._rows()
        self.heard: dict[str, Any] = {}
        self.into_head: list[Any] = []

    def _rows(self) -> Tensor:
        tokens = ordinary_tokens(self.plm, 2 * _LENGTH)
        first, others = tokens[:_LENGTH], tokens[_LENGTH:]
        rows = [first, first[:_SHARED] + others[_SHARED:], others[:_SHARED] + first[_SHARED:]]
        ids = torch.tensor(rows, device=device_of(self.plm))
        end = getattr(self.plm.config, "eos_token_id", None)
        if self.both and isinstance(end, int):
            ids[:, -1] = end  # where a classifier of whole sequences looks for it
        return ids

    def seen(self) -> Probe:
        labelled = "labels" in self.accepted and self.head is not None
        output = self._run(labelled)
        if not labelled and "labels" in self.accepted and self._is_of_tokens(output):
            labelled, output = True, self._run(True)
        states = states_of(output)
        both = getattr(output, "decoder_hidden_states", None) is not None
        if states is None:
            raise NotSeen(f"{self.name} returns no hidden states")
        expected = (*self.ids.shape, states[-1].shape[-1])
        if any(s.shape != expected for s in states):
            shapes = " and ".join(str(s) for s in dict.fromkeys(tuple(s.shape) for s in states))
            raise NotSeen(
                f"{self.name} returns hidden states of shape {shapes} for {tuple(self.ids.shape)} tokens"
            )
        return Probe(
            self._reads(output, states) if labelled else None,
            both or self._is_autoregressive(states[-1].detach().double(), states[-1].dtype),
            both,
            len(states) - 1,
            expected[-1],
            next((path for path, said in self.heard.items() if _same(states_of(said), states)), ""),
        )

    def _run(self, labelled: bool) -> Any:
        inputs: dict[str, Any] = {"input_ids": self.ids}
        if "attention_mask" in self.accepted:
            inputs["attention_mask"] = torch.ones_like(self.ids)
        if labelled:
            inputs["labels"] = torch.full_like(self.ids, IGNORED)
            for row, place in enumerate(_PLACES):
                inputs["labels"][row, place] = self.ids[row, place]
        elif self.both and "decoder_input_ids" in self.accepted:
            inputs["decoder_input_ids"] = self.ids
        options = {"output_hidden_states": True, "return_dict": True}
        if "use_cache" in self.accepted:
            options["use_cache"] = False
        self.heard, self.into_head = {}, []
        with self._listening():
            # Not by calling it: hooks of others, and what torch.compile made of it, are not for this.
            return self.plm.forward(**inputs, **options)

    def _is_of_tokens(self, output: Any) -> bool:
        """Whether the logits are over a vocabulary, though the model names no vocabulary head."""
        logits = getattr(output, "logits", None)
        size = getattr(self.plm.config.get_text_config(decoder=True), "vocab_size", None)
        return isinstance(logits, Tensor) and logits.dim() == 3 and logits.shape[-1] == size

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Keep what models inside return to the same token ids, outer ones first; what the head gets."""
        with ExitStack() as stack:
            for path, module in self.plm.named_modules():
                if module is not self.plm and isinstance(module, PreTrainedModel):

                    def keep(
                        module: nn.Module, args: Any, kwargs: Any, output: Any, path: str = path
                    ) -> None:
                        if any(given is self.ids for given in (*args, *kwargs.values())):
                            self.heard[path] = output

                    self.heard[path] = None
                    stack.callback(module.register_forward_hook(keep, with_kwargs=True).remove)
            if isinstance(self.head, nn.Module):
                add = self.head.register_forward_pre_hook(lambda _, args: self.into_head.extend(args))
                stack.callback(add.remove)
            yield

    def _reads(self, output: Any, states: tuple[Tensor, ...]) -> Reads | None:
        loss = getattr(output, "loss", None)
        if not isinstance(loss, Tensor) or not loss.isfinite():
            return None  # it wants other labels too, or is broken, which training it says best
        made = [getattr(output, "logits", None), states[-1], *self.into_head]
        for tensor in (t for t in made if isinstance(t, Tensor) and t.requires_grad):
            batch, length = self.ids.shape
            if len(tensor) != batch or tensor.shape[-2] != length:
                continue
            gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
                loss, tensor, retain_graph=True, allow_unused=True
            )
            if gradients[0] is None:
                continue
            used = gradients[0].detach().abs().double().sum(-1).reshape(batch, -1, length).sum(1)
            rows = [(row > _LEAST * used.max()).nonzero().flatten().tolist() for row in used]
            for reads, shift in (("same", 0), ("next", 1)):
                if rows == [[place - shift] for place in _PLACES]:
                    return reads  # type: ignore[return-value]
            raise NotSeen(
                f"the loss of {self.name} reads positions {rows[0]} for a label at {_PLACES[0]}"
            )
        raise NotSeen(f"the loss of {self.name} is made from no states that it returns")

    def _is_autoregressive(self, last: Tensor, dtype: torch.dtype) -> bool:
        """Whether a row's beginning has an influence on its end, and the end none on the beginning."""
        exact = dtype in (torch.float32, torch.float64)
        least = (_INFLUENCE if exact else _INFLUENCE_OF_HALF) * last[0].norm()
        backward = (last[0] - last[1])[:_SHARED].norm()
        forward = (last[0] - last[2])[_SHARED:].norm()
        return bool(backward <= least < forward)


def _same(mine: tuple[Tensor, ...] | None, theirs: tuple[Tensor, ...]) -> bool:
    if mine is None or len(mine) != len(theirs):
        return False
    return all(
        a is b or (a.shape == b.shape and torch.equal(a, b)) for a, b in zip(mine, theirs, strict=True)
    )
