"""A cost on trajectories, and a process on [0, 1] that starts at 0 and ends at a given point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bridges.errors import BadInput, shown
from bridges.latent.label_ends import LabelEnds
from bridges.latent.latent_map import LatentMap, Layers, Reader
from bridges.latent.lens import Lens
from bridges.latent.trajectory import Trajectory
from bridges.processes.constants import of_one_word
from bridges.processes.evidence import Evidence
from bridges.processes.parameters import Learnable
from bridges.processes.snapshot import snapshot
from bridges.registry import Registry, constructor_defaults


def _place(cls: type, name: str) -> int:
    """How far up among a class's own and inherited ones an attribute is said."""
    return next(i for i, base in enumerate(cls.__mro__) if name in vars(base))


class Cost(nn.Module, ABC):
    """What a trajectory pays: it is read by a map, towards the end point of its label.

    A subclass that names itself, ``class Late(GaussianBridge, name="late")``, is registered and found
    by `bridges.get`. Every constructor argument must be kept as an attribute of the same name: that
    is how a cost is saved.
    """

    registered_name: ClassVar[str | None] = None
    formula: ClassVar[str] = ""
    purpose: ClassVar[str] = ""
    """What it is for, in a sentence or a few, for the gallery; names of parameters in backticks."""
    fits: ClassVar[bool] = True
    """Whether its cost has something to fit: a gradient to what `make_map` makes."""
    contrasts: ClassVar[bool] = False
    """Whether it needs to know what else a label might be: of targets that are tokens, the other words
    of a batch."""
    graphs: ClassVar[bool] = False
    """Whether its cost may be captured as a CUDA graph: made on the device alone, from its arguments and
    the bridge's own attributes, without looking at a number. A subclass with a cost of its own says so
    for itself."""

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        made = min(_place(cls, "cost"), _place(cls, "of_labels"))
        if made < _place(cls, "graphs"):  # what is said of one cost is not inherited by another
            cls.graphs = False
        cls.registered_name = name
        if name is not None:
            catalogue.register(name, cls)

    def graph_state(self) -> Hashable | None:
        """What a captured cost depends on beside the tensors that it is given; asked before each replay.

        Returns:
            None where the cost cannot be captured as it is now.
        """
        return snapshot(self) if self.graphs else None

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The constructor's arguments with their present values; a learned one to six digits."""
        values = {}
        for name in constructor_defaults(type(self)):
            kind = getattr(type(self), name, None)
            try:
                values[name] = kind.written(self) if isinstance(kind, Learnable) else getattr(self, name)
            except AttributeError as error:
                raise BadInput(
                    f"{type(self).__name__} has no attribute {name!r}: a constructor begins with "
                    f"super().__init__(**options) and keeps each argument under its own name, "
                    f"self.{name} = {name}, for a cost is saved by them"
                ) from error
        return values

    def verify(self, times: Tensor) -> None:
        """Called once, where a cost is made of it for a model.

        Args:
            times: float64 [L+1], of the model's layers.

        Raises:
            BadInput: for one that could not be saved, or has no law there.
        """
        _ = self.hyperparameters

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.hyperparameters.items() if value != "")

    @abstractmethod
    def cost(
        self,
        latent_map: Reader,
        trajectory: Trajectory,
        end: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The running cost of each token's trajectory, a mean over layers where layers are summed over.

        Args:
            latent_map: made by `make_map`, or `make_lens`.
            trajectory: of N tokens.
            end: [N, d] end points, or [K, N, d]: K of them for each token.
            generator: fixes the noise of a cost that draws any; the others take no notice of it. All K
                end points see the same noise.

        Returns:
            [N] or [K, N].
        """

    def by_layer(self, latent_map: Reader, trajectory: Trajectory, end: Tensor) -> Tensor | None:
        """What `cost` is the mean of over layers, [L+1, N], for end points [N, d]; None if none."""
        return None

    def evidence(self, t: Tensor) -> Evidence:
        """What the layers at times t [L], up to each of them, say of the end point.

        Raises:
            BadInput: for a cost that has no Gaussian law, under which a label would have a posterior.
        """
        raise BadInput(
            f"{self.registered_name or type(self).__name__!r} has no Gaussian law, so labels have no "
            "posterior under it: take the cost of a Gaussian bridge, such as 'brownian', or 'posterior' "
            "or 'axis'"
        )

    def terms(self, trajectory: Trajectory) -> int:
        """How many log-likelihoods `cost` is the mean of: 1 unless it is a mean over layers."""
        return 1

    def ends(self, labels: LabelEnds) -> LabelEnds:
        """Where trajectories of the labels end, in a `RunningCost`: at the labels' own words."""
        return labels

    def of_labels(
        self,
        latent_map: Reader,
        trajectory: Trajectory,
        answers: Tensor,
        labels: LabelEnds,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The running cost of each token's trajectory, given that it is one of some labels: [N].

        A label with several words is a mixture: with c_k the `cost` towards word k and n the `terms` of
        its mean, the cost is ``-log(sum_k weight_k exp(-n c_k)) / n``.

        Args:
            latent_map: as `cost`.
            trajectory: of N tokens.
            answers: int64 [N], each token's label.
            labels: where trajectories of each label end.
            generator: as `cost`.
        """
        words = self.ends(labels)
        if of_one_word(words):
            return self.cost(latent_map, trajectory, words.vectors[answers, 0], generator=generator)
        ends, log_weights = words(answers)
        costs = self.cost(latent_map, trajectory, ends, generator=generator)
        count = self.terms(trajectory)
        return -torch.logsumexp(log_weights.to(costs) - count * costs, 0) / count

    def make_map(self, hidden_size: int, widths: Sequence[int]) -> Layers:
        """The trainable map that `cost` reads the states with: g, unless the cost needs another.

        A cost or map that reads a trajectory itself reads ``latent_map.seen(trajectory)``.
        """
        return LatentMap(hidden_size, widths)

    def make_lens(self, num_states: int, hidden_size: int, dim: int) -> Lens:
        """The lens that `cost` reads the L+1 states with in the place of g.

        Raises:
            BadInput: if it can read them with nothing but a map of its own.
        """
        return Lens(num_states, hidden_size, dim)

    def mean_factor(self, t: Tensor) -> Tensor:
        """What a guess of the end point is multiplied by at times t [T] for a latent: [T] or [T, d]."""
        return torch.ones_like(t)


catalogue: Registry[Cost] = Registry(
    "bridge", group="bridges", home="bridges.processes", example="ou:theta=2,sigma=1"
)
"""Every process, and every cost that is none: `bridges.get` and its like."""


class Process(Cost):
    """A process pinned at 0 at t = 0 and at an end point at t = 1, in d independent dimensions."""

    @property
    def joint(self) -> bool:
        """Whether it has a joint law over several times, which `sample` draws from."""
        return True

    @abstractmethod
    def mean(self, t: Tensor, end: Tensor) -> Tensor:
        """Mean at times t [T] for end points [N, d]: [T, N, d].

        Raises:
            BadInput: for times outside [0, 1].
        """

    @abstractmethod
    def variance(self, t: Tensor) -> Tensor:
        """Variance of each dimension at times t [T]: [T].

        Raises:
            BadInput: for times outside [0, 1].
        """

    @abstractmethod
    def sample(self, t: Tensor, end: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Joint samples at increasing times t [T] for end points [N, d]: [T, N, d]."""

    @abstractmethod
    def log_prob(self, z: Tensor, t: Tensor, end: Tensor) -> Tensor:
        """Normalised log-density of z [T, N, d] at each time t [T] by itself: [T, N]."""


def check_times(t: Tensor) -> Tensor:
    """Times are a floating vector [T] in [0, 1]."""
    if (
        not isinstance(t, Tensor)
        or t.dim() != 1
        or not t.is_floating_point()
        or not ((t >= 0) & (t <= 1)).all()
    ):
        raise BadInput(f"times must be a floating vector [T] in [0, 1], got {t!r}")
    return t


def check_end(end: Tensor) -> Tensor:
    """End points are [N, d]."""
    if not isinstance(end, Tensor) or end.dim() != 2:
        got = tuple(end.shape) if isinstance(end, Tensor) else shown(end)
        raise BadInput(f"end points must be [N, d], got {got}")
    return end


def check_increasing(t: Tensor) -> None:
    """Times increase strictly."""
    if (t.diff() <= 0).any():
        raise BadInput(f"times must increase strictly, got {t.tolist()}")


def check_density(z: Tensor, t: Tensor, end: Tensor) -> None:
    """Times are inside (0, 1), where a pinned process has a density, and z is [T, N, d]."""
    check_times(t)
    check_end(end)
    if ((t <= 0) | (t >= 1)).any():
        raise BadInput(f"log_prob needs times inside (0, 1), got {t.tolist()}")
    if z.shape != (len(t), *end.shape):
        raise BadInput(f"z has shape {tuple(z.shape)}, expected {(len(t), *end.shape)}, [T, N, d]")
