"""Stochastic bridges as running costs for language models.

`get` builds a bridge by name, `RunningCost` turns it into a cost on hidden states, `GaussianBridge` is
what a new process subclasses.
"""

from bridges.cost.running_cost import RunningCost
from bridges.errors import BadInput
from bridges.fitting.settings import FitResult, FitSettings
from bridges.fitting.together import fit_together
from bridges.latent.label_ends import LabelEnds
from bridges.latent.latent_map import EndPoints, LatentMap
from bridges.latent.trajectory import Trajectory
from bridges.model.spec import ModelSpec
from bridges.processes.alpha import AlphaBridge
from bridges.processes.base import Bridge
from bridges.processes.brownian import BrownianBridge
from bridges.processes.clock import ClockBridge
from bridges.processes.controls import Control, Kinetic, Nothing, Regression
from bridges.processes.fractional import FractionalBridge
from bridges.processes.gaussian import GaussianBridge
from bridges.processes.gp import GPBridge, StationaryBridge
from bridges.processes.ou import OUBridge
from bridges.processes.random_end import RandomEndBridge
from bridges.processes.sde import SDEBridge
from bridges.processes.smooth import SmoothBridge
from bridges.processes.student import StudentBridge
from bridges.registry import BridgeInfo, available, get, info, parse

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
