"""Where in a sequence a target is read, and what of the sequence is its context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bridges.cost.documents import Layout, Rows
from bridges.errors import BadInput
from bridges.latent.trajectory import Trajectory
from bridges.model.positions import IGNORED
from bridges.model.spec import ModelSpec
from bridges.transfer import is_remote, to_device, to_host


@dataclass(frozen=True)
class Reading:
    """The targets of a batch.

    Attributes:
        rows, columns: int64 [N], the positions whose states are the trajectories, in the order of
            `nonzero`.
        targets: int64 [N], tokens or labels.
        context: bool [B, S], the positions whose mean state is the context of a sequence; None where it
            is not asked for.
        documents: of a packed batch whose documents are the sequences then; else None.
    """

    rows: Tensor
    columns: Tensor
    targets: Tensor
    context: Tensor | None
    documents: Rows | None = None

    @property
    def of_copies(self) -> bool:
        """Whether the states are read out of copies of the model's: those of documents are."""
        return self.documents is not None

    def to(self, device: torch.device) -> Reading:
        """On a device, without a wait."""
        if self.rows.device == device and not is_remote(device):
            return self
        packed = self.documents
        given = [torch.stack([self.rows, self.columns, self.targets])]
        given += [] if self.context is None else [self.context]
        given += [] if packed is None else [packed.index, packed.valid]
        places, *also = to_device(given, device)
        context = None if self.context is None else also.pop(0)
        rows, columns, targets = places.unbind()
        return Reading(rows, columns, targets, context, Rows(*also) if also else None)

    def trajectory(self, hidden_states: Sequence[Tensor], *, defer: bool = True) -> Trajectory:
        """Read out of L+1 states [B, S, H], with their context where it was asked for.

        Args:
            hidden_states: the model's, or a copy's.
            defer: see `kernels.pooling.pool_trajectory`; never of copies.
        """
        means = self.context is not None
        places = self.context, self.rows, self.columns
        defer = defer and not self.of_copies
        return Trajectory.gather(hidden_states, *places, context=means, in_order=True, defer=defer)


def read(
    spec: ModelSpec,
    targets: Tensor,
    layout: Layout,
    *,
    classes: int | None = None,
    in_place: bool = False,
    context: bool = True,
) -> Reading:
    """Find the targets [B, S] of a batch; see `RunningCost.costs` for where they are read.

    Args:
        spec: of the model.
        targets: token ids, or labels, -100 where there is none; on the host, as is the layout, for each
            number that is looked at would make a device wait.
        layout: which positions there are, [B, S].
        classes: how many labels there are; None for tokens of the vocabulary.
        in_place: read at their own positions, with all that is attended as context, in any model.
        context: whether the mean states are asked for.

    Raises:
        BadInput: for a target at a position that is not attended, or one out of range.
    """
    mask, documents = layout.mask, None
    shifted = spec.causal and not in_place
    is_target = targets != IGNORED
    hidden = is_target > mask
    lost = (hidden[:, 1:] if shifted else hidden).sum()
    if layout.documents is not None:
        documents = Rows.of(layout.documents, is_target & mask)
        targets, mask = documents.take(targets, IGNORED), documents.take(mask, False)
        is_target = targets != IGNORED
    if shifted:
        is_target[:, :1] = False  # nothing comes before the first token to predict it
        # nor before the first attended one, when the padding is on the left
        is_target[:, 1:] &= mask[:, :-1]
    rows, columns = is_target.nonzero(as_tuple=True)
    answers = targets[rows, columns]
    if missing := int(lost):
        raise BadInput(
            f"{missing} targets are at positions that the attention mask leaves out: set their "
            "labels to -100 or attend to them"
        )
    count = spec.vocab_size if classes is None else classes
    low, high = map(int, answers.aminmax()) if len(rows) else (0, 0)
    if low < 0 or high >= count:
        kind = "token ids" if classes is None else "labels"
        raise BadInput(f"targets from {low} to {high}: expected {kind} from 0 to {count - 1}, or -100")
    if shifted:
        columns = columns - 1
    if not context:
        if documents is not None:  # the positions say it all
            places, order = documents.index[rows, columns].sort()
            length = layout.mask.shape[1]
            rows, columns, answers = places // length, places % length, answers[order]
        return Reading(rows, columns, answers, None)
    if shifted:
        mask = mask & (is_target.cumsum(1) == 0)
    elif spec.decodes and not in_place:
        mask = mask & (is_target.cumsum(1) - is_target.long() == 0)
    return Reading(rows, columns, answers, mask, documents)


def read_near(spec: ModelSpec, targets: Tensor, layout: Layout, **told: Any) -> Reading:
    """`read` on the host, of what may be on a device.

    That is one wait for it, where nonzero() and each look at a number would be one.
    """
    found, mask, documents = to_host([targets, layout.mask, layout.documents])
    assert found is not None
    assert mask is not None
    return read(spec, found, Layout(mask, documents), **told)


def locate(
    spec: ModelSpec,
    hidden_states: Sequence[Tensor],
    targets: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None,
    *,
    classes: int | None,
    in_place: bool,
    context: bool = True,
) -> tuple[Sequence[Tensor], Reading, Reading]:
    """Where targets are in the states of a batch; arguments as `read`.

    Args:
        hidden_states: L+1 tensors [B, S, H]; those on another device than the first, where a model's
            layers lie on several, are copied to it.
        attention_mask, layout: either, or neither where all is attended.

    Returns:
        The states, of a packed batch those of its documents; the targets, on the states' device; and
        they once more on the host, where it takes no wait to look at them.

    Raises:
        BadInput: as `read`, and for states that are not this model's.
    """
    expected = (*targets.shape, spec.hidden_size)
    alike = all(hidden.shape == expected for hidden in hidden_states)
    if not alike or len(hidden_states) != spec.num_layers + 1:
        shapes = [tuple(hidden.shape) for hidden in hidden_states]
        described = " and ".join(str(shape) for shape in dict.fromkeys(shapes))
        raise BadInput(
            f"got {len(shapes)} hidden states of shape {described or 'none'}: expected "
            f"{spec.num_layers + 1} of shape {expected} for targets {tuple(targets.shape)}"
        )
    if layout is None:
        layout = Layout.of((len(targets), targets.shape[1]), attention_mask, device=targets.device)
    device = hidden_states[0].device
    hidden_states = [h if h.device == device else h.to(device) for h in hidden_states]
    near = read_near(spec, targets, layout, classes=classes, in_place=in_place, context=context)
    where = near.to(device)
    if where.documents is not None:
        hidden_states = [where.documents.take(hidden) for hidden in hidden_states]
    return hidden_states, where, near


def gather(
    spec: ModelSpec,
    hidden_states: Sequence[Tensor],
    targets: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None,
    *,
    classes: int | None,
    in_place: bool,
    context: bool = True,
) -> tuple[Trajectory, Tensor]:
    """The targets' trajectories, and their tokens or labels [N]; arguments and errors as `locate`.

    Args:
        context: whether the mean states are asked for.
    """
    given = hidden_states, targets, attention_mask, layout
    hidden_states, where, _ = locate(spec, *given, classes=classes, in_place=in_place, context=context)
    return where.trajectory(hidden_states), where.targets
