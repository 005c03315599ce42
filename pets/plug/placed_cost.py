"""A running cost where the states are: what a forward left behind, read by it."""

from __future__ import annotations

import copy
import functools
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bridges import ModelSpec, RunningCost, transfer
from bridges.cost.batch import costs_and_first
from bridges.cost.documents import Layout
from bridges.errors import BadInput
from bridges.model.positions import IGNORED
from pets.plug.calls import Call
from pets.plug.labels import TokenTargets, behind_prompt
from pets.plug.loss_scale import LABELS
from pets.plug.meter import SHOWN, Layers

logger = logging.getLogger(__name__)
_copying = threading.Lock()


@dataclass(frozen=True)
class Placed:
    """The targets of a forward, where they are read.

    Attributes:
        hidden: L+1 states [B, S, H].
        targets: [B, S], -100 where there is none; on the host where it had to wait for a device.
        layout: which positions there are; likewise.
    """

    hidden: Sequence[Tensor]
    targets: Tensor
    layout: Layout


def place(
    call: Call, given: Mapping[str, Any], logits: Any, spec: ModelSpec, made: TokenTargets
) -> Placed:
    """Find the targets of a forward in its states.

    Args:
        call: the forward, with its states.
        given: what the model was called with, by name; labels among it.
        logits: what it returned.
        spec: of the model.
        made: what its labels are.

    Raises:
        BadInput: for labels that do not fit, or where it cannot be told what belongs together.
    """
    assert call.hidden is not None
    hidden, told = call.hidden, call.told.by_name()
    length, device = hidden[0].shape[1], hidden[0].device
    check_padding(call.told.module, told)
    of_decoder = call.of_decoder and not made.in_place
    given = {**given, **told, "input_ids": told.get("input_ids")}
    if near := on_host(given, call.ahead, of_decoder=of_decoder, ids=made.reads_ids):
        given, device = {**given, **near}, torch.device("cpu")
    layout = layout_of(hidden[0], given, of_decoder=of_decoder, device=device)
    if layout.documents is not None and made.dimensions == 1:
        raise BadInput(
            "several documents are packed into a row that has one label: a running cost cannot tell "
            "whose it is; give every document a row of its own"
        )
    labels = given["labels"].to(device)
    shifted = given.get("shift_labels")
    if shifted is not None and spec.causal and not made.in_place:
        labels = unshifted(shifted.to(device))
    targets = made(labels, length, given["input_ids"], layout.mask)
    made.check_head(targets, logits, hidden[-1] if call.last is None else call.last)
    return Placed(hidden, targets, layout)


class PlacedCost:
    """A cost and the targets that it reads.

    Args:
        cost: moves to the device of the first states; replicas on further devices have copies.
        targets: what the labels of the model are to it.
    """

    def __init__(self, cost: RunningCost, targets: TokenTargets) -> None:
        self._cost, self._targets = cost, targets
        self._device: torch.device | None = None
        self._elsewhere: dict[torch.device, RunningCost] = {}
        self._told = False

    @property
    def reads_ids(self) -> bool:
        """Whether the input ids say where targets are."""
        return self._targets.reads_ids

    @property
    def cost(self) -> RunningCost:
        """May be replaced, between forwards, by another of the same model."""
        return self._cost

    @cost.setter
    def cost(self, cost: RunningCost) -> None:
        self._cost, self._device, self._elsewhere = cost, None, {}

    def costs(self, call: Call, given: Mapping[str, Any], logits: Any) -> tuple[Tensor, Layers | None]:
        """The cost of each target token of a forward, [N], and what tells its layers.

        Arguments and errors as `place`.
        """
        made = self._targets
        placed = place(call, given, logits, self._cost.spec, made)
        self._look_for_others(placed.targets)
        device = placed.hidden[0].device
        cost, ends = self._on(device), made.ends_on(device)
        options: dict[str, Any] = {"in_place": made.in_place, "layout": placed.layout}
        if type(cost).costs is not RunningCost.costs:  # a subclass's own
            targets, options["layout"] = placed.targets.to(device), placed.layout.to(device)
            return cost.costs(placed.hidden, targets, labels=ends, **options), None
        costs, first = costs_and_first(
            cost,
            placed.hidden,
            placed.targets,
            first=SHOWN,
            labels=ends,
            classes=made.classes,
            **options,
        )
        return costs, None if first is None else functools.partial(cost.by_layer, *first, labels=ends)

    def _look_for_others(self, targets: Tensor) -> None:
        """Warn, once, where a cost that tells a label from the batch's others finds no other."""
        if self._told or self._targets.ends is not None or not self._cost.bridge.contrasts:
            return
        if torch.compiler.is_compiling():
            return
        here = targets[targets != IGNORED]
        if len(here) and bool((here == here[0]).all()):
            self._told = True
            logger.warning(
                "the cost %r tells a label from the others of its batch, and a batch has one alone, "
                "token %d: it is 0 there. Give the words of all labels: pets.regularize(model, cost, "
                "verbalizer=pets.Verbalizer.of_words(tokenizer, [...])) (said once)",
                self._cost.bridge.registered_name,
                int(here[0]),
            )

    def _on(self, device: torch.device) -> RunningCost:
        with _copying:
            if self._device is None:
                self._cost.to(device)
                self._device = device
            if self._device == device:
                return self._cost
            if device not in self._elsewhere:
                self._elsewhere[device] = copy.deepcopy(self._cost).to(device)
            return self._elsewhere[device]


def says_where(told: Mapping[str, Any], *, of_decoder: bool, ids: bool) -> dict[str, Tensor]:
    """What says where targets are, by name; nothing where it is too large to be copied to the host.

    Args:
        told: what a model was called with, by name.
        of_decoder: whether the states are a decoder's, beside an encoder.
        ids: whether the tokens are among it.
    """
    side = "decoder_" if of_decoder else ""
    mask = told.get(f"{side}attention_mask")
    if mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
        return {}  # of pairs
    names = [f"{side}attention_mask", f"{side}position_ids", "cu_seq_lens_q", "seq_idx", *LABELS]
    names += ["input_ids"] if ids else []
    return {name: told[name] for name in names if isinstance(told.get(name), Tensor)}


def on_host(
    told: Mapping[str, Any], ahead: transfer.Ahead, *, of_decoder: bool, ids: bool
) -> dict[str, Tensor]:
    """The same, copied from a device; nothing where there is no need.

    Args:
        ahead: what was sent before the forward: only for the rest the device's work is waited for.
    """
    near = says_where(told, of_decoder=of_decoder, ids=ids)
    if not any(transfer.is_remote(x.device) for x in near.values()):
        return {}
    copies = ahead.to_host(list(near.values()))
    return {name: copy for name, copy in zip(near, copies, strict=True) if copy is not None}


def layout_of(
    states: Tensor, told: Mapping[str, Any], *, of_decoder: bool, device: torch.device
) -> Layout:
    """Where the documents are in the states [B, S, H] of an encoder that was told so much.

    Args:
        states: only for their shape.
        told: by name.
        of_decoder: whether they are a decoder's, beside an encoder.
        device: of the result.

    Raises:
        BadInput: if that cannot be said.
    """
    side = "decoder_" if of_decoder else ""
    length = states.shape[1]
    mask, positions = told.get(f"{side}attention_mask"), told.get(f"{side}position_ids")
    if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] > length:
        mask = mask[:, -length:]  # with a prefix it begins with the prefix
    if isinstance(positions, Tensor):
        positions = positions[..., -length:]
    return Layout.of(
        (len(states), length),
        mask,
        position_ids=positions,
        cu_seqlens=told.get("cu_seq_lens_q"),
        seq_idx=told.get("seq_idx"),
        device=device,
    )


def check_padding(encoder: nn.Module | None, told: Mapping[str, Any]) -> None:
    """Was an encoder that was told no attention_mask told of padding in another way, or finds it itself?

    Raises:
        BadInput: if so, for a running cost would count the padding.
    """
    if "attention_mask" in told:
        return
    for name in ("lengths", "input_mask"):
        if name in told:
            raise BadInput(
                f"{name} says where the padding is, which a running cost reads off attention_mask "
                "alone: pass attention_mask=..., 0 at padding"
            )
    pad, ids = getattr(getattr(encoder, "config", None), "pad_index", None), told.get("input_ids")
    if pad is not None and ids is not None and (ids == pad).any():  # XLM
        raise BadInput(
            f"{type(encoder).__name__} takes token {pad} for padding where it gets no mask: pass "
            "attention_mask=..., 0 at padding, for the running cost to leave it out too"
        )


def unshifted(shifted: Tensor) -> Tensor:
    """Labels [B, S] at their own positions, of labels that stand where they are predicted.

    Raises:
        BadInput: if the last one's own position is not in the row.
    """
    if (shifted[:, -1] != IGNORED).any():
        raise BadInput(
            "shift_labels has a target at the last position of a row, so its token is in another part "
            "of the sequence (context parallelism): a running cost needs whole sequences"
        )
    return behind_prompt(shifted[:, :-1], shifted.shape[1])
