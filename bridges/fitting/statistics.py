"""What a lens is made of: sums over text, which add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from bridges.errors import BadInput
from bridges.latent.trajectory import normalised


@dataclass
class Statistics:
    """Sums over tokens of products of a layer's normalised state x and the token's end point v.

    Those of two parts of a text, of two processes, or of before and after an interruption add up to
    those of the whole. In float64.

    Attributes:
        gram: [L+1, H+1, H+1], of x with a 1 appended: sum x x'.
        cross: [L+1, H+1, d], sum x v'.
        square: [d], sum v^2.
    """

    gram: Tensor
    cross: Tensor
    square: Tensor

    @classmethod
    def zeros(cls, num_states: int, hidden_size: int, dim: int) -> Statistics:
        """Of no token."""
        size = hidden_size + 1
        return cls(
            torch.zeros(num_states, size, size, dtype=torch.float64),
            torch.zeros(num_states, size, dim, dtype=torch.float64),
            torch.zeros(dim, dtype=torch.float64),
        )

    @property
    def count(self) -> int:
        """How many tokens there are."""
        return round(float(self.gram[0, -1, -1]))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By name."""
        return vars(self)

    def covariance(self) -> Tensor:
        """Of the normalised states, [L+1, H, H]."""
        mean = self.gram[:, :-1, -1] / self.count
        return self.gram[:, :-1, :-1] / self.count - mean[:, :, None] * mean[:, None]

    def add(self, states: Tensor, ends: Tensor) -> None:
        """Some tokens more.

        Args:
            states: [L+1, N, H], not normalised yet.
            ends: [N, d].

        Raises:
            BadInput: for states or end points that are not finite.
        """
        ends = ends.detach().double().cpu()
        sums = []
        for k, state in enumerate(states.detach()):  # by layers: in float64 all at once fill the memory
            x = normalised(state.double())
            x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
            gram, cross = (x.T @ x).cpu(), (x.T @ ends.to(x.device)).cpu()
            if not gram.isfinite().all():
                raise BadInput(
                    f"hidden state {k} of {len(state)} tokens is not finite: is the model loaded, in "
                    "a dtype that holds its states?"
                )
            sums.append((gram, cross))
        if not ends.isfinite().all():
            raise BadInput(
                f"the end points of {len(ends)} tokens are not finite: does the head give numbers?"
            )
        for k, (gram, cross) in enumerate(sums):
            self.gram[k] += gram
            self.cross[k] += cross
        self.square += ends.square().sum(0)

    def __iadd__(self, other: Statistics) -> Statistics:
        for name, tensor in self.tensors.items():
            theirs = other.tensors[name]
            if theirs.shape != tensor.shape:
                raise BadInput(
                    f"{name} is {tuple(tensor.shape)} here and {tuple(theirs.shape)} there: sums of "
                    "other models or end points do not add up"
                )
            tensor += theirs
        return self

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> None:
        """The sums of all processes of torch.distributed, in each of them."""
        for tensor in self.tensors.values():
            if dist.get_backend(group) == "nccl":
                there = tensor.cuda()
                dist.all_reduce(there, group=group)
                tensor.copy_(there)
            else:
                dist.all_reduce(tensor, group=group)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Statistics:
        """Inverse of `tensors`."""
        return cls(**tensors)
