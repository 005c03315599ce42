"""What is tested: one bridge, what it claims to have, and inputs for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from unittest import SkipTest

import torch
from torch import Tensor

from bridges.errors import BadInput
from bridges.latent.label_ends import LabelEnds
from bridges.latent.latent_map import Layers, Reader
from bridges.latent.lens import Lens
from bridges.latent.trajectory import Trajectory
from bridges.processes.base import Cost, catalogue
from bridges.processes.gaussian import GaussianBridge

HIDDEN = 6
ROWS = torch.tensor([0, 1, 1, 0])
"""Four targets in two sequences."""


class Case:
    """The settings of a `bridges.testing.BridgeTestCase`, and what its tests are made of.

    Attributes:
        name: as in `bridges.get`.
        parameters: constructor arguments.
        extremes: further arguments, each on its own, at which costs must stay finite.
        law: whether it is a process; a control is not, nor is a cost about the label.
        joint: whether it has `covariance`.
        normal: whether its law is Gaussian.
        lens: whether a lens can read the states for it, beside the map of its own.
        times: inside (0, 1), increasing, where laws are looked at.
        samples: paths of the Monte Carlo tests.
        exact: relative tolerance between two ways to one number in float64.
        single: relative tolerance of a cost in float32 against float64.
    """

    name: ClassVar[str]
    parameters: ClassVar[Mapping[str, Any]] = {}
    extremes: ClassVar[Sequence[Mapping[str, Any]]] = ()
    law: ClassVar[bool] = True
    joint: ClassVar[bool] = True
    normal: ClassVar[bool] = True
    lens: ClassVar[bool] = True
    times: ClassVar[Sequence[float]] = (0.03, 0.2, 0.5, 0.77, 0.99)
    samples: ClassVar[int] = 20_000
    exact: ClassVar[float] = 1e-9
    single: ClassVar[float] = 1e-4

    @classmethod
    def setup_class(cls) -> None:
        """Refuse a case without a name, or of a bridge that is not there, before any of its tests."""
        if not hasattr(cls, "name"):
            raise BadInput(f"{cls.__name__} names no bridge: expected name = '...', as in bridges.get")
        catalogue.info(cls.name)

    def bridge(self, **changes: Any) -> Cost:
        """The bridge, with other parameters on top, in float64."""
        return catalogue.get(self.name, **{**self.parameters, **changes}).double()

    def process(self, **changes: Any) -> GaussianBridge:
        """The bridge as a process; a control's test is skipped."""
        if not self.law:
            raise SkipTest(f"{self.name} is declared to have no law")
        bridge = self.bridge(**changes)
        assert isinstance(bridge, GaussianBridge), f"{self.name} is no GaussianBridge: set law = False"
        return bridge

    def joint_process(self, **changes: Any) -> GaussianBridge:
        """The bridge as a process with a joint law, or the test is skipped."""
        if not self.joint:
            raise SkipTest(f"{self.name} is declared to have no covariance")
        self._check_joint()
        return self.process(**changes)

    def likelihoods(self) -> list[dict[str, str]]:
        """The constructor arguments of every likelihood that it has."""
        if not self.law:
            return [{}]
        if self.joint:
            self._check_joint()
        return [{"likelihood": "marginal"}, *([{"likelihood": "path"}] if self.joint else [])]

    def _check_joint(self) -> None:
        assert self.process().joint, (
            f"{self.name} has no covariance(s, t): define one, or say joint = False in "
            f"{type(self).__name__}"
        )

    def grid(self) -> Tensor:
        """The times, [T] in float64."""
        return torch.tensor(self.times, dtype=torch.float64)

    def dim(self, bridge: Cost) -> int:
        """A number of latent dimensions that its parameters allow."""
        return (bridge.dims if isinstance(bridge, GaussianBridge) else None) or 3

    def ends(self, bridge: Cost, *count: int, seed: int = 1) -> Tensor:
        """End points of unit length, [*count, d] in float64."""
        end = torch.randn(*count, self.dim(bridge), generator=rng(seed), dtype=torch.float64)
        return torch.nn.functional.normalize(end, dim=-1)

    def latent_map(self, bridge: Cost, *, normalise: bool = False) -> Layers:
        """The map of its cost, random, in float64 and frozen."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            latent_map = bridge.make_map(HIDDEN, (8, self.dim(bridge)))
        latent_map.normalises = normalise
        return latent_map.double().requires_grad_(False)

    def made_lens(self, bridge: Cost, states: int) -> Lens:
        """A lens for its cost, random, about a centre that is not 0, in float64 and frozen."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            lens = bridge.make_lens(states, HIDDEN, self.dim(bridge))
            lens.centre.normal_()
        return lens.double().requires_grad_(False)

    def readers(self, bridge: Cost, states: int) -> list[Reader]:
        """What its cost can be read with, for a model with so many layers' states."""
        maps = [self.latent_map(bridge, normalise=normalise) for normalise in (False, True)]
        return [*maps, *([self.made_lens(bridge, states)] if self.lens else [])]

    def labels(self, bridge: Cost) -> LabelEnds:
        """Three labels, the first of two words that are not as likely, in float64."""
        shares = torch.tensor([[0.25, 0.75], [1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
        return LabelEnds(self.ends(bridge, 3, 2, seed=2) * (shares > 0).unsqueeze(-1), shares.log())

    def trajectory(self, states: int, *, seed: int = 0) -> Trajectory:
        """Of a model with so many layers' states, in float64, leaves with a gradient."""
        shapes = (states, len(ROWS), HIDDEN), (states, 2, HIDDEN)
        draws = [torch.randn(s, generator=rng(seed), dtype=torch.float64) for s in shapes]
        return Trajectory(draws[0].requires_grad_(), draws[1].requires_grad_(), ROWS)


def rng(seed: int) -> torch.Generator:
    """A generator of its own for every draw."""
    return torch.Generator().manual_seed(seed)
