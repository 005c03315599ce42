"""Stochastic bridges as running costs for language models.

`get` builds a bridge by name, `RunningCost` turns it into a cost on hidden states, `GaussianBridge` is
what a new process subclasses.
"""

from bridges.alpha import AlphaBridge
from bridges.base import Bridge
from bridges.brownian import BrownianBridge
from bridges.clock import ClockBridge
from bridges.controls import Control, Kinetic, Nothing, Regression
from bridges.errors import BadInput
from bridges.fit_settings import FitResult, FitSettings
from bridges.fitting import fit_together
from bridges.fractional import FractionalBridge
from bridges.gaussian import GaussianBridge
from bridges.gp import GPBridge, StationaryBridge
from bridges.label_ends import LabelEnds
from bridges.latent import EndPoints, LatentMap
from bridges.model_spec import ModelSpec
from bridges.ou import OUBridge
from bridges.random_end import RandomEndBridge
from bridges.registry import BridgeInfo, available, get, info, parse
from bridges.running_cost import RunningCost
from bridges.sde import SDEBridge
from bridges.smooth import SmoothBridge
from bridges.student import StudentBridge
from bridges.trajectory import Trajectory

__all__ = [
    "AlphaBridge",
    "BadInput",
    "Bridge",
    "BridgeInfo",
    "BrownianBridge",
    "ClockBridge",
    "Control",
    "EndPoints",
    "FitResult",
    "FitSettings",
    "FractionalBridge",
    "GPBridge",
    "GaussianBridge",
    "Kinetic",
    "LabelEnds",
    "LatentMap",
    "ModelSpec",
    "Nothing",
    "OUBridge",
    "RandomEndBridge",
    "Regression",
    "RunningCost",
    "SDEBridge",
    "SmoothBridge",
    "StationaryBridge",
    "StudentBridge",
    "Trajectory",
    "available",
    "fit_together",
    "get",
    "info",
    "parse",
]
