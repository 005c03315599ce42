"""Packed sequences: which positions of a row are one document, as the model was told it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bridges.errors import BadInput

_HIDDEN = -1e4
"""An additive mask below this hides a position; half precision's lowest number is -65504."""


@dataclass(frozen=True)
class Layout:
    """Which positions of a batch are attended to, and which document each belongs to.

    Attributes:
        mask: bool [B, S], the positions that are not padding.
        documents: int64 [B, S], numbers that rise where a new document starts within a row; None where
            every row is one document.
    """

    mask: Tensor
    documents: Tensor | None

    @classmethod
    def of(
        cls,
        shape: tuple[int, int],
        attention_mask: Any = None,
        *,
        position_ids: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        seq_idx: Tensor | None = None,
        device: torch.device | None = None,
    ) -> Layout:
        """Read the layout of rows [B, S] off what a transformers model is told of it.

        A document starts where any of the arguments says so.

        Args:
            shape: (B, S).
            attention_mask: [B, S], 0 at padding; [B, S, K] or [B, *, S, K], which position attends to
                which of the last S keys: booleans, whole numbers, or zeros and large negative numbers;
                or a dictionary of these.
            position_ids: [B, S], which start again in every document; with one axis more as multimodal
                models have them. Without a mask every jump is a start, as transformers takes it.
            cu_seqlens: [D+1], where documents start in a single row, and where the last one ends.
            seq_idx: [B, S], the number of each position's document.
            device: of the result; by default that of an argument.

        Raises:
            BadInput: for anything that does not say which positions belong together.
        """
        given = (attention_mask, position_ids, cu_seqlens, seq_idx)
        device = device or next((x.device for x in given if isinstance(x, Tensor)), None)
        if not _may_start(attention_mask) and all(x is None for x in given[1:]):
            return cls(_of_positions(shape, attention_mask, device), None)  # without a look at a device
        starts = torch.zeros(shape, dtype=torch.bool, device=device)
        mask, told = _mask(shape, attention_mask, starts)
        if cu_seqlens is not None:
            mask = mask & _cumulated(shape, cu_seqlens.to(starts.device).long(), starts)
        if seq_idx is not None:
            starts[:, 1:] |= _checked("seq_idx", seq_idx, shape, starts.device).diff(dim=1) != 0
        if position_ids is not None:
            starts |= _restarts(shape, position_ids.to(starts.device), mask, told)
        starts[:, 0] = False
        return cls(mask, starts.long().cumsum(1) if starts.any() else None)

    def to(self, device: torch.device) -> Layout:
        """On a device; itself where it is there already."""
        if self.mask.device == device:
            return self
        return Layout(
            self.mask.to(device), None if self.documents is None else self.documents.to(device)
        )


@dataclass(frozen=True)
class Rows:
    """Documents as rows of their own, padded on the right.

    Attributes:
        index: int64 [D, S'], their positions in the batch [B S], 0 where there is none.
        valid: bool [D, S'].
    """

    index: Tensor
    valid: Tensor

    @classmethod
    def of(cls, documents: Tensor, wanted: Tensor) -> Rows:
        """The documents [B, S] in which a position is ``wanted`` [B, S]."""
        batch, length = documents.shape
        flat = documents + torch.arange(batch, device=documents.device)[:, None] * length
        numbers, number = flat.flatten().unique(return_inverse=True)
        holds = torch.zeros_like(numbers, dtype=torch.bool)
        holds[number[wanted.flatten()]] = True
        holds[0] |= ~holds.any()  # where none is, one: a batch has a row
        (position,) = holds[number].nonzero(as_tuple=True)
        _, row, count = number[position].unique_consecutive(return_inverse=True, return_counts=True)
        place = torch.arange(len(position), device=row.device) - (count.cumsum(0) - count)[row]
        index = position.new_zeros(len(count), int(count.max()))
        valid = torch.zeros_like(index, dtype=torch.bool)
        index[row, place] = position
        valid[row, place] = True
        return cls(index, valid)

    def take(self, values: Tensor, fill: float | bool | None = None) -> Tensor:
        """[D, S', *] out of [B, S, *]; ``fill`` where there is no position, else what stands first."""
        taken = values.flatten(0, 1)[self.index]
        return taken if fill is None else taken.masked_fill(~self.valid, fill)


def _may_start(mask: Any) -> bool:
    """Whether a mask can say that a document starts: one of pairs."""
    return isinstance(mask, dict) or (isinstance(mask, Tensor) and mask.dim() in (3, 4))


def _mask(shape: tuple[int, int], given: Any, starts: Tensor) -> tuple[Tensor, bool]:
    """The mask [B, S], whether one was given, and in ``starts`` where it says that documents start."""
    if isinstance(given, dict):  # one a kind of layer
        chosen = given.get("full_attention", next(iter(given.values()), None))
        return _mask(shape, chosen, starts)
    if _may_start(given):
        return _pairs(shape, given.to(starts.device), starts), True
    return _of_positions(shape, given, starts.device), given is not None


def _of_positions(shape: tuple[int, int], given: Any, device: torch.device | None) -> Tensor:
    """The mask [B, S] of one that says nothing of pairs, or of none."""
    if given is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    if not isinstance(given, Tensor) or given.dim() != 2:
        raise BadInput(
            f"attention_mask is {_kind(given)}: a running cost cannot tell from it which positions "
            "belong together; expected [B, S], [B, S, S] or [B, 1, S, S]"
        )
    return _checked("attention_mask", given, shape, device or given.device).bool()


def _pairs(shape: tuple[int, int], given: Tensor, starts: Tensor) -> Tensor:
    """The same for a mask of pairs [B, S, K] or [B, *, S, K]."""
    batch, length = shape
    sees = given if given.dim() == 4 else given[:, None]
    if sees.is_floating_point():
        if (sees > 0).any():
            raise BadInput(
                f"attention_mask {tuple(given.shape)} of floating numbers goes up to {float(sees.max())}"
                ": expected 0 where a position attends to another, a large negative number elsewhere"
            )
        sees = sees > _HIDDEN
    sees = sees.bool().any(1)[..., -length:]
    if sees.shape[1] == 1 < length and sees.shape[0] in (1, batch) and sees.shape[2] == length:
        return sees[:, 0].expand(shape)  # of keys alone
    if sees.shape[0] not in (1, batch) or sees.shape[1:] != (length, length):
        raise BadInput(
            f"attention_mask {tuple(given.shape)} does not fit states of {batch} x {length} positions: "
            f"expected the last two sizes to be {length} and at least {length}"
        )
    sees = sees.expand(batch, length, length)
    mask = sees.diagonal(dim1=1, dim2=2) | (sees.sum(1) > 0)
    pairs = sees & mask[:, :, None] & mask[:, None, :]
    # A document starts at s where nothing from there on sees anything before, and nothing before it
    # anything from there on.
    place = torch.arange(length, device=sees.device)
    lowest = torch.where(pairs, place, length).amin(2).flip(1).cummin(1).values.flip(1)
    highest = torch.where(pairs, place, -1).amax(2).cummax(1).values
    apart = lowest >= place
    apart[:, 1:] &= highest[:, :-1] < place[1:]
    apart &= mask
    starts |= apart
    documents = apart.long().cumsum(1)
    together = documents[:, :, None] == documents[:, None, :]
    earlier = together & mask[:, :, None] & mask[:, None, :] & (place[:, None] >= place)
    if (earlier & ~sees).any():
        row, position, hidden = (earlier & ~sees).nonzero()[0].tolist()
        raise BadInput(
            f"attention_mask {tuple(given.shape)}: position {position} of row {row} does not see "
            f"position {hidden} of the same document, so what a running cost may read there cannot be "
            "told; give documents that each see all that comes before in them"
        )
    return mask


def _cumulated(shape: tuple[int, int], bounds: Tensor, starts: Tensor) -> Tensor:
    """The mask [B, S] of a row of documents with these bounds; their starts go into ``starts``."""
    if shape[0] != 1:
        raise BadInput(
            f"cu_seqlens were passed with {shape[0]} rows: expected one row that holds all documents"
        )
    if bounds.dim() != 1 or len(bounds) < 2 or bounds[0] != 0 or (bounds.diff() < 0).any():
        raise BadInput(f"cu_seqlens {bounds.tolist()[:8]}: expected numbers that rise from 0")
    if bounds[-1] > shape[1]:
        raise BadInput(f"cu_seqlens end at {int(bounds[-1])}, the row has {shape[1]} positions")
    starts[0, bounds[bounds < shape[1]]] = True
    return (torch.arange(shape[1], device=starts.device) < bounds[-1])[None]


def _restarts(shape: tuple[int, int], positions: Tensor, mask: Tensor, told: bool) -> Tensor:
    """Where position ids say that a document starts, bool [B, S]."""
    if positions.dim() == 3 and positions.shape[0] == 4:
        positions = positions[0]  # the text's, before those of time, height and width
    if positions.dim() == 3:
        # Positions in an image go back, but never to where the text began.
        axes = torch.stack([_checked("position_ids", axis, shape, mask.device) for axis in positions])
        return mask & (axes <= axes[..., :1]).all(0)
    positions = _checked("position_ids", positions, shape, mask.device)
    if not told:
        return F.pad(positions.diff(dim=1) != 1, (1, 0), value=False)
    place = torch.arange(shape[1], device=mask.device).expand(shape)
    last = torch.where(mask, place, -1).cummax(1).values
    before = F.pad(last[:, :-1], (1, 0), value=-1)
    return mask & (before >= 0) & (positions <= positions.gather(1, before.clamp(min=0)))


def _checked(name: str, given: Tensor, shape: tuple[int, int], device: torch.device) -> Tensor:
    rows = given.to(device)
    rows = rows[None] if rows.dim() == 1 else rows
    if rows.dim() != 2 or rows.shape[0] not in (1, shape[0]) or rows.shape[1] != shape[1]:
        raise BadInput(
            f"{name} {tuple(given.shape)} does not fit states of {shape[0]} x {shape[1]} positions: "
            f"expected {shape}"
        )
    return rows if rows.shape == shape else rows.expand(shape)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
