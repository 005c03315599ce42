"""Stochastic bridges as running costs for language models.

`get` builds a bridge by name, `RunningCost` turns it into a cost on hidden states, `GaussianBridge` is
what a new process subclasses.
"""

from bridges.base import Bridge
from bridges.brownian import BrownianBridge
from bridges.clock import ClockBridge
from bridges.controls import Control, Kinetic, Nothing, Regression
from bridges.errors import BadInput
from bridges.fit_loop import FitResult, FitSettings
from bridges.gaussian import GaussianBridge
from bridges.label_ends import LabelEnds
from bridges.latent import EndPoints, LatentMap
from bridges.model_spec import ModelSpec
from bridges.ou import OUBridge
from bridges.registry import BridgeInfo, available, get, info, parse
from bridges.running_cost import RunningCost
from bridges.sde import SDEBridge
from bridges.trajectory import Trajectory

__all__ = [
    "BadInput",
    "Bridge",
    "BridgeInfo",
    "BrownianBridge",
    "ClockBridge",
    "Control",
    "EndPoints",
    "FitResult",
    "FitSettings",
    "GaussianBridge",
    "Kinetic",
    "LabelEnds",
    "LatentMap",
    "ModelSpec",
    "Nothing",
    "OUBridge",
    "Regression",
    "RunningCost",
    "SDEBridge",
    "Trajectory",
    "available",
    "get",
    "info",
    "parse",
]
