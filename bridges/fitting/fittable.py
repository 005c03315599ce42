"""What can be fitted: a running cost, as the fit sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from bridges.latent.end_points import EndPoints
from bridges.latent.trajectory import Trajectory
from bridges.model.spec import ModelSpec
from bridges.processes.base import Cost


class Fittable(Protocol):
    """A running cost; `bridges.RunningCost` is one.

    Attributes:
        spec: of the model that it was made for.
        bridge: with the parameters that it learns.
        end_points: of the vocabulary.
        options: of its making; with "fit" False it is not to be fitted.
        fit_record: what it keeps of its fit.
    """

    spec: ModelSpec
    bridge: Cost
    end_points: EndPoints
    options: dict[str, Any]
    fit_record: dict[str, Any] | None

    @property
    def latent_map(self) -> nn.Module:
        """Fitted in place."""

    @property
    def __call__(self) -> Callable[..., Any]:
        """The cost of hidden states, targets and an attention mask: a scalar."""

    @property
    def positions(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Rows and columns [N] where targets [B, S] are read, given an attention mask."""

    @property
    def trajectory(self) -> Callable[..., tuple[Trajectory, Tensor]]:
        """What the cost reads of them: trajectories and tokens."""

    @property
    def of_trajectory(self) -> Callable[..., Tensor]:
        """The cost of each trajectory, [N]."""

    def check_model(self, model: nn.Module) -> None:
        """Refuse any other model than the one it was made for."""

    def digest(self) -> str:
        """A hash of everything the value depends on."""
